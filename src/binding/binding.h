/* Works that call Python objects. Between the core, which knows no Python, and
 * the package, which sees these declarations through cffi. Python objects are
 * passed as their addresses, id(object). All calls hold the GIL; those that may
 * wait say so, and release it meanwhile.
 *
 * Only the limited API is used, but for what trace.c and hooks.c say: one build serves every
 * later CPython. */
#ifndef IOWQ_BINDING_H
#define IOWQ_BINDING_H

#include "io_wq.h"

struct iowq_thread;

/* The memory belongs to the Work object that `object` is. */
struct iowq_work {
	struct io_wq_work work;
	uintptr_t object;
	uintptr_t key; /* of hashed work */
	int key_held;  /* whether it is counted among its key's works */
	int ended;     /* atomic: its state is final, and worker is set */
	uint32_t worker; /* the number of the thread that ended it: see gil.h */
	int taken;     /* the queue has, or had, it */
	int waited;    /* until a full queue admits it, and it is its turn */
	struct iowq_thread *thread; /* that runs it, or NULL */
	int64_t started; /* CLOCK_MONOTONIC_COARSE, ns; 0: not yet */
};

/* The package's functions that are called for works and threads: run(work) and
 * drop(work), which return the state that the work ends in; publish(work, state), for
 * works that are shared; thread_started(name: str), thread_ended(); initialize(executor)
 * -> bool, before a thread's first work: whether it may run; and admit(token), the core's
 * hook. Two states; and the list that takes what signals' handlers raised in drop and
 * publish. All are kept for ever, for the whole process: returns 0, and takes none, in
 * any interpreter but the main one. */
int iowq_set_objects(uintptr_t run, uintptr_t drop, uintptr_t publish, uintptr_t finished,
		      uintptr_t cancelled, uintptr_t deferred, uintptr_t thread_started,
		      uintptr_t thread_ended, uintptr_t initialize, uintptr_t admit);

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

/* io_wq_enqueue; io_wq_enqueue_hashed if key isn't 0. flags: IO_WQ_WORK_*. The queue holds
 * a reference to object until run or drop, and publish, have returned. */
int iowq_enqueue(struct io_wq *wq, struct iowq_work *work, uintptr_t object, uintptr_t key,
		 unsigned flags);

/* Sets work._shared, if it is still None, in one step: from then on the work's end is
 * published. Returns 0, or -1 without memory. */
int iowq_share(uintptr_t object, uintptr_t shared);

/* Takes the first of a list of callbacks off it and calls it with object, in one step that
 * no signal's handler can come between. What it raises is appended to errors, a list. */
void iowq_call_first(uintptr_t callbacks, uintptr_t object, uintptr_t errors);

/* Hands an exception to sys.unraisablehook. context: where it comes from. */
void iowq_report(uintptr_t error, uintptr_t context);

/* Waits a moment for a work that may be about to end, without the GIL; the caller checks
 * whether it has. */
void iowq_watch(struct iowq_work *work);

/* io_wq_worker_await, for a work that may have ended. */
int iowq_await(struct iowq_work *work);

/* io_wq_work_cancelled */
int iowq_cancelled(struct iowq_work *work);

/* Cancels all work of one key. Returns what io_wq_cancel_cb does. */
enum io_wq_cancel iowq_cancel_key(struct io_wq *wq, uintptr_t key);

/* io_wq_cancel_work */
enum io_wq_cancel iowq_cancel(struct io_wq *wq, struct iowq_work *work);

/* The package's functions that end Python code (safepoint.c): may_raise(work, event, offset,
 * target, computing_ms, tracks) -> bool, inject(work, injecting_ms, serial) and disarm(work); what is
 * raised; a function that does nothing; and whether safepoints are a trace function's. */
void iowq_set_injection(uintptr_t may_raise, uintptr_t inject, uintptr_t disarm,
			 uintptr_t cancelled, uintptr_t probe, int uses_trace);

/* Appends to a list the functions that sys.monitoring is to call at the beginning of a
 * function, at a jump, and at an instruction. Returns 0, or -1 without memory. */
int iowq_get_callbacks(uintptr_t list);

/* Arms the work's thread: at its safepoints it asks whether to raise there. frame: the one on
 * top of it; used if safepoints are a trace function's. Returns 0 if the work doesn't run. */
int iowq_arm(struct iowq_work *work, uintptr_t frame);

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

/* io_wq_give_notice, for a work that may have ended. */
void iowq_give_notice(struct iowq_work *work, int given);

/* Baseline, of which each thread makes one before its first work, and whose restore() is
 * called after works that have changed the thread (baseline.c); sys.gettrace and
 * sys.getprofile. And a function (the n-th) that changes it otherwise. */
void iowq_set_baseline(uintptr_t baseline, uintptr_t get_tracer, uintptr_t get_profiler);
int iowq_hook_change(int n, uintptr_t function, const char *name);

/* io_wq_claim_work */
int iowq_claim(struct iowq_work *work);

/* A number that no other work of this process has, of the work that the calling thread
 * runs; 0: none. */
int64_t iowq_serial(void);

/* To be called in a forked child. */
void iowq_after_fork(void);

/* Appends to a list the frame on top of the work's thread, if the work runs. Returns 0, or
 * -1 without memory. */
int iowq_get_frame(struct iowq_work *work, uintptr_t list);

/* Append to a list (thread id, Work or None, cancelled, shielded) of each worker, or of
 * each pending work, with what is a worker's left 0. Return 0, or -1 without memory. */
int iowq_get_workers(struct io_wq *wq, uintptr_t list);
int iowq_get_pending(struct io_wq *wq, uintptr_t list);

/* io_wq_flush_wait and io_wq_stop, which wait. */
int iowq_flush_wait(struct io_wq_flush *flush, int timeout_ms);
int iowq_stop(struct io_wq *wq, int timeout_ms);

/* Sets dict[key] = new (0: deletes it) if it is old (0: isn't there), and then also
 * work->key_held, in one step that no other thread or signal's handler can come
 * between. key: an int; old and new: kept alive by the caller. Returns 1 if it
 * was, 0 if not, -1 without memory. */
int iowq_dict_swap(uintptr_t dict, uintptr_t key, uintptr_t old, uintptr_t new_,
		   struct iowq_work *work, int key_held);

#endif
