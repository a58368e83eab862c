/*
 * Waits of works for other threads, which cancel can end: locks, SimpleQueue.get, Thread.join.
 *
 * Each is a hook (hooks.c). It waits with a time limit, even where none was asked for, so
 * that the cancel signal can make the wait time out early (csrc/signal.c), in the way that
 * the primitive itself knows: nothing is left in a queue of waiters, no lock and no item
 * is taken. Then the package is asked whether this wait may be left here; if so, an
 * exception comes out of the call, as Ctrl-C's does on the main thread, or, in code that
 * expects no exception, its time-out. If not, it waits on.
 *
 * Up to 3.12 Thread.join waits for a lock that the thread holds while it lives, and if that
 * wait raises it asks `lock.locked()`, to learn whether it has got the lock before. It
 * would learn that somebody has, and take a live thread for dead. So a hook answers.
 *
 * Where signals can't do that (musl, processors that are not known, no /proc), and for
 * Thread.join, which believes no early time-out, the wait polls every POLL seconds.
 */
#include "hooks.h"
#include "core/futex.h"
#include "time_limits.h"
#include "package.h"
#include "safepoint.h"

#include <math.h>

#define POLL 0.02
#define LONG 1e6 /* seconds */
#define LOOKS 1.0
#define MOST 9223372036.0 /* threading.TIMEOUT_MAX */

static PyObject *may_leave, *empty_class, *join_code; /* see iowq_hook_waits */
static _Thread_local const PyObject *last_left; /* what the last wait that was left was for */
static double longest; /* that one wait lasts: LONG, or POLL */
static struct iowq_arguments without_waiting; /* of a lock's acquire: (False,) */

/* One kind of wait: the method that takes a time limit, and whether a result says that it
 * is over without success. */
struct kind {
	enum iowq_method method;
	const char *blocking; /* the name of its first argument, or NULL: it has none */
	int is_lock;          /* -1 is no limit; of the others, None is */
	int polls;
	int (*timed_out)(const struct iowq_call *call, PyObject *result);
};

/* ---- what was asked for */

/* Returns the seconds to wait, INFINITY, or NAN: the method is to be called as it was, since
 * it wouldn't wait, or has an error to report. */
static double seconds_of(const struct kind *kind, PyObject *timeout)
{
	double seconds;

	if (!timeout || (timeout == Py_None && !kind->is_lock))
		return INFINITY;
	if (!PyFloat_Check(timeout) && !PyLong_Check(timeout))
		return NAN;
	seconds = PyFloat_AsDouble(timeout);
	if (PyErr_Occurred()) {
		PyErr_Clear();
		return NAN;
	}
	if (seconds == -1 && kind->is_lock)
		return INFINITY;
	return seconds > 0 && seconds <= MOST ? seconds : NAN;
}

static double seconds_asked_for(const struct kind *kind, const struct iowq_call *call)
{
	Py_ssize_t position = kind->blocking != NULL;
	PyObject *blocking = position ? iowq_call_argument(call, 0, kind->blocking) : NULL;
	PyObject *timeout = iowq_call_argument(call, position, "timeout");
	int blocks = !blocking || (PyLong_Check(blocking) && PyLong_AsLong(blocking) == 1);

	PyErr_Clear(); /* it is too large an int */
	if (!blocks || iowq_call_arguments(call) != (blocking != NULL) + (timeout != NULL))
		return NAN;
	return seconds_of(kind, timeout);
}

/* ---- leaving */

/* How the calling work's wait ends now, as a new reference: an exception's class, Py_False (its
 * time is up), or Py_None: it goes on. NULL: with the exception that is set, a signal's handler's. */
static PyObject *how_it_ends(PyObject *primitive, int is_timed)
{
	struct iowq_thread *thread = &iowq_this_thread;
	PyObject *answer = NULL;

	if (io_wq_worker_is_due()) {
		if (!thread->refused_at)
			thread->refused_at = monotonic_ns();
		answer = PyObject_CallFunction(may_leave, "OOOL", thread->work, primitive,
					       is_timed ? Py_True : Py_False,
					       (monotonic_ns() - thread->refused_at) / 1000000);
		if (!answer && iowq_take_failure(may_leave))
			return NULL;
	}
	if (!answer) {
		answer = Py_None;
		Py_INCREF(answer);
	}
	return answer;
}

static PyObject *wait_once(const struct kind *kind, const struct iowq_call *call, double seconds)
{
	struct iowq_arguments arguments = { .count = 0 };
	PyObject *limit = PyFloat_FromDouble(seconds), *result;
	enum io_wq_section before;

	if (!limit)
		return NULL;
	if (kind->blocking)
		arguments.items[arguments.count++] = Py_True;
	arguments.items[arguments.count++] = limit;
	before = io_wq_section_begin(IO_WQ_SECTION_WAIT);
	result = iowq_call_original_with(kind->method, call, &arguments);
	io_wq_section_end(before);
	Py_DECREF(limit);
	return result;
}

static double now(void)
{
	return (double)monotonic_ns() / 1e9;
}

/* A wait has timed out, with result and maybe an exception, before the time that was asked
 * for: it may be that it is to end. Returns whether it does; then result is what it ends with. */
static int ends(const struct iowq_call *call, double seconds, PyObject **result)
{
	PyObject *type, *value, *traceback, *answer;

	PyErr_Fetch(&type, &value, &traceback);
	answer = PyErr_CheckSignals() ? NULL : how_it_ends(call->self, !isinf(seconds));
	if (answer == Py_False) { /* as it is */
		PyErr_Restore(type, value, traceback);
		Py_DECREF(answer);
		return 1;
	}
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
	Py_XDECREF(*result);
	*result = NULL;
	if (answer && answer != Py_None) {
		last_left = call->self;
		if (answer == iowq_package.cancelled)
			iowq_raise_interruption();
		else
			PyErr_SetNone(answer);
	}
	Py_XDECREF(answer);
	return PyErr_Occurred() != NULL;
}

/* A signal that comes just before a wait doesn't interrupt it: the main thread looks now and then. */
static double slice_of(const struct kind *kind)
{
	if (kind->polls)
		return POLL;
	return iowq_is_main_thread() && longest > LOOKS ? LOOKS : longest;
}

static PyObject *wait(const struct kind *kind, const struct iowq_call *call, double seconds)
{
	double slice = slice_of(kind), end = now() + seconds, left = seconds;

	for (;;) {
		PyObject *result = wait_once(kind, call, left < slice ? left : slice);

		if (!kind->timed_out(call, result))
			return result;
		left = end - now();
		if (left <= 0 || ends(call, seconds, &result))
			return result;
	}
}

/* Most locks are free when they are asked for: that costs least. */
static PyObject *wait_as_asked(const struct kind *kind, const struct iowq_call *call)
{
	double seconds = seconds_asked_for(kind, call);
	PyObject *result;

	last_left = NULL;
	if (isnan(seconds) || !iowq_is_in_main_interpreter())
		return iowq_call_original(call);
	if (kind->is_lock) {
		result = iowq_call_original_with(kind->method, call, &without_waiting);
		if (result != Py_False)
			return result;
		Py_DECREF(result);
	}
	return wait(kind, call, seconds);
}

/* ---- the kinds */

static int is_false(const struct iowq_call *call, PyObject *result)
{
	(void)call;
	return result == Py_False;
}

static int is_empty(const struct iowq_call *call, PyObject *result)
{
	(void)call;
	return !result && PyErr_ExceptionMatches(empty_class);
}

static int thread_lives(const struct iowq_call *call, PyObject *result)
{
	PyObject *done = result ? PyObject_CallMethod(call->self, "is_done", NULL) : NULL;
	int lives = done == Py_False;

	Py_XDECREF(done);
	if (result)
		PyErr_Clear();
	return lives;
}

static PyObject *wait_for_lock(const struct iowq_call *call)
{
	static const struct kind kind = { IOWQ_LOCK_ACQUIRE, "blocking", 1, 0, is_false };

	return wait_as_asked(&kind, call);
}

static PyObject *wait_for_rlock(const struct iowq_call *call)
{
	static const struct kind kind = { IOWQ_RLOCK_ACQUIRE, "blocking", 1, 0, is_false };

	return wait_as_asked(&kind, call);
}

static PyObject *wait_for_item(const struct iowq_call *call)
{
	static const struct kind kind = { IOWQ_SIMPLE_QUEUE_GET, "block", 0, 0, is_empty };

	return wait_as_asked(&kind, call);
}

static PyObject *wait_for_thread(const struct iowq_call *call)
{
	static const struct kind kind = { IOWQ_THREAD_JOIN, NULL, 0, 1, thread_lives };

	return wait_as_asked(&kind, call);
}

static int is_called_by(const PyObject *code)
{
	PyFrameObject *frame = PyEval_GetFrame();
	PyObject *caller = frame ? (PyObject *)PyFrame_GetCode(frame) : NULL;

	Py_XDECREF(caller);
	return caller == code;
}

static PyObject *tell_whether_locked(const struct iowq_call *call)
{
	if (last_left != call->self || !is_called_by(join_code))
		return iowq_call_original(call);
	Py_INCREF(Py_False);
	return Py_False;
}

void iowq_hook_waits(uintptr_t lock_, uintptr_t rlock_, uintptr_t queue_, uintptr_t handle,
		     uintptr_t empty, uintptr_t join, uintptr_t may_leave_)
{
	unsigned needs = IO_WQ_CAN_SEE_CALLS | IO_WQ_CAN_END_CALLS;
	PyObject *lock = (PyObject *)lock_, *rlock = (PyObject *)rlock_, *queue = (PyObject *)queue_;

	Py_XINCREF(may_leave = (PyObject *)may_leave_);
	Py_XINCREF(empty_class = (PyObject *)empty);
	longest = (io_wq_cancel_support() & needs) == needs ? LONG : POLL;
	without_waiting = (struct iowq_arguments){ .items = { Py_False }, .count = 1 };
	without_waiting.tuple = Py_BuildValue("(O)", Py_False);
	/* what takes a time limit comes first: the others wait by it */
	if (iowq_hook(IOWQ_LOCK_ACQUIRE, lock, "acquire", wait_for_lock)) {
		iowq_hook(IOWQ_LOCK_ENTER, lock, "__enter__", wait_for_lock);
		iowq_hook(IOWQ_LOCK_ACQUIRE_LOCK, lock, "acquire_lock", wait_for_lock);
	}
	if (iowq_hook(IOWQ_RLOCK_ACQUIRE, rlock, "acquire", wait_for_rlock)) {
		iowq_hook(IOWQ_RLOCK_ENTER, rlock, "__enter__", wait_for_rlock);
		iowq_hook(IOWQ_RLOCK_ACQUIRE_LOCK, rlock, "acquire_lock", wait_for_rlock);
	}
	iowq_hook(IOWQ_SIMPLE_QUEUE_GET, queue, "get", wait_for_item);
	if (handle)
		iowq_hook(IOWQ_THREAD_JOIN, (PyObject *)handle, "join", wait_for_thread);
	Py_XINCREF(join_code = (PyObject *)join);
	if (join)
		iowq_hook(IOWQ_LOCK_LOCKED, lock, "locked", tell_whether_locked);
}
