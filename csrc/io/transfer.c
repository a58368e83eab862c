/*
 * Reads and writes that go on until all is done. A short read says little about the file's end: a signal
 * may have ended it, the rest may not be in memory, and some kernels (5.9, 5.10) return too little, or
 * nothing, to those who don't wait. So a read ends when the buffers are full, at a pipe's or terminal's first
 * answer, or where nothing is left up to the size of the file.
 *
 * What comes through a pipe can't be given back. So whoever waits for it doesn't read, but polls, and reads
 * nothing once cancel has been asked for: what comes then is the next one's.
 */
#define _GNU_SOURCE
#include "io/io.h"

#include <errno.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

bool io_is_to_repeat(const struct io_wq_io *io, int64_t result)
{
	return result == -EINTR && !io_wq_work_cancelled(&io->work) && !io_wq_worker_cancelled();
}

int64_t io_outcome(const struct io_wq_io *io, int64_t error)
{
	bool is_whole = io->kind == IO_WQ_IO_READ_FILE || io->kind == IO_WQ_IO_WRITE_FILE;

	if (!error || (io->done && !is_whole))
		return (int64_t)io->done;
	return error == -EINTR ? -ECANCELED : error;
}

static bool end_with(struct io_wq_io *io, int64_t error)
{
	io->result = io_outcome(io, error);
	io->error = (int)-error;
	return true;
}

/* Returns the buffers that are not full; the first one's rest alone, if it is begun. */
static const struct iovec *rest_of(const struct io_wq_io *io, struct iovec *begun, unsigned *nr_buffers)
{
	const struct iovec *buffer = io->buffers ? io->buffers : &io->buffer;
	size_t skip = io->done;

	*nr_buffers = io->nr_buffers;
	for (; *nr_buffers && skip >= buffer->iov_len; buffer++, --*nr_buffers)
		skip -= buffer->iov_len;
	if (!skip)
		return buffer;
	*begun = (struct iovec){ (char *)buffer->iov_base + skip, buffer->iov_len - skip };
	*nr_buffers = 1;
	return begun;
}

static int64_t move_some(struct io_wq_io *io, int fd, int flags)
{
	int64_t offset = io->offset < 0 ? -1 : io->offset + (int64_t)io->done;
	struct iovec begun;
	unsigned count;
	const struct iovec *rest = rest_of(io, &begun, &count);

	if (io->kind == IO_WQ_IO_READ || io->kind == IO_WQ_IO_READ_FILE)
		return io_call_preadv(fd, rest, count, offset, flags);
	return io_call_pwritev(fd, rest, count, offset, flags);
}

/* Whether a read that got less than it wanted, or nothing, has got all that there is. */
static bool is_at_end(const struct io_wq_io *io, int fd, int64_t moved, bool waits)
{
	int64_t position = io->offset < 0 ? lseek(fd, 0, SEEK_CUR) : io->offset + (int64_t)io->done;
	struct stat status;

	if (waits && !moved)
		return true;
	if (fstat(fd, &status))
		return waits;
	if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
		return io->kind != IO_WQ_IO_READ_FILE;
	return S_ISREG(status.st_mode) && status.st_size && position >= status.st_size;
}

static bool is_cancelled(const struct io_wq_io *io)
{
	return io_wq_work_cancelled(&io->work) || io_wq_worker_cancelled();
}

/* Waits until a pipe, a terminal, a socket is ready for these events. Returns 0, or an error. */
static int64_t wait_for(const struct io_wq_io *io, int fd, short events)
{
	struct pollfd wanted = { .fd = fd, .events = events };

	if (!io_is_stream(io_file_look(fd).type))
		return 0;
	if (poll(&wanted, 1, -1) < 0)
		return -errno;
	return is_cancelled(io) ? -EINTR : 0;
}

/* As wait_for, after EAGAIN: the descriptor is a non-blocking one, and here is somebody who can wait. */
static int64_t wait_again(const struct io_wq_io *io, int fd, short events)
{
	if (!io_is_stream(io_file_look(fd).type))
		return -EAGAIN;
	return wait_for(io, fd, events);
}

/* As move_some, however long that takes. */
static int64_t wait_and_move(struct io_wq_io *io, int fd, bool writes)
{
	int64_t moved = writes ? 0 : wait_for(io, fd, POLLIN);

	if (moved)
		return moved;
	do
		moved = move_some(io, fd, 0);
	while (moved == -EAGAIN && !(moved = wait_again(io, fd, writes ? POLLOUT : POLLIN)));
	return moved;
}

bool io_transfer(struct io_wq_io *io, int fd, int flags)
{
	bool waits = !(flags & RWF_NOWAIT), writes = io->kind == IO_WQ_IO_WRITE || io->kind == IO_WQ_IO_WRITE_FILE;
	int64_t moved;

	do {
		moved = waits ? wait_and_move(io, fd, writes) : move_some(io, fd, flags);
		io->result = moved;
		if (!waits && (moved == -EAGAIN || moved == -EOPNOTSUPP || moved == -EINVAL || moved == -EINTR))
			return false; /* some file systems say EINVAL to who won't wait */
		if (io_is_to_repeat(io, moved))
			continue;
		if (moved < 0)
			return end_with(io, moved);
		io->done += (size_t)moved;
		if (io->done == io->length)
			return end_with(io, 0);
		if (writes && !moved)
			return end_with(io, -EIO); /* else it would go on for ever */
		if (!writes && is_at_end(io, fd, moved, waits))
			return end_with(io, 0);
	} while (waits || moved);
	return false;
}

static int64_t copy_some(struct io_wq_io *io)
{
	off_t in = io->offset + (off_t)io->done, out = io->other_offset + (off_t)io->done;
	off_t *in_offset = io->offset < 0 ? NULL : &in, *out_offset = io->other_offset < 0 ? NULL : &out;
	size_t length = io->length - io->done;

	if (io->kind == IO_WQ_IO_SEND)
		return io_result_of(sendfile(io->other_fd, io->fd, in_offset, length));
	return io_call_copy_file_range(io->fd, in_offset, io->other_fd, out_offset, length);
}

static int64_t wait_and_copy(struct io_wq_io *io)
{
	int64_t copied;

	do
		copied = copy_some(io);
	while (copied == -EAGAIN && !(copied = wait_again(io, io->other_fd, POLLOUT)));
	return copied;
}

int64_t io_copy(struct io_wq_io *io)
{
	int64_t copied = 1;

	while (io->done < io->length && copied) {
		copied = wait_and_copy(io);
		if (copied >= 0)
			io->done += (size_t)copied;
		else if (!io_is_to_repeat(io, copied))
			break;
	}
	return io_outcome(io, copied < 0 ? copied : 0);
}
