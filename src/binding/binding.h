/* Works that call Python objects. Between the core, which knows no Python, and
 * the package, which sees these declarations through cffi. Python objects are
 * passed as their addresses, id(object); work: a Work's. All calls hold the GIL; those that may
 * wait say so, and release it meanwhile.
 *
 * Only the limited API is used, but for what trace.c and hooks.c say: one build serves every
 * later CPython. */
#ifndef IOWQ_BINDING_H
#define IOWQ_BINDING_H

#include "io_wq.h"

/* Appends the binding's types to a list: those of _types.py; or an exception: they are made in the main interpreter only. They are kept for ever. */
void iowq_get_types(uintptr_t list);

/* callbacks: the module with the objects that struct iowq_package names, which are kept for ever.
 * Returns 0, or -1, and the exception is reported. */
int iowq_set_objects(uintptr_t callbacks);

/* io_wq_create for works that call Python, on threads with stacks of the size that
 * threading.stack_size() has set. insists: data.cancel_insists. token: given to
 * admit. */
struct io_wq *iowq_create(unsigned concurrency, unsigned unbounded, unsigned max_pending,
			  const char *name, unsigned idle_timeout_ms, int cancel_signal,
			  int insists, uintptr_t token);

/* Appends to a list what puts the queue (io_wq_put) when it is freed. No finalizer does
 * that: among garbage, others would still use the queue after it. Returns 0, or -1 without
 * memory, and the queue is put. */
int iowq_own(struct io_wq *wq, uintptr_t list);

/* Sets work._shared, if it is still None, in one step: from then on the work's end is
 * published. */
void iowq_share(uintptr_t work, uintptr_t shared);

/* Takes the first of a list of callbacks off it and calls it with object, in one step that
 * no signal's handler can come between. What it raises is appended to errors, a list. */
void iowq_call_first(uintptr_t callbacks, uintptr_t object, uintptr_t errors);

/* Hands an exception to sys.unraisablehook. context: where it comes from. */
void iowq_report(uintptr_t error, uintptr_t context);

/* Waits a moment for a work that may be about to end, without the GIL; the caller checks
 * whether it has. */
void iowq_watch(uintptr_t work);

/* io_wq_worker_await, for a work that may have ended. */
int iowq_await(uintptr_t work);

/* Appends to a list the Work that the calling thread runs, if it does. */
void iowq_get_current(uintptr_t list);

/* io_wq_cancel_work, io_wq_cancel_all, io_wq_cancel_pending */
enum io_wq_cancel iowq_cancel(struct io_wq *wq, uintptr_t work);
void iowq_cancel_all(struct io_wq *wq);
void iowq_cancel_pending(struct io_wq *wq);

/* At exit: waits until all operations on files have completed, without the GIL; those that might wait for
 * ever are cancelled. Returns 0 or a negative errno, as io_wq_flush. */
int iowq_finish_operations(void);

/* Whether any thread is in one of these: a work may be off its queue, and not have ended yet. */
int iowq_is_cancelling(void);

/* The package's functions that end Python code (safepoint.c): may_raise(work, event, offset,
 * target, computing_ms, tracks) -> bool, inject(work, injecting_ms, serial) and disarm(work); a
 * function that does nothing; and whether safepoints are a trace function's. */
void iowq_set_injection(uintptr_t may_raise, uintptr_t inject, uintptr_t disarm,
			 uintptr_t probe, int uses_trace);

/* Appends to a list what the calling work, which was claimed, is to be ended with: an exception or its
 * class. */
void iowq_get_interruption(uintptr_t list);

/* The queue whose guests threads are that run no work (lending.c). */
void iowq_set_lender(struct io_wq *wq);
/* id() of the frame that the calling thread, while it is such a guest, was made one for; 0: none. */
uintptr_t iowq_get_base(void);
/* Looks how threads' tracers are set, on a thread that has none; once, before there are guests. */
void iowq_find_tracer(void);

/* Appends to a list the functions that sys.monitoring is to call at the beginning of a
 * function, at a jump, and at an instruction. Returns 0, or -1 without memory. */
int iowq_get_callbacks(uintptr_t list);

/* Arms the work's thread: at its safepoints it asks whether to raise there. Returns 0 if the work
 * doesn't run. */
int iowq_arm(uintptr_t work);

/* Whether a tracer's function, or a tool's of sys.monitoring, runs on the calling thread. */
int iowq_callback_is_running(void);

/* Hooks (waits.c) on the waits of the types of locks, of SimpleQueue, and of threads'
 * handles (0: there is none), whose time-outs are False and queue.Empty. join: the code of
 * the function that waits for a thread by its lock (0: there is none). may_leave(work,
 * primitive, is_timed, refused_ms) is asked what a wait that is to end may end with: an
 * exception's class, False (its time is up) or None (it goes on). What can't be
 * hooked is as it was: cancel_support() finds out. */
void iowq_hook_waits(uintptr_t lock, uintptr_t rlock, uintptr_t queue, uintptr_t handle,
		     uintptr_t empty, uintptr_t join, uintptr_t may_leave);

/* The same (tls.c) for _ssl._SSLSocket. Returns whether it could be done. */
int iowq_hook_tls(uintptr_t type);

/* The same (blocking_calls.c) for the n-th of the calls that may block: a method of a type,
 * or a function of a module. call_ended(object) is told of the object whose method cancel has ended; what it
 * returns, unless None, is the call's result. Returns whether it could be done. */
int iowq_hook_call(int n, uintptr_t owner, const char *name, uintptr_t call_ended);

/* io_wq_give_notice, for a work that may have ended; serial: its iowq_serial(). */
void iowq_give_notice(uintptr_t work, int64_t serial, int given);

/* Baseline, of which each thread makes one before its first work, and whose restore() is
 * called after works that have changed the thread (baseline.c); sys.gettrace and
 * sys.getprofile. And a function (the n-th) that changes it otherwise. */
void iowq_set_baseline(uintptr_t baseline, uintptr_t get_tracer, uintptr_t get_profiler);
int iowq_hook_change(int n, uintptr_t function, const char *name);

/* io_wq_claim_work */
int iowq_claim(uintptr_t work);

/* A number that no other work of this process has, of the work that the calling thread
 * runs; 0: none. */
int64_t iowq_serial(void);

/* To be called in a forked child. */
void iowq_after_fork(void);

/* When the work was started, CLOCK_MONOTONIC_COARSE, ns; 0: it doesn't run. */
int64_t iowq_started(uintptr_t work);

/* stack.c: appends to a list the Python stack of the work's thread at one instant, if the work runs:
 * (code, line) of each frame, from the innermost on. Returns 0, or -1 without memory. */
int iowq_get_stack(uintptr_t work, uintptr_t list);

/* What describes objects of a type: a str, or another callable, that each of them has in its memory. */
enum iowq_part { IOWQ_PART_NAME, IOWQ_PART_MODULE, IOWQ_PART_TARGET, IOWQ_PART_TEXT };
/* Says that part is one of sample's, an object of that type. */
void iowq_learn_part(uintptr_t sample, uintptr_t part_object, enum iowq_part part);
/* io_wq_let_watch, for works that call Python. Returns 0, or -1 without memory. */
int iowq_let_watch(void);

/* Append to a list (thread id, Work or None, cancelled, shielded) of each worker, or of
 * each pending work, with what is a worker's left 0. Return 0, or -1 without memory. */
int iowq_get_workers(struct io_wq *wq, uintptr_t list);
int iowq_get_pending(struct io_wq *wq, uintptr_t list);

/* io_wq_flush_wait and io_wq_stop, which wait. */
int iowq_flush_wait(struct io_wq_flush *flush, int timeout_ms);
int iowq_stop(struct io_wq *wq, int timeout_ms);

#endif
