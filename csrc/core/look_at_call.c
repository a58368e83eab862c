/* What a thread is blocked in, for people to read. */
#define _GNU_SOURCE
#include "core/watch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What a descriptor leads to; another thread may close it any time. */
static void read_target(unsigned long fd, char *target, size_t size)
{
	char path[64];
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/self/fd/%lu", fd);
	length = readlink(path, target, size - 1);
	snprintf(target + (length > 0 ? length : 0), size - (length > 0 ? (size_t)length : 0), "%s",
		 length > 0 ? "" : "?");
}

static void write_call(const struct io_wq_blocked_call *call, char *text, size_t size)
{
	char target[80];

	if (!call->name)
		snprintf(text, size, "system call %ld", call->nr);
	else if (!strcmp(call->name, "futex"))
		snprintf(text, size, "a wait for a lock (futex)");
	else if (!call->has_descriptor)
		snprintf(text, size, "%s()", call->name);
	else {
		read_target(call->args[0], target, sizeof(target));
		snprintf(text, size, "%s(fd=%lu -> %s)", call->name, call->args[0], target);
	}
}

void io_look_at_call(int tid, char *text, size_t size)
{
	struct io_wq_blocked_call call;

	if (io_wq_get_blocked_call(tid, &call) == 1)
		write_call(&call, text, size);
}
