/*
 * I/O works: operations on files that run on an io_wq, and know of no interpreter.
 *
 * What Linux' first io-wq was made for, "an even faster async execution": try the call where you
 * are; only if it would wait, a worker takes it over.
 *
 *	struct io_wq_io io;
 *
 *	io_wq_prep_pread(&io, fd, buffer, sizeof(buffer), 0);
 *	if (!io_wq_try_io(&io))
 *		error = io_wq_enqueue_io(wq, &io, NULL);
 *
 * The functions that prepare an operation have liburing's names and order of arguments. All of
 * what they are given stays the caller's, and must stay valid until the operation has
 * completed: when io_wq_try_io returns 1, or else when the queue gives the work's memory back (see
 * struct io_wq_work). Then result is what the system call returns, or a negative errno.
 */
#ifndef IO_WQ_IO_H
#define IO_WQ_IO_H

#include "io_wq.h"

#include <sys/stat.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum io_wq_io_kind {
	IO_WQ_IO_READ,
	IO_WQ_IO_WRITE,
	IO_WQ_IO_OPEN,
	IO_WQ_IO_CLOSE,
	IO_WQ_IO_STAT,
	IO_WQ_IO_SYNC,
	IO_WQ_IO_ALLOCATE,
	IO_WQ_IO_TRUNCATE,
	IO_WQ_IO_RENAME,
	IO_WQ_IO_UNLINK,
	IO_WQ_IO_COPY_RANGE,
	IO_WQ_IO_SEND,
	IO_WQ_IO_READ_FILE,
	IO_WQ_IO_WRITE_FILE,
};

/* An operation. Its fields are set by io_wq_prep_*; an owner reads work, data and result. */
struct io_wq_io {
	struct io_wq_work work;
	enum io_wq_io_kind kind;
	int fd, other_fd; /* also the folder that a path starts from */
	const char *path, *other_path;
	int64_t offset, other_offset; /* < 0: the file's position */
	const struct iovec *buffers;  /* NULL: the one at buffer */
	unsigned nr_buffers;
	struct iovec buffer;
	struct stat *status;
	size_t length; /* bytes to be moved, in all */
	size_t done;   /* bytes that have been moved */
	int flags;
	mode_t mode;
	void *data;      /* of io_wq_prep_read_file: what the file holds, for the owner to free(); or NULL */
	int64_t result;  /* -EINPROGRESS: not yet done */
	int error;       /* of a read or write: the errno for which it has moved less than it should, or 0 */
	uint32_t *link;  /* set by the owner: see below; or NULL */
};

/*
 * Linked operations, as with IOSQE_IO_LINK: they have a pointer to one number in common, which is 0 at
 * first, and a key, so that they are done in order. One that fails, or writes less than it should, breaks the
 * link: it sets the number, atomically, and those after it do nothing; their error is ECANCELED.
 */

/* ---- preparing: nothing is done yet. offset < 0: the file's position, which moves. A stream is waited for even if
 * its descriptor is a non-blocking one */

/* Reads until the buffers are full or the file ends; of what is no file on a disk, what is there. */
void io_wq_prep_pread(struct io_wq_io *io, int fd, void *buffer, size_t length, int64_t offset);
void io_wq_prep_preadv(struct io_wq_io *io, int fd, const struct iovec *buffers, unsigned nr_buffers,
		       int64_t offset);
/* Writes all. After an error the result is what was written before, if that is any. */
void io_wq_prep_pwrite(struct io_wq_io *io, int fd, const void *buffer, size_t length, int64_t offset);
void io_wq_prep_pwritev(struct io_wq_io *io, int fd, const struct iovec *buffers, unsigned nr_buffers,
			int64_t offset);

/* The result is a descriptor. A cancelled one closes what it has opened. */
void io_wq_prep_openat(struct io_wq_io *io, int folder, const char *path, int flags, mode_t mode);
/* Closes even if it is cancelled. */
void io_wq_prep_close(struct io_wq_io *io, int fd);
/* path "" with AT_EMPTY_PATH among the flags: of the descriptor. */
void io_wq_prep_fstatat(struct io_wq_io *io, int folder, const char *path, struct stat *status, int flags);
void io_wq_prep_fsync(struct io_wq_io *io, int fd);
void io_wq_prep_fdatasync(struct io_wq_io *io, int fd);
void io_wq_prep_fallocate(struct io_wq_io *io, int fd, int mode, int64_t offset, int64_t length);
void io_wq_prep_ftruncate(struct io_wq_io *io, int fd, int64_t length);
void io_wq_prep_renameat(struct io_wq_io *io, int old_folder, const char *old_path, int new_folder,
			 const char *new_path);
/* flags: AT_REMOVEDIR, or 0. */
void io_wq_prep_unlinkat(struct io_wq_io *io, int folder, const char *path, int flags);
/* Until length bytes are copied or the file ends. */
void io_wq_prep_copy_file_range(struct io_wq_io *io, int in_fd, int64_t in_offset, int out_fd,
				int64_t out_offset, size_t length);
void io_wq_prep_sendfile(struct io_wq_io *io, int out_fd, int in_fd, int64_t in_offset, size_t length);

/* One work each: open, read all, close; and open, write all, close. */
void io_wq_prep_read_file(struct io_wq_io *io, int folder, const char *path);
/* flags: of open, beside O_WRONLY | O_CREAT: O_TRUNC, O_APPEND or O_EXCL, say. */
void io_wq_prep_write_file(struct io_wq_io *io, int folder, const char *path, const void *buffer,
			   size_t length, int flags, mode_t mode);

/* ---- doing */

/*
 * Does the operation on the calling thread, if that needs no wait: the bytes are in memory, at most a megabyte,
 * and the path is known to the kernel. Never of a stream, which others may wait for already. Returns 1: it has completed. 0: it might wait; enqueue it. Some of the bytes
 * may have been moved by then; the work moves the rest.
 */
int io_wq_try_io(struct io_wq_io *io);

/* Does it on the calling thread, however long that takes; inside a work of any queue it is announced
 * (io_wq_worker_sleeping), and cancel ends it. */
void io_wq_do_io(struct io_wq_io *io);

/* A key that reads, or writes, of the same stream (a pipe, a terminal, a socket) have in common, by
 * whatever descriptors; 0: it is no stream. */
uint64_t io_wq_stream_key(const struct io_wq_io *io);

/*
 * Enqueues it. key: that of io_wq_enqueue_hashed; NULL: that of the stream, if it is one, so that
 * its reads are done one after the other, and its writes. Streams are unbounded work. To open a FIFO is not: who does
 * waits, as a bounded worker, for the other end. A cancelled operation's result is -ECANCELED, unless it had
 * completed, or moved bytes; a read takes nothing of a stream any more. Errors: those of io_wq_enqueue.
 */
int io_wq_enqueue_io(struct io_wq *wq, struct io_wq_io *io, void *key);

#ifdef __cplusplus
}
#endif
#endif
