/* System calls that not each C library has, and what calls return. */
#define _GNU_SOURCE
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437 /* on every architecture */
#endif
#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20
#endif

/* linux/openat2.h's open_how, which newer C libraries declare. */
struct how_to_open {
	uint64_t flags, mode, resolve;
};

int64_t io_result_of(long returned)
{
	return returned < 0 ? -errno : returned;
}

int64_t io_close(int fd)
{
	return close(fd) && errno != EINTR ? -errno : 0;
}

/* The offset is given in two halves; the upper one is of no use in 64 bits. */
int64_t io_call_preadv(int fd, const struct iovec *buffers, unsigned nr_buffers, int64_t offset, int flags)
{
	return io_result_of(syscall(SYS_preadv2, fd, buffers, nr_buffers, offset < 0 ? -1 : offset, 0, flags));
}

int64_t io_call_pwritev(int fd, const struct iovec *buffers, unsigned nr_buffers, int64_t offset, int flags)
{
	return io_result_of(syscall(SYS_pwritev2, fd, buffers, nr_buffers, offset < 0 ? -1 : offset, 0, flags));
}

int64_t io_call_copy_file_range(int in_fd, off_t *in_offset, int out_fd, off_t *out_offset, size_t length)
{
	return io_result_of(syscall(SYS_copy_file_range, in_fd, in_offset, out_fd, out_offset, length, 0));
}

int io_call_open_cached(int folder, const char *path, int flags)
{
	struct how_to_open how = { .flags = (unsigned)flags, .resolve = RESOLVE_CACHED };

	return (int)io_result_of(syscall(SYS_openat2, folder, path, &how, sizeof(how)));
}
