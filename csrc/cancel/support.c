/* What cancel can do on this machine. */
#define _GNU_SOURCE
#include "cancel/blocked_call.h"
#include "io_wq.h"

#include <sys/syscall.h>
#include <unistd.h>

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
	if (io_callers_can_be_found())
		can |= IO_WQ_CAN_FIND_CALLERS;
	return can;
}
