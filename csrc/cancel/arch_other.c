/* Other processors: a cancelled work's system calls return EINTR, no more. */
#if !defined(__x86_64__) && !defined(__aarch64__)
#include "cancel/blocked_call.h"

bool io_arch_is_interrupted(const void *ucontext, const struct io_blocked_call *call)
{
	(void)ucontext, (void)call;
	return false;
}

void io_arch_set_error(void *ucontext, int error)
{
	(void)ucontext, (void)error;
}

bool io_arch_is_known(void)
{
	return false;
}
#else
typedef int io_arch_of_this_processor_is_known;
#endif
