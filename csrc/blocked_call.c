/*
 * The system call that a thread is blocked in, as the kernel tells it in
 * /proc/self/task/TID/syscall: "NR A0 .. A5 SP PC", "running", or "-1 SP PC"
 * where it is blocked outside of a call.
 */
#define _GNU_SOURCE
#include "blocked_call.h"
#include "io_wq.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
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
#define FD(call) { SYS_##call, #call, 1 }
#define CALL(call) { SYS_##call, #call, 0 }
static const struct {
	long nr;
	const char *name;
	int has_descriptor; /* as its first argument */
} interruptible[] = {
	FD(read), FD(readv), FD(pread64), FD(preadv),
	FD(write), FD(writev), FD(pwrite64), FD(pwritev),
	FD(recvfrom), FD(recvmsg), FD(recvmmsg), FD(sendto), FD(sendmsg), FD(sendmmsg),
	FD(accept), FD(accept4), FD(connect),
	CALL(ppoll), CALL(pselect6), FD(epoll_pwait),
	CALL(wait4), CALL(waitid),
	CALL(nanosleep), CALL(clock_nanosleep),
	FD(flock), CALL(openat), FD(fcntl),
	CALL(msgrcv), CALL(msgsnd), CALL(semop), CALL(semtimedop),
	CALL(rt_sigtimedwait), FD(mq_timedsend), FD(mq_timedreceive),
	FD(sendfile), FD(splice),
#ifdef SYS_preadv2 /* from Linux 4.6 on */
	FD(preadv2), FD(pwritev2),
#endif
#ifdef SYS_epoll_pwait2 /* from Linux 5.11 on */
	FD(epoll_pwait2),
#endif
#ifdef SYS_open /* not on processors that came later */
	CALL(open), CALL(poll), CALL(select), FD(epoll_wait),
#endif
};

/* Returns the index of the call in the table above, or -1. */
static int index_of(const struct io_blocked_call *call)
{
	if (call->nr == SYS_fcntl && call->args[1] != F_SETLKW && call->args[1] != F_OFD_SETLKW)
		return -1;
	for (unsigned i = 0; i < sizeof(interruptible) / sizeof(interruptible[0]); i++)
		if (interruptible[i].nr == call->nr)
			return (int)i;
	return -1;
}

/* Whether this call may be made to return an error that it doesn't document. */
bool io_blocked_call_is_interruptible(const struct io_blocked_call *call)
{
	return index_of(call) >= 0;
}

/* Whether this call waits for a lock or the like. */
bool io_blocked_call_is_wait(const struct io_blocked_call *call)
{
	return call->nr == SYS_futex;
}

/* Whether this call has a time limit, so that its caller expects a time-out: of a poll,
 * or of a wait for a lock. */
bool io_blocked_call_times_out(const struct io_blocked_call *call)
{
	int command = (int)call->args[1] & FUTEX_CMD_MASK;

	if (call->nr == SYS_futex)
		return (command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET) && call->args[3];
#ifdef SYS_poll
	if (call->nr == SYS_poll)
		return (int)call->args[2] >= 0;
#endif
	return call->nr == SYS_ppoll && call->args[2];
}

/* Whether this call only lets time pass. */
bool io_blocked_call_is_nap(const struct io_blocked_call *call)
{
	return call->nr == SYS_nanosleep || call->nr == SYS_clock_nanosleep;
}

/* The descriptor that this call, which the calling thread has made, waits for; or -1. */
int io_blocked_call_descriptor(const struct io_blocked_call *call)
{
	int index = index_of(call);
	bool polls = call->nr == SYS_ppoll;

#ifdef SYS_poll
	polls |= call->nr == SYS_poll;
#endif
	if (polls)
		return call->args[1] == 1 ? ((const struct pollfd *)call->args[0])->fd : -1;
	return index >= 0 && interruptible[index].has_descriptor ? (int)call->args[0] : -1;
}

int io_wq_get_blocked_call(int tid, struct io_wq_blocked_call *call)
{
	struct io_blocked_call blocked;
	int fd = io_blocked_call_open(tid), index;
	bool is_blocked;

	if (fd < 0)
		return fd;
	is_blocked = io_blocked_call_read(fd, &blocked);
	close(fd);
	if (!is_blocked)
		return 0;
	index = index_of(&blocked);
	call->nr = blocked.nr;
	memcpy(call->args, blocked.args, sizeof(call->args));
	call->name = index < 0 ? (io_blocked_call_is_wait(&blocked) ? "futex" : NULL)
			       : interruptible[index].name;
	call->has_descriptor = index >= 0 && interruptible[index].has_descriptor;
	return 1;
}

unsigned io_wq_cancel_support(void)
{
	int fd = io_blocked_call_open((int)syscall(SYS_gettid));
	char text[8];
	unsigned can = 0;

	if (fd >= 0) {
		if (pread(fd, text, sizeof(text), 0) > 0)
			can |= IO_WQ_CAN_SEE_CALLS;
		close(fd);
	}
	if (io_arch_is_known())
		can |= IO_WQ_CAN_END_CALLS;
	if (io_call_sites_can_be_found())
		can |= IO_WQ_CAN_FIND_CALLERS;
	return can;
}
