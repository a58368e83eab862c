/* Whole files: opened, read or written, and closed, as one operation. */
#define _GNU_SOURCE
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { WITHOUT_SIZE = 4096 }; /* what is read at first of a pipe, or of /proc's files */

/* Makes room for so many bytes in all. */
static bool grow(struct io_wq_io *io, size_t capacity)
{
	void *data = realloc(io->data, capacity);

	if (!data)
		return false;
	io->data = data;
	io->buffer = (struct iovec){ data, capacity };
	io->nr_buffers = 1;
	io->length = capacity;
	return true;
}

static void drop_data(struct io_wq_io *io)
{
	free(io->data);
	io->data = NULL;
	io->done = 0;
}

bool io_read_all(struct io_wq_io *io, int fd, int64_t size, int flags)
{
	size_t capacity = size > 0 ? (size_t)size : WITHOUT_SIZE;
	bool is_over;

	io->offset = -1;
	do {
		if (!grow(io, capacity)) {
			io->result = -ENOMEM;
			is_over = true;
			break;
		}
		is_over = io_transfer(io, fd, flags);
		capacity *= 2;
	} while (is_over && io->result == (int64_t)io->length && size <= 0);
	if (!is_over || io->result < 0)
		drop_data(io);
	return is_over;
}

int64_t io_read_file(struct io_wq_io *io)
{
	int fd = openat(io->fd, io->path, io->flags);
	struct stat status;

	if (fd < 0)
		return -errno;
	io_file_learn(fd);
	if (fstat(fd, &status))
		io->result = -errno;
	else
		io_read_all(io, fd, status.st_size, 0);
	close(fd);
	return io->result;
}

int64_t io_write_file(struct io_wq_io *io)
{
	int fd = openat(io->fd, io->path, io->flags, io->mode);
	int64_t error;

	if (fd < 0)
		return -errno;
	io_transfer(io, fd, 0);
	error = io_close(fd);
	return io->result < 0 || !error ? io->result : error;
}
