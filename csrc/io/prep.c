/* Preparing operations: which system call, with what. */
#define _GNU_SOURCE
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static void prepare(struct io_wq_io *io, enum io_wq_io_kind kind, int fd)
{
	memset(io, 0, sizeof(*io));
	INIT_IO_WORK(&io->work, io_run);
	io->kind = kind;
	io->fd = fd;
	io->result = -EINPROGRESS;
}

/* buffer: is only written to by reads. */
static void prepare_one(struct io_wq_io *io, enum io_wq_io_kind kind, int fd, void *buffer, size_t length,
			int64_t offset)
{
	prepare(io, kind, fd);
	io->buffer = (struct iovec){ buffer, length };
	io->nr_buffers = 1;
	io->length = length;
	io->offset = offset;
}

static void prepare_many(struct io_wq_io *io, enum io_wq_io_kind kind, int fd, const struct iovec *buffers,
			 unsigned nr_buffers, int64_t offset)
{
	prepare(io, kind, fd);
	io->buffers = buffers;
	io->nr_buffers = nr_buffers;
	for (unsigned i = 0; i < nr_buffers; i++)
		io->length += buffers[i].iov_len;
	io->offset = offset;
}

void io_wq_prep_pread(struct io_wq_io *io, int fd, void *buffer, size_t length, int64_t offset)
{
	prepare_one(io, IO_WQ_IO_READ, fd, buffer, length, offset);
}

void io_wq_prep_preadv(struct io_wq_io *io, int fd, const struct iovec *buffers, unsigned nr_buffers,
		       int64_t offset)
{
	prepare_many(io, IO_WQ_IO_READ, fd, buffers, nr_buffers, offset);
}

void io_wq_prep_pwrite(struct io_wq_io *io, int fd, const void *buffer, size_t length, int64_t offset)
{
	prepare_one(io, IO_WQ_IO_WRITE, fd, (void *)buffer, length, offset);
}

void io_wq_prep_pwritev(struct io_wq_io *io, int fd, const struct iovec *buffers, unsigned nr_buffers,
			int64_t offset)
{
	prepare_many(io, IO_WQ_IO_WRITE, fd, buffers, nr_buffers, offset);
}

static void prepare_path(struct io_wq_io *io, enum io_wq_io_kind kind, int folder, const char *path, int flags)
{
	prepare(io, kind, folder);
	io->path = path;
	io->flags = flags;
}

void io_wq_prep_openat(struct io_wq_io *io, int folder, const char *path, int flags, mode_t mode)
{
	prepare_path(io, IO_WQ_IO_OPEN, folder, path, flags);
	io->mode = mode;
}

void io_wq_prep_close(struct io_wq_io *io, int fd)
{
	prepare(io, IO_WQ_IO_CLOSE, fd);
}

void io_wq_prep_fstatat(struct io_wq_io *io, int folder, const char *path, struct stat *status, int flags)
{
	prepare_path(io, IO_WQ_IO_STAT, folder, path, flags);
	io->status = status;
}

void io_wq_prep_fsync(struct io_wq_io *io, int fd)
{
	prepare(io, IO_WQ_IO_SYNC, fd);
}

void io_wq_prep_fdatasync(struct io_wq_io *io, int fd)
{
	prepare(io, IO_WQ_IO_SYNC, fd);
	io->flags = O_DSYNC;
}

void io_wq_prep_fallocate(struct io_wq_io *io, int fd, int mode, int64_t offset, int64_t length)
{
	prepare(io, IO_WQ_IO_ALLOCATE, fd);
	io->flags = mode;
	io->offset = offset;
	io->other_offset = length;
}

void io_wq_prep_ftruncate(struct io_wq_io *io, int fd, int64_t length)
{
	prepare(io, IO_WQ_IO_TRUNCATE, fd);
	io->offset = length;
}

void io_wq_prep_renameat(struct io_wq_io *io, int old_folder, const char *old_path, int new_folder,
			 const char *new_path)
{
	prepare_path(io, IO_WQ_IO_RENAME, old_folder, old_path, 0);
	io->other_fd = new_folder;
	io->other_path = new_path;
}

void io_wq_prep_unlinkat(struct io_wq_io *io, int folder, const char *path, int flags)
{
	prepare_path(io, IO_WQ_IO_UNLINK, folder, path, flags);
}

static void prepare_copy(struct io_wq_io *io, enum io_wq_io_kind kind, int in_fd, int64_t in_offset, int out_fd,
			 int64_t out_offset, size_t length)
{
	prepare(io, kind, in_fd);
	io->offset = in_offset;
	io->other_fd = out_fd;
	io->other_offset = out_offset;
	io->length = length;
}

void io_wq_prep_copy_file_range(struct io_wq_io *io, int in_fd, int64_t in_offset, int out_fd,
				int64_t out_offset, size_t length)
{
	prepare_copy(io, IO_WQ_IO_COPY_RANGE, in_fd, in_offset, out_fd, out_offset, length);
}

void io_wq_prep_sendfile(struct io_wq_io *io, int out_fd, int in_fd, int64_t in_offset, size_t length)
{
	prepare_copy(io, IO_WQ_IO_SEND, in_fd, in_offset, out_fd, -1, length);
}

void io_wq_prep_read_file(struct io_wq_io *io, int folder, const char *path)
{
	prepare_path(io, IO_WQ_IO_READ_FILE, folder, path, O_RDONLY | O_CLOEXEC);
}

void io_wq_prep_write_file(struct io_wq_io *io, int folder, const char *path, const void *buffer,
			   size_t length, int flags, mode_t mode)
{
	prepare_one(io, IO_WQ_IO_WRITE_FILE, folder, (void *)buffer, length, -1);
	io->path = path;
	io->flags = flags | O_WRONLY | O_CREAT | O_CLOEXEC;
	io->mode = mode;
}
