/* aarch64: how an interrupted system call looks in a signal's context. */
#ifdef __aarch64__
#define _GNU_SOURCE
#include "cancel/blocked_call.h"

#include <errno.h>
#include <ucontext.h>

/* The result takes the place of the first argument in X0; X8 still holds the
 * call's number, and X1 to X5 the other arguments. */
bool io_arch_is_interrupted(const void *ucontext, const struct io_blocked_call *call)
{
	const mcontext_t *context = &((const ucontext_t *)ucontext)->uc_mcontext;
	const uint32_t *pc = (const uint32_t *)context->pc;

	if (context->pc != call->pc || context->sp != call->sp ||
	    context->regs[8] != (unsigned long)call->nr || (long)context->regs[0] != -EINTR)
		return false;
	for (int i = 1; i < 6; i++)
		if (context->regs[i] != call->args[i])
			return false;
	return pc[-1] == 0xd4000001; /* svc #0 */
}

void io_arch_set_error(void *ucontext, int error)
{
	((ucontext_t *)ucontext)->uc_mcontext.regs[0] = (unsigned long)-(long)error;
}

bool io_arch_is_known(void)
{
	return true;
}
#else
typedef int io_arch_aarch64_is_not_this_processor;
#endif
