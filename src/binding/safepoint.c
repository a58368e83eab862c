/*
 * Ending Python code that no system call holds: the worker raises the exception itself.
 *
 * An exception that another thread sets (PyThreadState_SetAsyncExc) comes at an
 * instruction that nobody has chosen, between `lock.acquire()` and `try`, say, and
 * maybe in another thread that has the same number for a moment. So nothing is set from
 * outside. A worker is armed: the interpreter calls us at its safepoints, on its own
 * thread, with its frame at hand, and there it is decided whether the exception may
 * be raised right here (_interrupt.py).
 *
 *   From 3.12 on, what calls us are events of sys.monitoring (PEP 669), set for the code
 *   objects that the worker is in: at the beginning of a function, and at a jump back.
 *   An exception from there is raised where the jump leads to. (_monitor.py)
 *
 *   Up to 3.11 it is a trace function, set in that thread's state alone, and called before
 *   each line; the exception is raised at that line. (trace.c)
 *
 * Neither calls us while another tracer's or tool's callback runs on that thread.
 *
 * States of a thread (guarded by the GIL): no work; a work, not armed; armed. The work's
 * end disarms it, so nothing is left for the next one.
 */
#include "safepoint.h"
#include "snapshot.h"

#include <sched.h>
#include <time.h>

enum {
	CHECKS_MAX = 1000,           /* then it is disarmed, and armed anew, so long as it must */
	STEP_NS = 20 * 1000 * 1000, /* between two checks, what is longer was a wait */
	RAISE = 1, NEXT = 2,        /* the package's answers */
};

static PyObject *may_raise, *inject, *disarm, *cancelled_class; /* see iowq_set_injection */
static PyObject *probe; /* a function of Python's that does nothing */
static int uses_trace;
static _Thread_local unsigned events_seen; /* sys.monitoring's */
static int64_t works_begun;

_Thread_local struct iowq_thread iowq_this_thread;

static long long clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

long long iowq_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

void iowq_set_injection(uintptr_t may_raise_, uintptr_t inject_, uintptr_t disarm_,
			uintptr_t cancelled_, uintptr_t probe_, int uses_trace_)
{
	Py_XINCREF(may_raise = (PyObject *)may_raise_);
	Py_XINCREF(inject = (PyObject *)inject_);
	Py_XINCREF(disarm = (PyObject *)disarm_);
	Py_XINCREF(cancelled_class = (PyObject *)cancelled_);
	Py_XINCREF(probe = (PyObject *)probe_);
	uses_trace = uses_trace_;
	io_wq_trust_object((const void *)PyObject_Call); /* the interpreter, whatever its file's name */
}

PyObject *iowq_raise_cancelled(void)
{
	PyErr_SetNone(cancelled_class);
	return NULL;
}

/* ---- on the worker */

void iowq_report_failure(PyObject *function)
{
	if (PyErr_ExceptionMatches(PyExc_RecursionError))
		PyErr_Clear(); /* the stack gets shorter, some time */
	else
		PyErr_WriteUnraisable(function);
}

/* Goes on as if nothing had been called: an exception that is set stays so. Returns whether
 * it was called; not if the stack is too deep for that. */
static int call_aside(PyObject *function, PyObject *arg)
{
	PyObject *type, *value, *traceback, *result;
	int called;

	PyErr_Fetch(&type, &value, &traceback);
	result = PyObject_CallFunctionObjArgs(function, arg, NULL);
	if (!result)
		iowq_report_failure(function);
	called = result != NULL;
	Py_XDECREF(result);
	PyErr_Restore(type, value, traceback);
	return called;
}

void iowq_disarm(struct iowq_thread *thread)
{
	thread->armed = 0;
	thread->next_in = NULL;
	if (uses_trace)
		iowq_trace_disarm(thread);
	else
		thread->disarm_failed = !call_aside(disarm, thread->object);
	Py_CLEAR(thread->tracks);
}

/* Asks the package; returns 0 where it doesn't know. What goes wrong there must not end up
 * in the work. */
static long ask(struct iowq_thread *thread, int event, int offset, int target)
{
	PyObject *type, *value, *traceback, *result;
	long answer;

	PyErr_Fetch(&type, &value, &traceback);
	if (!thread->tracks)
		thread->tracks = PyDict_New();
	result = thread->tracks ? PyObject_CallFunction(may_raise, "OiiiLO", thread->object, event,
							offset, target,
							thread->computing_ns / 1000000,
							thread->tracks)
				: NULL;
	answer = result ? PyLong_AsLong(result) : 0;
	if (!result)
		iowq_report_failure(may_raise);
	Py_XDECREF(result);
	PyErr_Restore(type, value, traceback);
	return answer;
}

static void count_time(struct iowq_thread *thread)
{
	long long now = iowq_now_ns(), step = now - thread->last_check;

	thread->computing_ns += step < STEP_NS ? step : STEP_NS;
	thread->last_check = now;
}

int iowq_safepoint(const void *where, int event, int offset, int target)
{
	struct iowq_thread *thread = &iowq_this_thread;
	long answer;

	count_time(thread);
	thread->next_in = NULL;
	if (!thread->checks_left--) {
		iowq_disarm(thread);
		return 0;
	}
	answer = ask(thread, event, offset, target);
	if (answer == NEXT)
		thread->next_in = where;
	if (answer != RAISE)
		return 0;
	iowq_disarm(thread);
	iowq_raise_cancelled();
	return -1;
}

/* sys.monitoring's callbacks: (code, offset), and of a jump (code, offset, target). Other
 * threads that are in the same code come here, too. */
static int is_watched(void)
{
	events_seen++;
	return iowq_this_thread.armed && iowq_is_in_main_interpreter();
}

static int number(PyObject *args, Py_ssize_t position)
{
	return (int)PyLong_AsLong(PyTuple_GetItem(args, position));
}

static PyObject *go_on_unless(int raises)
{
	if (raises)
		return NULL;
	Py_INCREF(Py_None);
	return Py_None;
}

static PyObject *on_start(PyObject *self, PyObject *args)
{
	(void)self;
	return go_on_unless(is_watched() && iowq_safepoint(NULL, IOWQ_EVENT_START, number(args, 1), 0));
}

static PyObject *on_jump(PyObject *self, PyObject *args)
{
	int offset = number(args, 1), target = number(args, 2);

	(void)self;
	return go_on_unless(target <= offset && is_watched() &&
			    iowq_safepoint(NULL, IOWQ_EVENT_JUMP, offset, target));
}

/* Two in a row tell of a jump. */
static PyObject *on_instruction(PyObject *self, PyObject *args)
{
	static _Thread_local struct {
		PyObject *code;
		int offset;
	} before;
	PyObject *code = PyTuple_GetItem(args, 0);
	int offset = number(args, 1), from = before.code == code ? before.offset : -1;
	int is_next = iowq_this_thread.next_in == code;

	(void)self;
	before.code = code;
	before.offset = offset;
	return go_on_unless((is_next || from >= offset) && is_watched() &&
			    iowq_safepoint(code, is_next ? IOWQ_EVENT_NEXT : IOWQ_EVENT_JUMP, from,
					   offset));
}

int iowq_callback_is_running(void)
{
	unsigned seen = events_seen;

	if (uses_trace)
		return iowq_trace_is_running();
	call_aside(probe, NULL);
	return events_seen == seen;
}

int iowq_get_callbacks(uintptr_t list)
{
	static PyMethodDef definitions[] = {
		{ "on_start", on_start, METH_VARARGS, NULL },
		{ "on_jump", on_jump, METH_VARARGS, NULL },
		{ "on_instruction", on_instruction, METH_VARARGS, NULL },
	};
	int failed = 0;

	for (int i = 0; i < 3 && !failed; i++) {
		PyObject *function = PyCFunction_New(&definitions[i], NULL);

		failed = !function || PyList_Append((PyObject *)list, function);
		Py_XDECREF(function);
	}
	PyErr_Clear();
	return failed ? -1 : 0;
}

int64_t iowq_serial(void)
{
	return iowq_this_thread.object ? iowq_this_thread.serial : 0;
}

void iowq_safepoint_after_fork(void)
{
	iowq_this_thread.armed = 0;
	iowq_this_thread.object = NULL; /* the work is the parent's; here it is code like any other */
}

/* ---- on any thread */

int iowq_arm(struct iowq_work *work, uintptr_t frame)
{
	struct iowq_thread *thread = work->thread;

	if (!thread)
		return 0;
	thread->checks_left = CHECKS_MAX;
	thread->armed = 1;
	if (uses_trace)
		iowq_trace_arm(thread, (PyObject *)frame);
	return 1;
}

/* sys._current_frames() would also look into other interpreters, whose lock isn't held. */
int iowq_get_frame(struct iowq_work *work, uintptr_t list)
{
	PyObject *frame = NULL;
	int failed;

	if (work->thread)
		frame = (PyObject *)PyThreadState_GetFrame(work->thread->state);
	failed = frame && PyList_Append((PyObject *)list, frame);
	Py_XDECREF(frame);
	PyErr_Clear();
	return failed ? -1 : 0;
}

int iowq_claim(struct iowq_work *work)
{
	struct iowq_thread *thread = work->thread;

	return thread && io_wq_claim_work(thread->wq, &work->work);
}

void iowq_give_notice(struct iowq_work *work, int given)
{
	if (work->thread)
		io_wq_give_notice(work->thread->wq, &work->work, given);
}

/* ---- works begin and end */

struct iowq_thread *iowq_thread_begin_work(struct iowq_work *work, PyObject *object)
{
	struct iowq_thread *thread = &iowq_this_thread;

	thread->wq = work->work.wq;
	thread->object = object;
	thread->serial = ++works_begun;
	work->started = clock_ns(CLOCK_MONOTONIC_COARSE); /* good for 4 ms, at a tenth of the cost */
	work->thread = thread;
	return thread;
}

void iowq_thread_end_work(struct iowq_thread *thread, struct iowq_work *work)
{
	work->thread = NULL; /* from here on nobody arms it */
	if (thread->armed || thread->disarm_failed)
		iowq_disarm(thread);
	thread->disarm_failed = 0;
	thread->object = NULL;
	iowq_baseline_restore();
	thread->computing_ns = thread->injecting_since = thread->refused_at = 0;
}

void iowq_thread_begin(void)
{
	static int found; /* guarded by the GIL */

	iowq_this_thread.state = PyThreadState_Get();
	if (uses_trace && !found++)
		iowq_trace_find(probe);
}

void iowq_thread_end(void)
{
	while (iowq_this_thread.in_use) {
		PyThreadState *state = PyEval_SaveThread();

		sched_yield();
		PyEval_RestoreThread(state);
	}
}

/* ---- the core's hook */

/* For how long it has been tried to raise an exception in this work. */
static long long injecting_ms(PyObject *object, struct iowq_thread *thread)
{
	if (!thread || thread->object != object)
		return 0;
	if (!thread->injecting_since)
		thread->injecting_since = iowq_now_ns();
	return (iowq_now_ns() - thread->injecting_since) / 1000000;
}

/* Tells the package of each work that no signal can end. One may have ended by then: it
 * finds out. */
void iowq_interrupt(void *ctx, struct io_wq *wq)
{
	(void)ctx;
	PyGILState_STATE gil = PyGILState_Ensure();
	struct iowq_snapshot workers;

	iowq_take_needing_injection(wq, &workers);
	for (size_t i = 0; i < workers.count; i++) {
		PyObject *result;
		struct iowq_work *work;

		work = (struct iowq_work *)workers.entries[i].info.work; /* the object's */
		result = PyObject_CallFunction(inject, "OLL", workers.entries[i].object,
					       injecting_ms(workers.entries[i].object, work->thread),
					       work->thread ? (long long)work->thread->serial : 0);
		if (!result)
			PyErr_WriteUnraisable(inject);
		Py_XDECREF(result);
	}
	iowq_free_snapshot(&workers);
	PyGILState_Release(gil);
}
