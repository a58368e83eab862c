/* Which system calls cancel may end, and what each of them waits for. */
#define _GNU_SOURCE
#include "cancel/blocked_call.h"
#include "io_wq.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>

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

/* Fills in its name and has_descriptor. */
void io_blocked_call_describe(const struct io_blocked_call *call,
			      struct io_wq_blocked_call *description)
{
	int index = index_of(call);

	description->name = io_blocked_call_is_wait(call) ? "futex" : NULL;
	if (index >= 0)
		description->name = interruptible[index].name;
	description->has_descriptor = index >= 0 && interruptible[index].has_descriptor;
}
