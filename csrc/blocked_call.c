/*
 * The system call that a thread is blocked in, as the kernel tells it in
 * /proc/self/task/TID/syscall: "NR A0 .. A5 SP PC", "running", or "-1 SP PC"
 * where it is blocked outside of a call.
 */
#define _GNU_SOURCE
#include "blocked_call.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Returns a descriptor for io_blocked_call_read, or -errno. */
int io_blocked_call_open(int tid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Returns whether the thread is blocked in a call, which call then describes. */
bool io_blocked_call_read(int fd, struct io_blocked_call *call)
{
	char text[256];
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);
	unsigned long *args = call->args;

	if (length <= 0)
		return false;
	text[length] = '\0';
	return sscanf(text, "%ld %lx %lx %lx %lx %lx %lx %lx %lx", &call->nr, &args[0], &args[1],
		      &args[2], &args[3], &args[4], &args[5], &call->sp, &call->pc) == 9 &&
	       call->nr >= 0;
}

/* Calls that may fail at any time, and whose callers therefore look at errno.
 * futex is not among them, and must never be: glibc aborts on an error that it
 * doesn't know, or would take a lock for its own that isn't. */
static const long interruptible[] = {
	SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_preadv2,
	SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_pwritev2,
	SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_sendto, SYS_sendmsg, SYS_sendmmsg,
	SYS_accept, SYS_accept4, SYS_connect,
	SYS_ppoll, SYS_pselect6, SYS_epoll_pwait, SYS_epoll_pwait2,
	SYS_wait4, SYS_waitid,
	SYS_nanosleep, SYS_clock_nanosleep,
	SYS_flock, SYS_openat,
	SYS_msgrcv, SYS_msgsnd, SYS_semop, SYS_semtimedop,
	SYS_rt_sigtimedwait, SYS_mq_timedsend, SYS_mq_timedreceive,
	SYS_sendfile, SYS_splice,
#ifdef SYS_open /* not on processors that came later */
	SYS_open, SYS_poll, SYS_select, SYS_epoll_wait,
#endif
};

/* Whether this call may be made to return an error that it doesn't document. */
bool io_blocked_call_is_interruptible(const struct io_blocked_call *call)
{
	if (call->nr == SYS_fcntl)
		return call->args[1] == F_SETLKW || call->args[1] == F_OFD_SETLKW;
	for (unsigned i = 0; i < sizeof(interruptible) / sizeof(interruptible[0]); i++)
		if (interruptible[i] == call->nr)
			return true;
	return false;
}
