/*
 * Ending Python code that no system call holds: the worker looks, and raises.
 *
 * An exception that another thread sets (PyThreadState_SetAsyncExc) comes at an
 * instruction that nobody has chosen, between `lock.acquire()` and `try`, say,
 * and maybe in another thread that has the same number for a moment. So nothing
 * is set from outside. A worker is poked: the interpreter has it call us, at its
 * next instruction or so, and there, on its own thread, with its frame at hand,
 * it looks whether the exception may be raised right here (_interrupt.py). If
 * not, it looks again, instruction by instruction.
 *
 *   Up to 3.11 a poke is a trace function, set in that thread's state alone;
 *   it is called before each line. (A trace function also raises where a `finally`
 *   is sure to see it; other exceptions from outside can pass one by in 3.11.)
 *
 *   From 3.12 on a poke is a pending call, run by whichever thread comes first: one
 *   for all who are poked, called again until they all have looked. A signal
 *   ends waits for locks, from inside of which the interpreter makes the call, so
 *   that these can be left, too.
 *
 * Both are reached through private functions of the interpreter, looked up by name;
 * without them, code that computes isn't interrupted.
 *
 * States of a thread (guarded by the GIL): no work; a work, not poked; poked.
 * The work's end takes a poke back, so nothing is left for the next one.
 */
#include "_look.h"
#include "_snapshot.h"

#include <dlfcn.h>
#include <sched.h>
#include <time.h>

enum {
	LOOKS_MAX = 1000,           /* after a poke; then the next one is awaited */
	POKE_NS = 6 * 1000 * 1000,  /* a bit longer than a thread waits for the GIL */
	STEP_NS = 20 * 1000 * 1000, /* between two looks, what is longer was a wait */
	EVENT_PENDING_CALL = -1,    /* others are those of trace functions: */
	EVENT_LINE = 2,
	EVENT_RETURN = 3,
	EVENT_OPCODE = 7,
	IGNORED_MASK = 63,          /* one poke of 64, at least, isn't left out */
	INSIDE_WAIT = 1, /* flags of a look */
	WOKEN = 2,
	ENDED_QUIETLY = 4,
};

typedef int (*trace_function)(PyObject *context, PyObject *frame, int event, PyObject *arg);

static int (*set_trace)(PyThreadState *state, trace_function function, PyObject *context);
static int (*add_pending_call)(PyInterpreterState *interpreter, int (*function)(void *), void *arg,
			       int flags);

static PyObject *look, *reach, *cancelled_class; /* see iowq_set_interrupts */
#ifdef __GLIBC__ /* else each use is a call: musl has no static space for late libraries */
__attribute__((tls_model("initial-exec")))
#endif
static _Thread_local struct iowq_thread this_thread;
static unsigned poked_threads;
static int64_t works_begun;
static unsigned batch; /* pending calls that are made at once, at most */
static int pending_call_added;
static long long poke_ends; /* no pending call is added after it */

static long long clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

int iowq_set_interrupts(uintptr_t look_, uintptr_t reach_, uintptr_t cancelled_, unsigned batch_)
{
	batch = batch_;
	Py_XINCREF(look = (PyObject *)look_);
	Py_XINCREF(reach = (PyObject *)reach_);
	Py_XINCREF(cancelled_class = (PyObject *)cancelled_);
	if (!batch)
		*(void **)&set_trace = dlsym(RTLD_DEFAULT, "_PyEval_SetTrace");
	else
		*(void **)&add_pending_call = dlsym(RTLD_DEFAULT, "_PyEval_AddPendingCall");
	return set_trace || add_pending_call;
}

/* ---- on the worker: a look */

static void trace_thread(PyThreadState *state, trace_function function)
{
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	if (set_trace(state, function, NULL))
		PyErr_Clear(); /* an audit hook forbids it */
	PyErr_Restore(type, value, traceback);
}

static void unpoke(struct iowq_thread *thread)
{
	thread->poked = 0;
	thread->woken = 0;
	poked_threads--;
	if (set_trace)
		trace_thread(PyThreadState_Get(), NULL);
	Py_CLEAR(thread->tracks);
}

/* Calls the package's look. What goes wrong there must not end up in the work. */
static int may_raise(struct iowq_thread *thread, int event)
{
	PyObject *object = thread->object, *type, *value, *traceback, *answer;
	int flags = (io_wq_worker_is_inside_wait() ? INSIDE_WAIT : 0) |
		    (thread->woken ? WOKEN : 0) |
		    (io_wq_worker_ended_quietly() ? ENDED_QUIETLY : 0);
	int raise;

	PyErr_Fetch(&type, &value, &traceback);
	if (!thread->tracks)
		thread->tracks = PyDict_New();
	answer = thread->tracks ? PyObject_CallFunction(look, "OiiLO", object, event, flags,
							thread->looked_ns / 1000000,
							thread->tracks)
				: NULL;
	raise = answer && PyObject_IsTrue(answer) == 1;
	if (!answer && PyErr_ExceptionMatches(PyExc_RecursionError))
		PyErr_Clear(); /* the stack gets shorter, some time */
	else if (!answer)
		PyErr_WriteUnraisable(look);
	Py_XDECREF(answer);
	PyErr_Restore(type, value, traceback);
	return raise;
}

static void count_time(struct iowq_thread *thread)
{
	long long now = now_ns(), step = now - thread->last_look;

	thread->looked_ns += step < STEP_NS ? step : STEP_NS;
	thread->last_look = now;
}

/* Returns -1 with Cancelled set, or 0. */
static int look_around(int event)
{
	struct iowq_thread *thread = &this_thread;

	count_time(thread);
	if (!thread->woken && !thread->looks_left--) {
		unpoke(thread);
		return 0;
	}
	if (!may_raise(thread, event))
		return 0;
	unpoke(thread);
	PyErr_SetNone(cancelled_class);
	return -1;
}

/* The frame ends: nothing in it is kept alive. */
static void forget_frame(PyObject *tracks, PyObject *frame)
{
	PyObject *type, *value, *traceback;

	if (!tracks)
		return;
	PyErr_Fetch(&type, &value, &traceback);
	if (PyDict_Contains(tracks, frame) == 1)
		PyDict_DelItem(tracks, frame);
	PyErr_Restore(type, value, traceback);
}

static int trace(PyObject *context, PyObject *frame, int event, PyObject *arg)
{
	(void)context;
	(void)arg;
	if (!this_thread.poked) { /* the poke came too late */
		trace_thread(PyThreadState_Get(), NULL);
		return 0;
	}
	if (event == EVENT_RETURN)
		forget_frame(this_thread.tracks, frame);
	return event == EVENT_LINE || event == EVENT_OPCODE ? look_around(event) : 0;
}

static int pending_call(void *arg);

static void add_call(void)
{
	if (!pending_call_added)
		pending_call_added = !add_pending_call(PyInterpreterState_Get(), pending_call,
						       NULL, 0);
}

/*
 * Any thread comes here; those that aren't poked only pass it on. The interpreter
 * makes pending calls in batches: one that adds itself again comes again at once, at
 * the same place, until the batch is full. One look at each place is enough.
 */
static int pending_call(void *arg)
{
	(void)arg;
	int ret = 0;

	if (this_thread.poked && this_thread.calls++ % batch == 0)
		ret = look_around(EVENT_PENDING_CALL);
	pending_call_added = 0;
	if (poked_threads && now_ns() < poke_ends)
		add_call();
	return ret;
}

/* ---- on any thread: a poke */

/* Whether to leave this poke out. A thread that hasn't looked since the last one is
 * somewhere in C: pending calls would only keep the others busy. */
static int is_ignoring(struct iowq_thread *thread)
{
	if (!add_pending_call || thread->looks_left != LOOKS_MAX)
		thread->ignored = 0;
	else
		thread->ignored++;
	return thread->ignored & (thread->ignored - 1) & IGNORED_MASK;
}

static void poke(struct iowq_thread *thread, int woken)
{
	if (!thread->poked) {
		poked_threads++;
		thread->poked = 1;
		thread->calls = thread->looks_left = 0;
	}
	thread->woken |= woken;
	if (is_ignoring(thread))
		return;
	thread->looks_left = LOOKS_MAX;
	poke_ends = now_ns() + POKE_NS;
	if (add_pending_call) {
		add_call();
	} else {
		thread->in_use++; /* an audit hook may run, and wait, meanwhile */
		trace_thread(thread->state, trace);
		thread->in_use--;
	}
}

int iowq_poke(struct iowq_work *work, int woken)
{
	struct iowq_thread *thread = work->thread;

	if (!thread || !(set_trace || add_pending_call))
		return 0;
	poke(thread, woken);
	return 1;
}

unsigned long iowq_thread_ident(struct iowq_work *work)
{
	return work->thread ? work->thread->ident : 0;
}

int64_t iowq_serial(void)
{
	return this_thread.object ? this_thread.serial : 0;
}

void iowq_look_after_fork(void)
{
	pending_call_added = 0;
	poked_threads = 0;
	this_thread.poked = 0;
	this_thread.object = NULL; /* the work is the parent's; here it is code like any other */
}

int iowq_claim(struct iowq_work *work)
{
	struct iowq_thread *thread = work->thread;

	return thread && io_wq_claim_work(thread->wq, &work->work);
}

/* ---- works begin and end */

struct iowq_thread *iowq_thread_begin_work(struct iowq_work *work, PyObject *object)
{
	struct iowq_thread *thread = &this_thread;

	thread->wq = work->work.wq;
	thread->object = object;
	thread->serial = ++works_begun;
	work->started = clock_ns(CLOCK_MONOTONIC_COARSE); /* good for 4 ms, at a tenth of the cost */
	work->thread = thread;
	return thread;
}

/* Returns whether the work ended without having looked since one of its calls was ended
 * in a way that hides it: then it was cancelled, and doesn't know. */
int iowq_thread_end_work(struct iowq_thread *thread, struct iowq_work *work)
{
	work->thread = NULL;
	thread->object = NULL;
	thread->looked_ns = thread->reached_at = 0;
	if (!thread->poked)
		return 0;
	unpoke(thread);
	return io_wq_worker_ended_quietly();
}

void iowq_thread_begin(void)
{
	this_thread.state = PyThreadState_Get();
	this_thread.ident = PyThread_get_thread_ident();
}

void iowq_thread_end(void)
{
	while (this_thread.in_use) {
		PyThreadState *state = PyEval_SaveThread();

		sched_yield();
		PyEval_RestoreThread(state);
	}
}

/* ---- the core's hook */

/* How long this work has been out of the signal's reach. */
static long long reached_ms(PyObject *object, struct iowq_thread *thread)
{
	if (!thread || thread->object != object)
		return 0;
	if (!thread->reached_at)
		thread->reached_at = now_ns();
	return (now_ns() - thread->reached_at) / 1000000;
}

/* Tells the package of each work that is out of the signal's reach. One may have ended
 * by then: it finds out. */
void iowq_interrupt(void *ctx, struct io_wq *wq)
{
	(void)ctx;
	PyGILState_STATE gil = PyGILState_Ensure();
	struct iowq_snapshot workers;

	iowq_take_out_of_reach(wq, &workers);
	for (size_t i = 0; i < workers.count; i++) {
		PyObject *result;
		struct iowq_work *work;

		work = (struct iowq_work *)workers.entries[i].info.work; /* the object's */
		result = PyObject_CallFunction(reach, "OL", workers.entries[i].object,
					       reached_ms(workers.entries[i].object, work->thread));
		if (!result)
			PyErr_WriteUnraisable(reach);
		Py_XDECREF(result);
	}
	iowq_free_snapshot(&workers);
	PyGILState_Release(gil);
}
