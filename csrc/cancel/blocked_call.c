/*
 * The system call that a thread is blocked in, as the kernel tells it in
 * /proc/self/task/TID/syscall: "NR A0 .. A5 SP PC", "running", or "-1 SP PC"
 * where it is blocked outside of a call.
 */
#define _GNU_SOURCE
#include "cancel/blocked_call.h"
#include "io_wq.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
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

int io_wq_get_blocked_call(int tid, struct io_wq_blocked_call *call)
{
	struct io_blocked_call blocked;
	int fd = io_blocked_call_open(tid);
	bool is_blocked;

	if (fd < 0)
		return fd;
	is_blocked = io_blocked_call_read(fd, &blocked);
	close(fd);
	if (!is_blocked)
		return 0;
	call->nr = blocked.nr;
	memcpy(call->args, blocked.args, sizeof(call->args));
	io_blocked_call_describe(&blocked, call);
	return 1;
}
