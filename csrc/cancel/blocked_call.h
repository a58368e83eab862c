/* The system call that a thread is blocked in, and changing what it returns.
 * Whatever depends on the processor stands in arch_*.c. */
#ifndef IO_WQ_BLOCKED_CALL_H
#define IO_WQ_BLOCKED_CALL_H

#include "io_wq.h"

#include <stdbool.h>
#include <stdint.h>

struct io_blocked_call {
	long nr;
	unsigned long args[6], sp, pc;
};

/* ---- blocked_call.c */
int io_blocked_call_open(int tid);
bool io_blocked_call_read(int fd, struct io_blocked_call *call);

/* ---- syscalls.c */
bool io_blocked_call_is_interruptible(const struct io_blocked_call *call);
bool io_blocked_call_is_wait(const struct io_blocked_call *call);
bool io_blocked_call_times_out(const struct io_blocked_call *call);
bool io_blocked_call_is_nap(const struct io_blocked_call *call);
int io_blocked_call_descriptor(const struct io_blocked_call *call);
void io_blocked_call_describe(const struct io_blocked_call *call,
			      struct io_wq_blocked_call *description);

/* ---- caller_unwind.c, caller_stack.c */
enum { IO_CALLER_CUT_OFF_OR_TRUSTED = IO_WQ_CALLER_NAPS + 1 }; /* beside enum io_wq_caller */
int io_caller_of(const struct io_blocked_call *call);
bool io_callers_can_be_found(void);

/* ---- arch_*.c */
/* Whether the interrupted context is the return of this very call with EINTR. */
bool io_arch_is_interrupted(const void *ucontext, const struct io_blocked_call *call);
/* Makes that call return -error instead: 0 too. */
void io_arch_set_error(void *ucontext, int error);
bool io_arch_is_known(void);

#endif
