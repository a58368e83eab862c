/*
 * Operations tried where the caller is. What is not known to need no wait is left to a worker:
 *
 * - Streams are left to workers, since others may wait for them already.
 * - A read is asked not to wait (RWF_NOWAIT). Files that don't know that (overlay's, tmpfs') are read if
 *   what is wanted is in memory.
 * - A path is looked up in what the kernel has of it in memory (RESOLVE_CACHED), and the file is opened if it
 *   is a regular one or a folder of a file system that asks nobody: a FIFO's open waits, and to open
 *   it only to look would be seen by its other end.
 * - Writes are buffered by memory's own file systems and those that take RWF_NOWAIT.
 *
 * A read of what is not in memory starts the disk's work before it says EAGAIN, which mostly takes 10 us, but one in a
 * hundred takes a millisecond. So a thread tries COLD_MAX of them in each WINDOW, and no more.
 */
#define _GNU_SOURCE
#include "core/futex.h"
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

#define WINDOW (2 * NSEC_PER_MSEC)
enum {
	COLD_MAX = 64,
	WHOLE_MAX = 1 << 20, /* bytes that are copied here at once; more would take too long */
};

static __thread long long window_begin;
static __thread unsigned cold; /* tries in this window of what was not in memory */

static bool is_window_over(void)
{
	return monotonic_ns() - window_begin > WINDOW;
}

static bool may_try(void)
{
	return cold < COLD_MAX || is_window_over();
}

static void note_cold(void)
{
	if (!cold || is_window_over()) {
		window_begin = monotonic_ns();
		cold = 0;
	}
	cold++;
}

/* Reads what is in memory: true when it has completed. As io_transfer. */
static bool read_in_memory(struct io_wq_io *io, int fd)
{
	struct io_file file;
	size_t left;

	if (io_transfer(io, fd, RWF_NOWAIT))
		return true;
	if (io->result != -EOPNOTSUPP)
		return false;
	file = io_file_look(fd);
	left = io->length - io->done;
	if (file.type != S_IFREG)
		return false;
	if (file.file_system == IO_FS_LOCAL) {
		int64_t begin = io->offset < 0 ? lseek(fd, 0, SEEK_CUR) : io->offset + (int64_t)io->done;

		return io_is_resident(fd, begin, left) && io_transfer(io, fd, 0);
	}
	return file.file_system == IO_FS_MEMORY && io_transfer(io, fd, 0);
}

/* What may be moved in place: not too much, and nothing of a stream, which has no offsets. */
static bool is_for_here(const struct io_wq_io *io)
{
	if (io->length > WHOLE_MAX)
		return false;
	return io->offset >= 0 || !io_is_stream(io_file_look(io->fd).type);
}

static bool try_read(struct io_wq_io *io, int fd)
{
	if (!may_try() || !is_for_here(io))
		return false;
	if (read_in_memory(io, fd))
		return true;
	note_cold();
	return false;
}

static bool try_write(struct io_wq_io *io)
{
	struct io_file file;

	if (!is_for_here(io))
		return false;
	if (io_transfer(io, io->fd, RWF_NOWAIT))
		return true;
	if (io->result != -EOPNOTSUPP)
		return false;
	file = io_file_look(io->fd);
	return file.type == S_IFREG && file.file_system == IO_FS_MEMORY && io_transfer(io, io->fd, 0);
}

static bool asks_nobody(const struct io_file *file)
{
	return file->file_system == IO_FS_LOCAL || file->file_system == IO_FS_MEMORY;
}

/* Opens what the path names without using it, and looks. */
static int look_at(int folder, const char *path, int flags, struct io_file *file)
{
	int fd = io_call_open_cached(folder, path, O_PATH | O_CLOEXEC | (flags & (O_NOFOLLOW | O_DIRECTORY)));

	if (fd >= 0)
		*file = io_file_look(fd);
	return fd;
}

/* Of the errors of a lookup in memory, those that waiting would not change. */
static bool is_answer(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -EACCES || error == -ELOOP ||
	       error == -ENAMETOOLONG || error == -EBADF;
}

/* Opens a regular file or folder of a file system that asks nobody, as non-blocking: whatever takes its place
 * meanwhile is not waited for, either. file: what was looked at. */
static int open_seen(int folder, const char *path, int flags, struct io_file *file)
{
	int fd;

	if (flags & (O_CREAT | O_TRUNC | O_PATH | O_TMPFILE) & ~O_DIRECTORY)
		return -EAGAIN;
	fd = look_at(folder, path, flags, file);
	if (fd < 0)
		return is_answer(fd) ? fd : -EAGAIN;
	close(fd);
	if (!asks_nobody(file) || (file->type != S_IFREG && file->type != S_IFDIR))
		return -EAGAIN;
	fd = io_call_open_cached(folder, path, flags | O_NONBLOCK);
	return fd < 0 && !is_answer(fd) ? -EAGAIN : fd;
}

int io_open_in_place(int folder, const char *path, int flags, struct io_file *file)
{
	int fd = open_seen(folder, path, flags, file);

	if (fd < 0)
		return fd;
	*file = io_file_look(fd);
	if (!(flags & O_NONBLOCK))
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	if (file->type == S_IFREG || file->type == S_IFDIR)
		return fd;
	close(fd);
	return -EAGAIN;
}

static bool try_open(struct io_wq_io *io)
{
	struct io_file file;

	io->result = io_open_in_place(io->fd, io->path, io->flags, &file);
	return io->result != -EAGAIN;
}

static bool try_stat(struct io_wq_io *io)
{
	bool of_descriptor = !*io->path && io->flags & AT_EMPTY_PATH;
	int flags = io->flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0, fd = io->fd;
	struct io_file file;
	bool knows;

	if (of_descriptor && fd < 0)
		fd = -EBADF;
	else if (of_descriptor)
		file = io_file_look(fd);
	else
		fd = look_at(io->fd, io->path, flags, &file);
	if (fd < 0) {
		io->result = fd;
		return is_answer(fd);
	}
	knows = asks_nobody(&file);
	if (knows)
		io->result = io_result_of(fstat(fd, io->status));
	if (!of_descriptor)
		close(fd);
	return knows;
}

/* What was only read is closed at once, unless it is the last of a file without a name. */
static bool try_close(struct io_wq_io *io)
{
	struct io_file file = io_file_look(io->fd);
	int flags = fcntl(io->fd, F_GETFL);
	struct stat status;

	if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY || file.type != S_IFREG || !asks_nobody(&file))
		return false;
	if (fstat(io->fd, &status) || !status.st_nlink)
		return false;
	io->result = io_close(io->fd);
	return true;
}

static bool try_sync(struct io_wq_io *io)
{
	struct io_file file = io_file_look(io->fd);

	io->result = 0;
	return file.type == S_IFREG && file.file_system == IO_FS_MEMORY;
}

/* Reads a small file that is in memory, if it is the one that was looked at. */
static bool try_read_all(struct io_wq_io *io, int fd, const struct io_file *seen)
{
	struct stat status;

	if (fstat(fd, &status) || !S_ISREG(status.st_mode) || io_identity_of(&status) != seen->identity)
		return false;
	if (status.st_size > WHOLE_MAX || status.st_size <= 0)
		return false;
	if (io_read_all(io, fd, status.st_size, RWF_NOWAIT))
		return true;
	if (io->result != -EOPNOTSUPP || !io_is_resident(fd, 0, (size_t)status.st_size))
		return false;
	return io_read_all(io, fd, status.st_size, 0);
}

static bool try_read_file(struct io_wq_io *io)
{
	struct io_file seen;
	bool is_read;
	int fd;

	if (!may_try())
		return false;
	fd = open_seen(io->fd, io->path, io->flags, &seen);
	if (fd < 0) {
		io->result = fd;
		return fd != -EAGAIN;
	}
	is_read = try_read_all(io, fd, &seen);
	close(fd);
	if (!is_read)
		note_cold();
	return is_read;
}

static bool try_kind(struct io_wq_io *io)
{
	switch (io->kind) {
	case IO_WQ_IO_READ:
		return try_read(io, io->fd);
	case IO_WQ_IO_WRITE:
		return try_write(io);
	case IO_WQ_IO_OPEN:
		return try_open(io);
	case IO_WQ_IO_CLOSE:
		return try_close(io);
	case IO_WQ_IO_STAT:
		return try_stat(io);
	case IO_WQ_IO_SYNC:
		return try_sync(io);
	case IO_WQ_IO_READ_FILE:
		return try_read_file(io);
	default:
		return false;
	}
}

int io_wq_try_io(struct io_wq_io *io)
{
	if (io_is_unlinked(io))
		return 1;
	if (!try_kind(io))
		return 0;
	io_keep_link(io);
	return 1;
}
