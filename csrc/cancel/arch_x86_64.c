/* x86-64: how an interrupted system call looks in a signal's context. */
#ifdef __x86_64__
#define _GNU_SOURCE
#include "cancel/blocked_call.h"

#include <errno.h>
#include <sys/syscall.h>
#include <ucontext.h>

/*
 * `syscall` leaves the address behind itself in RCX: RCX == RIP says that this frame is a
 * system call's return. But where exceptions and system calls are delivered by FRED, RCX
 * is as it was before; there the instruction, the result in RAX, and the arguments in
 * their registers say it. Which it is, one call tells: it is asked once, at the start.
 */
static bool keeps_rcx;

__attribute__((constructor)) static void see_what_becomes_of_rcx(void)
{
	register unsigned long rcx __asm__("rcx") = ~0UL; /* no address of code */
	long result = SYS_getpid;

	__asm__ volatile("syscall" : "+a"(result), "+r"(rcx) : : "r11", "memory");
	keeps_rcx = rcx == ~0UL;
}

bool io_arch_is_interrupted(const void *ucontext, const struct io_blocked_call *call)
{
	const greg_t *regs = ((const ucontext_t *)ucontext)->uc_mcontext.gregs;
	static const int argument[6] = { REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9 };
	const unsigned char *pc = (const unsigned char *)regs[REG_RIP];

	if ((unsigned long)regs[REG_RIP] != call->pc || (unsigned long)regs[REG_RSP] != call->sp ||
	    (!keeps_rcx && regs[REG_RCX] != regs[REG_RIP]) || regs[REG_RAX] != -EINTR)
		return false;
	for (int i = 0; i < 6; i++)
		if ((unsigned long)regs[argument[i]] != call->args[i])
			return false;
	return pc[-2] == 0x0f && pc[-1] == 0x05; /* syscall */
}

void io_arch_set_error(void *ucontext, int error)
{
	((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RAX] = -error;
}

bool io_arch_is_known(void)
{
	return true;
}
#else
typedef int io_arch_x86_64_is_not_this_processor;
#endif
