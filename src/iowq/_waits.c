/*
 * Waits of works for other threads, which cancel can end: locks, SimpleQueue.get, Thread.join.
 *
 * Each is a hook (_hooks.c). It waits with a time limit, even where none was asked for, so
 * that the cancel signal can make the wait time out early (csrc/signal.c), in the way that
 * the primitive itself knows: nothing is left in a queue of waiters, no lock and no item
 * is taken. Then the package is asked whether this wait may be left here; if so, the
 * exception comes out of the call, as Ctrl-C's does on the main thread. If not, it waits on.
 *
 * Up to 3.12 Thread.join waits for a lock that the thread holds while it lives, and if that
 * wait raises it asks `lock.locked()`, to learn whether it has got the lock before. It
 * would learn that somebody has, and take a live thread for dead. So a hook answers.
 *
 * Where signals can't do that (musl, processors that are not known, no /proc), and for
 * Thread.join, which believes no early time-out, the wait looks up every POLL seconds.
 */
#include "_hooks.h"
#include "_safepoint.h"

#include <math.h>

#define POLL 0.02
#define LONG 1e6 /* seconds; the interpreter takes up to 9e9 */

static PyObject *may_leave, *empty_class, *join_code; /* see iowq_hook_waits */
static _Thread_local const PyObject *last_left; /* what the last wait that was left was for */
static double longest; /* that one wait lasts: LONG, or POLL */

/* ---- what was asked for */

/* Returns the seconds to wait, INFINITY, or NAN: the method is to be called as it was, since
 * it wouldn't wait, or has an error to report. */
static double seconds_of(PyObject *timeout)
{
	double seconds;

	if (!timeout || timeout == Py_None)
		return INFINITY;
	seconds = PyFloat_AsDouble(timeout);
	if (PyErr_Occurred()) {
		PyErr_Clear();
		return NAN;
	}
	if (seconds == -1)
		return INFINITY;
	return seconds > 0 && seconds < LONG ? seconds : NAN;
}

static double seconds_asked_for(const struct iowq_call *call, const char *blocking_name)
{
	Py_ssize_t place = blocking_name != NULL;
	PyObject *blocking = place ? iowq_call_argument(call, 0, blocking_name) : NULL;
	PyObject *timeout = iowq_call_argument(call, place, "timeout");
	int blocks;

	if (iowq_call_arguments(call) != (blocking != NULL) + (timeout != NULL))
		return NAN;
	blocks = blocking ? PyObject_IsTrue(blocking) : 1;
	PyErr_Clear();
	return blocks == 1 ? seconds_of(timeout) : NAN;
}

/* ---- leaving */

/* Whether the calling work leaves this wait now. */
static int leaves(PyObject *primitive)
{
	struct iowq_thread *thread = &iowq_this_thread;
	PyObject *answer;
	int yes;

	if (!io_wq_worker_is_due())
		return 0;
	if (!thread->refused_at)
		thread->refused_at = iowq_now_ns();
	answer = PyObject_CallFunction(may_leave, "OOL", thread->object, primitive,
				       (iowq_now_ns() - thread->refused_at) / 1000000);
	yes = answer && PyObject_IsTrue(answer) == 1;
	if (!answer && PyErr_ExceptionMatches(PyExc_RecursionError))
		PyErr_Clear();
	else if (!answer)
		PyErr_WriteUnraisable(may_leave);
	Py_XDECREF(answer);
	return yes;
}

/* One kind of wait: the method that takes a time limit, and whether a result says that it
 * is over without success. */
struct kind {
	enum iowq_method method;
	int polls;
	int (*timed_out)(const struct iowq_call *call, PyObject *result);
	Py_ssize_t (*arguments)(double seconds, PyObject *args[2]);
};

static PyObject *wait_once(const struct kind *kind, const struct iowq_call *call, double seconds)
{
	PyObject *args[2] = { NULL }, *result;
	Py_ssize_t count = kind->arguments(seconds, args);
	enum io_wq_section before;

	if (!args[count - 1])
		return NULL;
	before = io_wq_section_begin(IO_WQ_SECTION_WAIT);
	result = iowq_call_original_with(kind->method, call, args, count);
	io_wq_section_end(before);
	Py_DECREF(args[count - 1]);
	return result;
}

static PyObject *wait(const struct kind *kind, const struct iowq_call *call, double seconds)
{
	double slice = kind->polls ? POLL : longest, left = seconds;
	long long end = isinf(seconds) ? 0 : iowq_now_ns() + (long long)(seconds * 1e9);

	for (;;) {
		PyObject *result = wait_once(kind, call, left < slice ? left : slice);

		if (!kind->timed_out(call, result))
			return result;
		if (end)
			left = (double)(end - iowq_now_ns()) / 1e9;
		if (left <= 0)
			return result;
		Py_XDECREF(result);
		PyErr_Clear();
		if (leaves(call->self)) {
			last_left = call->self;
			return iowq_raise_cancelled();
		}
	}
}

static PyObject *wait_as_asked(const struct kind *kind, const struct iowq_call *call,
			       const char *blocking_name)
{
	double seconds = seconds_asked_for(call, blocking_name);

	if (isnan(seconds) || !iowq_is_in_main_interpreter())
		return iowq_call_original(call);
	return wait(kind, call, seconds);
}

/* ---- the kinds */

static Py_ssize_t blocking_and_timeout(double seconds, PyObject *args[2])
{
	args[0] = Py_True;
	args[1] = PyFloat_FromDouble(seconds);
	return 2;
}

static Py_ssize_t timeout_only(double seconds, PyObject *args[2])
{
	args[0] = PyFloat_FromDouble(seconds);
	return 1;
}

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
	static const struct kind kind = { IOWQ_LOCK_ACQUIRE, 0, is_false, blocking_and_timeout };

	return wait_as_asked(&kind, call, "blocking");
}

static PyObject *wait_for_rlock(const struct iowq_call *call)
{
	static const struct kind kind = { IOWQ_RLOCK_ACQUIRE, 0, is_false, blocking_and_timeout };

	return wait_as_asked(&kind, call, "blocking");
}

static PyObject *wait_for_item(const struct iowq_call *call)
{
	static const struct kind kind = { IOWQ_SIMPLE_QUEUE_GET, 0, is_empty, blocking_and_timeout };

	return wait_as_asked(&kind, call, "block");
}

static PyObject *wait_for_thread(const struct iowq_call *call)
{
	static const struct kind kind = { IOWQ_THREAD_JOIN, 1, thread_lives, timeout_only };

	return wait_as_asked(&kind, call, NULL);
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

int iowq_hook_waits(uintptr_t lock_, uintptr_t rlock_, uintptr_t queue_, uintptr_t handle,
		    uintptr_t empty, uintptr_t join, uintptr_t may_leave_)
{
	unsigned needs = IO_WQ_CAN_SEE_CALLS | IO_WQ_CAN_END_CALLS;
	PyObject *lock = (PyObject *)lock_, *rlock = (PyObject *)rlock_, *queue = (PyObject *)queue_;
	int hooked = 0;

	Py_XINCREF(may_leave = (PyObject *)may_leave_);
	Py_XINCREF(empty_class = (PyObject *)empty);
	longest = (io_wq_cancel_support() & needs) == needs ? LONG : POLL;
	/* what takes a time limit comes first: the others wait by it */
	if (iowq_hook(IOWQ_LOCK_ACQUIRE, lock, "acquire", wait_for_lock) &&
	    iowq_hook(IOWQ_LOCK_ENTER, lock, "__enter__", wait_for_lock))
		hooked |= IOWQ_HOOKED_LOCK;
	iowq_hook(IOWQ_LOCK_ACQUIRE_LOCK, lock, "acquire_lock", wait_for_lock);
	if (iowq_hook(IOWQ_RLOCK_ACQUIRE, rlock, "acquire", wait_for_rlock) &&
	    iowq_hook(IOWQ_RLOCK_ENTER, rlock, "__enter__", wait_for_rlock))
		hooked |= IOWQ_HOOKED_RLOCK;
	iowq_hook(IOWQ_RLOCK_ACQUIRE_LOCK, rlock, "acquire_lock", wait_for_rlock);
	if (queue && iowq_hook(IOWQ_SIMPLE_QUEUE_GET, queue, "get", wait_for_item))
		hooked |= IOWQ_HOOKED_SIMPLE_QUEUE;
	if (handle && iowq_hook(IOWQ_THREAD_JOIN, (PyObject *)handle, "join", wait_for_thread))
		hooked |= IOWQ_HOOKED_JOIN;
	Py_XINCREF(join_code = (PyObject *)join);
	if (join && iowq_hook(IOWQ_LOCK_LOCKED, lock, "locked", tell_whether_locked))
		hooked |= IOWQ_HOOKED_JOIN;
	return hooked;
}
