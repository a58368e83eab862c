/* Operations on a worker: the system call, announced as one that may wait. */
#define _GNU_SOURCE
#include "core/list.h"
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* Nobody would close what a cancelled operation has opened. */
static int64_t open_file(struct io_wq_io *io)
{
	int fd = openat(io->fd, io->path, io->flags, io->mode);

	if (fd < 0)
		return -errno;
	io_file_learn(fd);
	if (!io_wq_work_cancelled(&io->work))
		return fd;
	close(fd);
	return -ECANCELED;
}

/* Looks the path up once, for both. */
static int64_t stat_and_learn(struct io_wq_io *io)
{
	int fd = openat(io->fd, io->path, O_PATH | O_CLOEXEC | (io->flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0));
	int64_t result;

	if (fd < 0)
		return -errno;
	result = io_result_of(fstat(fd, io->status));
	io_file_learn(fd);
	close(fd);
	return result;
}

static int64_t stat_file(struct io_wq_io *io)
{
	int64_t result;

	if (!(io->flags & ~AT_SYMLINK_NOFOLLOW))
		return stat_and_learn(io);
	result = io_result_of(fstatat(io->fd, io->path, io->status, io->flags));
	if (!*io->path && io->fd >= 0)
		io_file_learn(io->fd);
	return result;
}

static int64_t sync_file(struct io_wq_io *io)
{
	int64_t result = io_result_of(io->flags & O_DSYNC ? fdatasync(io->fd) : fsync(io->fd));

	io_file_learn(io->fd);
	return result;
}

static int64_t transfer(struct io_wq_io *io)
{
	io_transfer(io, io->fd, 0);
	io_file_learn(io->fd);
	return io->result;
}

static int64_t call_once(struct io_wq_io *io)
{
	switch (io->kind) {
	case IO_WQ_IO_READ:
	case IO_WQ_IO_WRITE:
		return transfer(io);
	case IO_WQ_IO_OPEN:
		return open_file(io);
	case IO_WQ_IO_CLOSE:
		return io_close(io->fd);
	case IO_WQ_IO_STAT:
		return stat_file(io);
	case IO_WQ_IO_SYNC:
		return sync_file(io);
	case IO_WQ_IO_ALLOCATE:
		return io_result_of(fallocate(io->fd, io->flags, io->offset, io->other_offset));
	case IO_WQ_IO_TRUNCATE:
		return io_result_of(ftruncate(io->fd, io->offset));
	case IO_WQ_IO_RENAME:
		return io_result_of(renameat(io->fd, io->path, io->other_fd, io->other_path));
	case IO_WQ_IO_UNLINK:
		return io_result_of(unlinkat(io->fd, io->path, io->flags));
	case IO_WQ_IO_COPY_RANGE:
	case IO_WQ_IO_SEND:
		return io_copy(io);
	case IO_WQ_IO_READ_FILE:
		return io_read_file(io);
	case IO_WQ_IO_WRITE_FILE:
		return io_write_file(io);
	}
	return -EINVAL;
}

void io_wq_do_io(struct io_wq_io *io)
{
	io_wq_worker_sleeping();
	do
		io->result = call_once(io);
	while (io_is_to_repeat(io, io->result));
	io_wq_worker_running();
	if (io->result == -EINTR)
		io->result = -ECANCELED;
}

static void skip(struct io_wq_io *io, int error)
{
	io->error = error;
	io->result = io_outcome(io, -error);
}

bool io_is_unlinked(struct io_wq_io *io)
{
	if (!io->link || !__atomic_load_n(io->link, __ATOMIC_ACQUIRE))
		return false;
	skip(io, ECANCELED);
	return true;
}

void io_keep_link(const struct io_wq_io *io)
{
	if (io->link && (io->result < 0 || (io->kind == IO_WQ_IO_WRITE && io->done < io->length)))
		__atomic_store_n(io->link, 1, __ATOMIC_RELEASE);
}

/* One that was cancelled before it started does nothing, unless it is to close a descriptor. */
void io_run(struct io_wq_work **work)
{
	struct io_wq_io *io = container_of(*work, struct io_wq_io, work);

	if (io_wq_work_cancelled(*work) && io->kind != IO_WQ_IO_CLOSE)
		skip(io, io->work.error ? io->work.error : ECANCELED);
	else if (!io_is_unlinked(io))
		io_wq_do_io(io);
	io_keep_link(io);
}

/* Odd, as no pointer is; the bit above it tells reads from writes. */
uint64_t io_wq_stream_key(const struct io_wq_io *io)
{
	bool transfers = io->kind == IO_WQ_IO_READ || io->kind == IO_WQ_IO_WRITE || io->kind == IO_WQ_IO_SEND;
	struct io_file file;

	if (!transfers)
		return 0;
	file = io_file_look(io->kind == IO_WQ_IO_SEND ? io->other_fd : io->fd);
	return io_is_stream(file.type) ? file.identity << 2 | (io->kind == IO_WQ_IO_READ) << 1 | 1 : 0;
}

int io_wq_enqueue_io(struct io_wq *wq, struct io_wq_io *io, void *key)
{
	uint64_t stream = io_wq_stream_key(io);

	if (stream) {
		io->work.flags |= IO_WQ_WORK_UNBOUND;
		if (!key)
			return io_wq_enqueue_hashed(wq, &io->work, (void *)(uintptr_t)stream);
	}
	return key ? io_wq_enqueue_hashed(wq, &io->work, key) : io_wq_enqueue(wq, &io->work);
}
