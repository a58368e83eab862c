/*
 * Ending Python code that no system call holds: the worker raises the exception itself.
 *
 * An exception that another thread sets (PyThreadState_SetAsyncExc) comes at an
 * instruction that nobody has chosen, between `lock.acquire()` and `try`, say, and
 * maybe in another thread that has the same number for a moment. So nothing is set from
 * outside. A worker is armed: the interpreter calls us at its safepoints, on its own
 * thread, with its frame at hand, and there it is decided whether the exception may
 * be raised right here (computing.py).
 *
 *   From 3.12 on, what calls us are events of sys.monitoring (PEP 669), set for the code
 *   objects that the worker is in: at the beginning of a function, and at a jump back.
 *   An exception from there is raised where the jump leads to. (monitoring.py)
 *
 *   Up to 3.11 it is a trace function, set in that thread's state alone, and called before
 *   each line; the exception is raised at that line. (trace.c)
 *
 * Neither calls us while another tracer's or tool's callback runs on that thread.
 *
 * States of a thread: no work; a work, not armed; armed. It is armed with the work's lock held
 * (locks.h), while the work has that thread. The work's end takes the thread from it, with the
 * lock held, and disarms it after that, so nothing is left for the next one.
 */
#include "safepoint.h"
#include "core/futex.h"
#include "time_limits.h"
#include "package.h"
#include "snapshot.h"
#include "work.h"

#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	CHECKS_MAX = 1000,           /* then it is disarmed, and armed anew, so long as it must */
	STEP_NS = 20 * 1000 * 1000, /* between two checks, what is longer was a wait */
	SETTLE_NS = 50 * 1000,
	RAISE = 1, NEXT = 2,        /* the package's answers */
};

static PyObject *may_raise, *inject, *disarm; /* see iowq_set_injection */
static PyObject *probe; /* a function of Python's that does nothing */
static int uses_trace;
static _Thread_local unsigned events_seen; /* sys.monitoring's */
static int64_t works_begun; /* atomic */

_Thread_local struct iowq_thread iowq_this_thread;

void iowq_set_injection(uintptr_t may_raise_, uintptr_t inject_, uintptr_t disarm_,
			uintptr_t probe_, int uses_trace_)
{
	Py_XINCREF(may_raise = (PyObject *)may_raise_);
	Py_XINCREF(inject = (PyObject *)inject_);
	Py_XINCREF(disarm = (PyObject *)disarm_);
	Py_XINCREF(probe = (PyObject *)probe_);
	uses_trace = uses_trace_;
	io_wq_trust_object((const void *)PyObject_Call); /* the interpreter, whatever its file's name */
}

/* ---- on the worker */

bool iowq_is_main_thread(void)
{
	return syscall(SYS_gettid) == getpid();
}

static void report_failure(PyObject *function)
{
	if (PyErr_ExceptionMatches(PyExc_RecursionError))
		PyErr_Clear(); /* the stack gets shorter, some time */
	else
		PyErr_WriteUnraisable(function);
}

int iowq_take_failure(PyObject *function)
{
	if (iowq_is_main_thread() && !PyErr_ExceptionMatches(PyExc_RecursionError))
		return -1;
	report_failure(function);
	return 0;
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
		report_failure(function);
	called = result != NULL;
	Py_XDECREF(result);
	PyErr_Restore(type, value, traceback);
	return called;
}

void iowq_disarm(struct iowq_thread *thread)
{
	__atomic_store_n(&thread->armed, 0, __ATOMIC_RELEASE);
	thread->next_in = NULL;
	if (uses_trace)
		iowq_trace_disarm(thread);
	else
		thread->disarm_failed = !call_aside(disarm, (PyObject *)thread->work);
	Py_CLEAR(thread->tracks);
}

/* Asks the package; returns 0 where it doesn't know. What goes wrong there must not end up
 * in the work; but what a signal's handler raises meanwhile must: -1. */
static long ask(struct iowq_thread *thread, int event, int offset, int target)
{
	PyObject *type, *value, *traceback, *result;
	long answer;

	PyErr_Fetch(&type, &value, &traceback);
	if (!thread->tracks)
		thread->tracks = PyDict_New();
	result = thread->tracks ? PyObject_CallFunction(may_raise, "OiiiLO", thread->work, event,
							offset, target,
							thread->computing_ns / 1000000,
							thread->tracks)
				: NULL;
	answer = result ? PyLong_AsLong(result) : iowq_take_failure(may_raise);
	Py_XDECREF(result);
	if (answer >= 0) {
		PyErr_Restore(type, value, traceback);
		return answer;
	}
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
	return answer;
}

static void count_time(struct iowq_thread *thread)
{
	long long now = monotonic_ns(), step = now - thread->last_check;

	thread->computing_ns += step < STEP_NS ? step : STEP_NS;
	thread->last_check = now;
}

int iowq_safepoint(const void *where, int event, int offset, int target)
{
	struct iowq_thread *thread = &iowq_this_thread;
	long answer;

	count_time(thread);
	thread->next_in = NULL;
	if (!__atomic_fetch_sub(&thread->checks_left, 1, __ATOMIC_RELAXED)) {
		iowq_disarm(thread);
		return 0;
	}
	answer = ask(thread, event, offset, target);
	if (answer == NEXT)
		thread->next_in = where;
	if (answer < 0)
		return -1;
	if (answer != RAISE)
		return 0;
	iowq_disarm(thread);
	iowq_raise_interruption();
	return -1;
}

/* sys.monitoring's callbacks: (code, offset), and of a jump (code, offset, target). Other
 * threads that are in the same code come here, too. */
static int is_watched(void)
{
	events_seen++;
	return iowq_is_armed(&iowq_this_thread) && iowq_is_in_main_interpreter();
}

static int number(PyObject *args, Py_ssize_t position)
{
	return (int)PyLong_AsLong(PyTuple_GetItem(args, position));
}

static PyObject *go_on_unless(int raises)
{
	return raises ? NULL : iowq_none();
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

void iowq_get_current(uintptr_t list)
{
	struct iowq_work *work = iowq_this_thread.work;

	if (work && !iowq_is_lent(&iowq_this_thread) && PyList_Append((PyObject *)list, (PyObject *)work))
		PyErr_Clear();
}

int64_t iowq_serial(void)
{
	return iowq_this_thread.work ? iowq_this_thread.serial : 0;
}

void iowq_safepoint_after_fork(void)
{
	iowq_this_thread.armed = 0;
	iowq_this_thread.work = NULL; /* it is the parent's; here it is code like any other */
}

/* ---- on any thread */

int iowq_arm(uintptr_t object)
{
	struct iowq_work *work = (struct iowq_work *)object;
	struct iowq_thread *thread;

	iowq_lock(&work->lock);
	thread = work->thread;
	if (thread) {
		__atomic_store_n(&thread->checks_left, CHECKS_MAX, __ATOMIC_RELAXED);
		__atomic_store_n(&thread->armed, 1, __ATOMIC_RELEASE);
	}
	iowq_unlock(&work->lock);
	if (thread && uses_trace) /* so there is a GIL */
		iowq_trace_arm(thread);
	return thread != NULL;
}

int iowq_claim(uintptr_t object)
{
	struct iowq_work *work = (struct iowq_work *)object;
	int claimed;

	iowq_lock(&work->lock);
	claimed = work->thread && io_wq_claim_work(work->work.wq, &work->work);
	iowq_unlock(&work->lock);
	return claimed;
}

void iowq_give_notice(uintptr_t object, int64_t serial, int given)
{
	struct iowq_work *work = (struct iowq_work *)object;

	iowq_lock(&work->lock);
	if (work->thread && work->thread->serial == serial)
		io_wq_give_notice(work->work.wq, &work->work, given);
	iowq_unlock(&work->lock);
}

int64_t iowq_started(uintptr_t object)
{
	struct iowq_work *work = (struct iowq_work *)object;
	int64_t started;

	iowq_lock(&work->lock);
	started = work->thread ? work->thread->started : 0;
	iowq_unlock(&work->lock);
	return started;
}

/* ---- works begin and end */

void iowq_set_thread(struct iowq_work *work, struct iowq_thread *thread)
{
	iowq_lock(&work->lock);
	work->thread = thread;
	iowq_unlock(&work->lock);
}

struct iowq_thread *iowq_thread_begin_work(struct iowq_work *work)
{
	struct iowq_thread *thread = &iowq_this_thread;

	iowq_take_back(thread);
	thread->work = work;
	thread->serial = __atomic_add_fetch(&works_begun, 1, __ATOMIC_RELAXED);
	thread->started = clock_ns(CLOCK_MONOTONIC_COARSE); /* good for 4 ms, at a tenth of the cost */
	iowq_set_thread(work, thread);
	return thread;
}

void iowq_thread_end_work(struct iowq_thread *thread, struct iowq_work *work)
{
	iowq_close_limits(thread);
	iowq_set_thread(work, NULL);
	if (iowq_is_armed(thread) || thread->disarm_failed)
		iowq_disarm(thread);
	thread->disarm_failed = 0;
	thread->work = NULL;
	thread->computing_ns = thread->injecting_since = thread->refused_at = 0;
}

void iowq_find_tracer(void)
{
	static int found; /* guarded by the GIL, which is there if a trace function is used */

	if (uses_trace && !found++)
		iowq_trace_find(probe);
}

void iowq_thread_begin(void)
{
	iowq_this_thread.state = PyThreadState_Get();
	iowq_find_tracer();
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

/* For how long it has been tried to raise an exception in this work, and its serial number, or 0: it
 * has ended. */
static int64_t ask_injecting(struct iowq_work *work, long long *ms)
{
	struct iowq_thread *thread;
	long long now = monotonic_ns();
	int64_t serial = 0;

	*ms = 0;
	iowq_lock(&work->lock);
	thread = work->thread;
	if (thread) {
		serial = thread->serial;
		if (!thread->injecting_since)
			thread->injecting_since = now;
		*ms = (now - thread->injecting_since) / 1000000;
	}
	iowq_unlock(&work->lock);
	return serial;
}

/*
 * To look at a work's stack, and to have its code send events, all threads must stand still for a
 * moment. One that gives way meanwhile, of its own accord, because it begins to wait, is noticed
 * by the interpreter after a millisecond only. That is what whoever has cancelled a work is likely to do.
 */
static void let_others_settle(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = SETTLE_NS }, NULL);
}

/* Tells the package of each work that no signal can end. One may have ended by then: it
 * finds out. */
void iowq_interrupt(void *ctx, struct io_wq *wq)
{
	PyGILState_STATE gil;
	struct iowq_snapshot workers;

	(void)ctx;
	if (!iowq_has_gil())
		let_others_settle();
	gil = PyGILState_Ensure();

	iowq_take_needing_injection(wq, &workers);
	for (size_t i = 0; i < workers.count; i++) {
		struct iowq_work *work = (struct iowq_work *)workers.entries[i].object;
		long long ms, serial = ask_injecting(work, &ms);
		PyObject *result = PyObject_CallFunction(inject, "OLL", work, ms, serial);

		if (!result)
			PyErr_WriteUnraisable(inject);
		Py_XDECREF(result);
	}
	iowq_free_snapshot(&workers);
	PyGILState_Release(gil);
}
