/* What the files of the I/O works share. Errors are negative errnos. */
#ifndef IO_WQ_IO_INTERNAL_H
#define IO_WQ_IO_INTERNAL_H

#include "io_wq_io.h"

#include <stdbool.h>

/* ---- calls.c: system calls and their results */

/* What a system call has returned, as a result. */
int64_t io_result_of(long returned);
/* Closes it; a signal doesn't keep the kernel from that. */
int64_t io_close(int fd);
/* flags: of preadv2. */
int64_t io_call_preadv(int fd, const struct iovec *buffers, unsigned nr_buffers, int64_t offset, int flags);
int64_t io_call_pwritev(int fd, const struct iovec *buffers, unsigned nr_buffers, int64_t offset, int flags);
/* An offset of NULL: the descriptor's position. */
int64_t io_call_copy_file_range(int in_fd, off_t *in_offset, int out_fd, off_t *out_offset, size_t length);
/* openat, if the kernel has the whole path in memory; else -EAGAIN. -ENOSYS: it can't tell. */
int io_call_open_cached(int folder, const char *path, int flags);

/* ---- file_systems.c: who is asked when a file is used */

enum io_file_system {
	IO_FS_UNKNOWN,
	IO_FS_MEMORY, /* tmpfs: all is in memory */
	IO_FS_LOCAL,  /* the kernel's page cache, and a disk */
	IO_FS_OTHER,  /* another machine, a process: each use of it may wait */
};

struct io_file {
	unsigned type; /* S_IFMT of its mode; 0: unknown */
	uint64_t identity; /* its own, as far as is known */
	enum io_file_system file_system;
};

/* Looks without waiting, whatever file it is: what the kernel remembers. */
struct io_file io_file_look(int fd);
/* As an io_file has it. */
uint64_t io_identity_of(const struct stat *status);
/* Asks the file's system what it is, and remembers it. May wait. */
void io_file_learn(int fd);

/* Whether files of this type are streams: pipes, terminals, sockets. */
bool io_is_stream(unsigned type);

/* ---- resident.c */

/* Whether so many bytes at this offset, up to the file's end, are in the page cache. No, too, if it
 * can't be told. */
bool io_is_resident(int fd, int64_t offset, size_t length);

/* ---- transfer.c: reads and writes that go on until all is done */

/* Returns true when it has completed, with the result set. With RWF_NOWAIT among the flags false: the
 * next call might wait; the result is what the last one said. */
bool io_transfer(struct io_wq_io *io, int fd, int flags);
/* Copies between two files until all is done: returns the result. */
int64_t io_copy(struct io_wq_io *io);
/* Whether a call is to be repeated that returned this: a signal came that was not cancel's. */
bool io_is_to_repeat(const struct io_wq_io *io, int64_t result);
/* What was moved, or else the error; of a whole file the error, if there is one. */
int64_t io_outcome(const struct io_wq_io *io, int64_t error);

/* ---- whole_file.c */

/* Reads an open file of this size until its end. As io_transfer. */
bool io_read_all(struct io_wq_io *io, int fd, int64_t size, int flags);
int64_t io_read_file(struct io_wq_io *io);
int64_t io_write_file(struct io_wq_io *io);

/* ---- in_place.c */

/* Returns a descriptor of a regular file or folder, or an error; -EAGAIN: it might wait. */
int io_open_in_place(int folder, const char *path, int flags, struct io_file *file);

/* ---- run.c */

/* A work's func. */
void io_run(struct io_wq_work **work);
/* Whether an operation before it has broken its link; then it has completed. */
bool io_is_unlinked(struct io_wq_io *io);
/* Breaks the link of one that has completed, if it has failed. */
void io_keep_link(const struct io_wq_io *io);

#endif
