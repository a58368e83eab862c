/* See safepoint.c. All functions hold the GIL. */
#ifndef IOWQ_SAFEPOINT_H
#define IOWQ_SAFEPOINT_H

#include <Python.h>
#include <stdbool.h>

#include "io_wq.h"
#include "binding.h"

struct iowq_limits;
struct iowq_work;

typedef int (*iowq_trace_function)(PyObject *context, PyObject *frame, int event, PyObject *arg);

/* A trace function as a thread has it. */
struct iowq_tracer {
	iowq_trace_function function;
	PyObject *object;
};

/* A worker's thread, as far as its Python code can be interrupted. Its own, but for what others get at
 * through the work that it runs: work->thread, with that work's lock held (locks.h). The end of the
 * work takes that lock, too, so the thread is there until then. */
struct iowq_thread {
	PyThreadState *state;
	int64_t serial;          /* of the work among all of the process; others read it, too */
	struct iowq_work *work;  /* that it runs, borrowed; NULL: none */
	int64_t started;         /* of the work: see iowq_started; others read it, too */
	int armed;               /* atomic: it asks at each safepoint whether to raise there */
	PyObject *tracks;        /* a dict: where its frames were since it was armed, or NULL */
	struct iowq_tracer tracer; /* its own, that trace.c's stands in for */
	PyObject *by_opcode;     /* a dict: frames that send opcodes for trace.c alone, or NULL */
	int disarm_failed;       /* for want of stack: it is done at the work's end */
	const void *next_in;     /* it asks at the next instruction of this code, or frame, too */
	unsigned checks_left;    /* atomic */
	long long computing_ns;  /* that it has run while armed, in this work; waits don't count */
	long long last_check;
	long long injecting_since;    /* the hook's: in this work; 0: it wasn't called for it */
	long long refused_at;    /* in this work, a wait was first to be left, and wasn't; or 0 */
	int in_use;              /* by another thread: it mustn't end */
	struct iowq_limits *limits; /* NULL: it has had none */
};

#ifdef __GLIBC__ /* else each use is a call: musl has no static space for late libraries */
__attribute__((tls_model("initial-exec")))
#endif
extern _Thread_local struct iowq_thread iowq_this_thread;

/* Whether the calling thread runs a work. */
static inline int iowq_is_working(void)
{
	return iowq_this_thread.work != NULL;
}

/* Whether the interpreter that runs is the one that the work is in, not one that it calls. */
static inline int iowq_is_in_main_interpreter(void)
{
	return PyThreadState_Get() == iowq_this_thread.state;
}

/* At what may be a safepoint of the calling thread, in some code or frame. event, offset,
 * target: see computing.py. Returns -1 with the exception set that ends the work, or 0. */
int iowq_safepoint(const void *where, int event, int offset, int target);
enum {
	IOWQ_EVENT_START = -1, /* others are those of trace functions */
	IOWQ_EVENT_JUMP = -2,
	IOWQ_EVENT_NEXT = -3,
};
/* A function of the package has raised an exception. On the main thread that may be a signal's handler's:
 * then it stays set, and -1 is returned: it is to be raised. Else it is reported, but for
 * RecursionError, and 0 is returned. */
int iowq_take_failure(PyObject *function);
/* Signals' handlers run there. */
bool iowq_is_main_thread(void);
/* Nothing of it is left for the next work. */
void iowq_disarm(struct iowq_thread *thread);

static inline bool iowq_is_armed(const struct iowq_thread *thread)
{
	return __atomic_load_n(&thread->armed, __ATOMIC_ACQUIRE);
}

void iowq_thread_begin(void);
struct iowq_thread *iowq_thread_begin_work(struct iowq_work *work);
void iowq_thread_end_work(struct iowq_thread *thread, struct iowq_work *work);
void iowq_set_thread(struct iowq_work *work, struct iowq_thread *thread); /* NULL: nobody arms it any more */
void iowq_thread_end(void);
void iowq_interrupt(void *ctx, struct io_wq *wq); /* the core's hook */
void iowq_safepoint_after_fork(void);

/* ---- baseline.c */
void iowq_baseline_begin(void); /* before the thread's first work */
void iowq_baseline_restore(void); /* after each work */
void iowq_baseline_end(void);

/* ---- trace.c: up to CPython 3.11 */
void iowq_trace_find(PyObject *function); /* on a thread without tracer: any of Python's */
void iowq_trace_arm(struct iowq_thread *thread);
void iowq_trace_disarm(struct iowq_thread *thread);
int iowq_trace_is_running(void); /* whether a tracer is being called on this thread */

#endif
