/* The system call that a thread is blocked in, and changing what it returns.
 * Whatever depends on the processor stands in arch_*.c. */
#ifndef IO_WQ_BLOCKED_CALL_H
#define IO_WQ_BLOCKED_CALL_H

#include <stdbool.h>
#include <stdint.h>

struct io_blocked_call {
	long nr;
	unsigned long args[6], sp, pc;
};

/* ---- blocked_call.c */
int io_blocked_call_open(int tid);
bool io_blocked_call_read(int fd, struct io_blocked_call *call);
bool io_blocked_call_is_interruptible(const struct io_blocked_call *call);
bool io_blocked_call_is_wait(const struct io_blocked_call *call);
bool io_blocked_call_times_out(const struct io_blocked_call *call);
bool io_blocked_call_is_nap(const struct io_blocked_call *call);
int io_blocked_call_descriptor(const struct io_blocked_call *call);

/* ---- call_site.c */
void io_call_sites_refresh(void);
void io_call_sites_fork(bool before);
enum io_wq_caller io_call_site_caller(const struct io_blocked_call *call);
bool io_call_sites_can_be_found(void);

/* ---- arch_*.c */
/* Whether the interrupted context is the return of this very call with EINTR. */
bool io_arch_is_interrupted(const void *ucontext, const struct io_blocked_call *call);
/* Makes that call return -error instead: 0 too. */
void io_arch_set_error(void *ucontext, int error);
bool io_arch_is_known(void);

#endif
