/*
 * TimeoutBase: blocks with a time limit, of which each thread may have several open.
 *
 * The core knows one deadline of a work: that of its first block whose time will be up. Which one it
 * was, and what is raised, is found out here, when the work is interrupted.
 *
 * To enter and to leave a block are one step each, which no signal's handler comes between: on the
 * main thread one that raises, as Ctrl-C's does, would leave a limit behind, or a block without one.
 *
 * A block is entered and left by the thread that it limits. But a generator's may be closed by another
 * one, and cancel() is called by any. One lock guards all blocks' lists and their fields; the core's is
 * taken inside of it.
 */
#include "time_limits.h"
#include "core/futex.h"
#include "package.h"
#include "safepoint.h"
#include "work.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

struct limit {
	PyObject_HEAD
	struct io_wq_list list;     /* in limits->open */
	struct iowq_limits *limits; /* of the thread that has entered it; NULL: it isn't entered */
	double seconds;
	int64_t deadline;           /* monotonic_ns(), 0: none */
	PyObject *exception;        /* class or instance; NULL: Cancelled inside, TimeoutError at its end */
	PyObject *raises;           /* that, or what cancel() said: since it was entered */
	bool raised;                /* it was, inside */
	PyObject *frame;            /* that the block is part of, where that matters, or NULL */
};

static iowq_lock_t lock;

/* ---- the first deadline. Locked, but for the update */

/* Code may catch an Exception, and go on as it likes; any other is raised until the block is left. */
static bool is_done(const struct limit *limit)
{
	return limit->raised && PyErr_GivenExceptionMatches(limit->raises, PyExc_Exception);
}

static bool is_past(const struct limit *limit)
{
	return limit->deadline && !is_done(limit) && monotonic_ns() >= limit->deadline;
}

static int64_t first_deadline(const struct iowq_limits *limits)
{
	int64_t first = 0;

	list_for_each(link, &limits->open) {
		const struct limit *limit = container_of(link, struct limit, list);

		if (limit->deadline && !is_done(limit) && (!first || limit->deadline < first))
			first = limit->deadline;
	}
	return first;
}

static int64_t ask_first_deadline(const struct iowq_limits *limits)
{
	int64_t first;

	iowq_lock(&lock);
	first = first_deadline(limits);
	iowq_unlock(&lock);
	return first;
}

/* Tells the core, on the thread itself: when this returns, nothing that came before is on its way.
 * Another thread may cancel a block meanwhile. Returns 0 or a negative errno. */
static int update_deadline(const struct iowq_limits *limits)
{
	int64_t first;
	int ret;

	do {
		first = ask_first_deadline(limits);
		ret = io_wq_worker_set_deadline(first);
	} while (first != ask_first_deadline(limits));
	return ret;
}

/* ---- the thread's */

/* Whether the thread that has entered it lives, in this process. */
static bool is_alive(const struct iowq_limits *limits)
{
	return limits->thread && limits->forks == iowq_forks;
}

static bool is_own(const struct limit *limit)
{
	return limit->limits && is_alive(limit->limits) && limit->limits->thread == &iowq_this_thread;
}

/* Locked. */
static void put(struct iowq_limits *limits)
{
	if (!--limits->references)
		free(limits);
}

void iowq_put_limits(struct iowq_limits *limits)
{
	iowq_lock(&lock);
	put(limits);
	iowq_unlock(&lock);
}

/* Locked. */
static void unlink_limit(struct limit *limit)
{
	list_del(&limit->list);
	put(limit->limits);
	limit->limits = NULL;
}

void iowq_close_limits(struct iowq_thread *thread)
{
	struct iowq_limits *limits = thread->limits;

	if (!limits || list_empty(&limits->open))
		return;
	iowq_lock(&lock);
	list_for_each_safe(link, &limits->open)
		unlink_limit(container_of(link, struct limit, list));
	iowq_unlock(&lock);
}

PyObject *iowq_base_frame(const struct iowq_thread *thread)
{
	const struct iowq_limits *limits = thread->limits;

	if (!iowq_is_lent(thread) || list_empty(&limits->open))
		return NULL;
	return container_of(limits->open.next, struct limit, list)->frame;
}

uintptr_t iowq_get_base(void)
{
	return (uintptr_t)iowq_base_frame(&iowq_this_thread);
}

/* ---- what is raised */

/* The outermost block whose time is up is left by it. Locked. */
static struct limit *find_past(const struct iowq_limits *limits)
{
	list_for_each(link, &limits->open) {
		struct limit *limit = container_of(link, struct limit, list);

		if (is_past(limit))
			return limit;
	}
	return NULL;
}

/* Returns the exception of the block that is to be left now, or NULL: it has none. */
static PyObject *take_exception(const struct iowq_limits *limits)
{
	PyObject *exception = NULL;
	struct limit *limit;
	bool done = false;

	iowq_lock(&lock);
	limit = find_past(limits);
	if (limit && limit->raises) {
		limit->raised = true;
		done = is_done(limit);
		exception = limit->raises;
		Py_INCREF(exception);
	}
	iowq_unlock(&lock);
	if (done)
		update_deadline(limits);
	return exception;
}

/* Returns a new reference: a class, or an instance. */
static PyObject *interruption(void)
{
	const struct iowq_limits *limits = iowq_this_thread.limits;
	PyObject *exception = limits && !io_wq_worker_cancelled() ? take_exception(limits) : NULL;

	if (!exception)
		Py_INCREF(exception = iowq_package.cancelled);
	return exception;
}

PyObject *iowq_raise_interruption(void)
{
	PyObject *exception = interruption();

	if (PyExceptionInstance_Check(exception))
		PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
	else
		PyErr_SetNone(exception);
	Py_DECREF(exception);
	return NULL;
}

void iowq_get_interruption(uintptr_t list)
{
	PyObject *exception = interruption();

	if (PyList_Append((PyObject *)list, exception))
		PyErr_Clear();
	Py_DECREF(exception);
}

/* ---- entered and left */

/* Ends what the block had to do with its thread. */
static void leave(struct limit *limit)
{
	struct iowq_thread *thread = &iowq_this_thread;
	struct iowq_limits *limits;
	PyObject *frame, *raises;
	bool own;

	iowq_lock(&lock);
	limits = limit->limits;
	own = is_own(limit);
	if (limits && !own && is_alive(limits)) { /* a generator that somebody else closes */
		struct iowq_work *work = limits->thread->work;

		list_del(&limit->list);
		list_init(&limit->list);
		io_wq_set_deadline(work->work.wq, &work->work, first_deadline(limits));
	}
	if (limits)
		unlink_limit(limit);
	frame = limit->frame;
	raises = limit->raises;
	limit->frame = limit->raises = NULL;
	iowq_unlock(&lock);
	if (own && list_empty(&limits->open) && iowq_is_lent(thread))
		iowq_take_back(thread);
	else if (own)
		update_deadline(limits);
	Py_XDECREF(frame);
	Py_XDECREF(raises);
}

static int64_t deadline_after(double seconds)
{
	double end = (double)monotonic_ns() + seconds * 1e9;

	return end < 0x1p63 ? (int64_t)end : 0;
}

/* Locked. */
static void open_limit(struct limit *limit, struct iowq_limits *limits, PyObject *frame)
{
	limit->limits = limits;
	limit->deadline = deadline_after(limit->seconds);
	Py_XINCREF(limit->raises = limit->exception);
	limit->raised = false;
	limit->frame = frame;
	limits->references++;
	list_add_tail(&limit->list, &limits->open);
}

/* Whoever runs a work is taken as it is; any other thread is lent a worker's part. Returns 0, and the
 * frame that matters, a new reference or NULL; or -1 with an exception set. */
static int prepare(struct iowq_thread *thread, PyObject **frame)
{
	*frame = NULL;
	if (thread->work && !iowq_is_lent(thread))
		return 0;
	*frame = iowq_find_block();
	if (PyErr_Occurred() || (!thread->work && iowq_lend(thread))) {
		Py_CLEAR(*frame);
		return -1;
	}
	return 0;
}

static PyObject *no_thread(int error)
{
	PyObject *text = PyUnicode_FromFormat("no thread to watch the time: %s", strerror(error));
	PyObject *pair = text ? Py_BuildValue("(iN)", error, text) : NULL;

	if (pair)
		PyErr_SetObject(PyExc_OSError, pair);
	Py_XDECREF(pair);
	return NULL;
}

static PyObject *enter(PyObject *self, PyObject *unused)
{
	struct limit *limit = (struct limit *)self;
	struct iowq_thread *thread = &iowq_this_thread;
	struct iowq_limits *limits = iowq_limits_of(thread);
	PyObject *frame;
	int ret;

	(void)unused;
	if (!limit->limits)
		leave(limit); /* the work in which it was left open has ended */
	if (!limits || prepare(thread, &frame))
		return NULL;
	iowq_lock(&lock);
	ret = limit->limits ? -EALREADY : 0;
	if (!ret)
		open_limit(limit, limits, frame);
	iowq_unlock(&lock);
	if (ret) {
		Py_XDECREF(frame);
		PyErr_SetString(PyExc_RuntimeError, "a timeout is entered once at a time");
		return NULL;
	}
	ret = update_deadline(limits);
	if (ret) {
		leave(limit);
		return no_thread(-ret);
	}
	Py_INCREF(self);
	return self;
}

/* ---- what comes out of the block */

static bool is_raised_by_outer(const struct limit *limit, PyObject *error)
{
	bool is = false;

	iowq_lock(&lock);
	for (struct io_wq_list *link = limit->list.prev; link != &limit->limits->open; link = link->prev) {
		const struct limit *outer = container_of(link, struct limit, list);

		is |= outer->raised && PyErr_GivenExceptionMatches(error, outer->raises);
	}
	iowq_unlock(&lock);
	return is;
}

static bool is_exception_of(PyObject *error, PyObject *exception)
{
	PyObject *class = PyExceptionInstance_Check(exception) ? (PyObject *)Py_TYPE(exception) : exception;

	return PyErr_GivenExceptionMatches(error, class);
}

/* Whether it is what somebody has made of the interruption. */
static bool stands_for_the_end(const struct limit *limit, PyObject *error)
{
	if (!is_past(limit) || io_wq_worker_cancelled())
		return false;
	if (PyErr_GivenExceptionMatches(error, iowq_package.cancelled))
		return !is_raised_by_outer(limit, error);
	return io_wq_worker_interrupted() && PyErr_GivenExceptionMatches(error, PyExc_Exception) &&
	       !(limit->raises && is_exception_of(error, limit->raises)) &&
	       !is_raised_by_outer(limit, error);
}

static PyObject *time_is_up(const struct limit *limit)
{
	char *seconds = PyOS_double_to_string(limit->seconds, 'g', 6, 0, NULL);
	PyObject *text = seconds ? PyUnicode_FromFormat("not done in %s s", seconds) : NULL, *error = NULL;

	PyMem_Free(seconds);
	if (text)
		error = PyObject_CallFunctionObjArgs(PyExc_TimeoutError, text, NULL);
	Py_XDECREF(text);
	return error;
}

/* Returns NULL with the block's own exception set. raises: stolen, or NULL. */
static PyObject *raise_from(const struct limit *limit, PyObject *raises, PyObject *cause)
{
	PyObject *error = raises;

	if (!raises) {
		error = time_is_up(limit);
	} else if (!PyExceptionInstance_Check(raises)) {
		error = PyObject_CallNoArgs(raises);
		Py_DECREF(raises);
	}
	if (!error)
		return NULL;
	Py_INCREF(cause);
	PyException_SetCause(error, cause);
	PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_DECREF(error);
	return NULL;
}

/* __exit__(kind, error, traceback) */
static PyObject *exit_block(PyObject *self, PyObject *args)
{
	struct limit *limit = (struct limit *)self;
	PyObject *kind, *error, *traceback, *raises;
	bool is_end;

	if (!PyArg_ParseTuple(args, "OOO", &kind, &error, &traceback))
		return NULL;
	is_end = error != Py_None && is_own(limit) && stands_for_the_end(limit, error);
	raises = is_end ? limit->raises : NULL;
	Py_XINCREF(raises);
	leave(limit);
	if (is_end)
		return raise_from(limit, raises, error);
	Py_INCREF(Py_False);
	return Py_False;
}

/* ---- from any thread */

/* Returns 1, and what it is or NULL for None; or 0 with an exception set. */
static int convert_exception(PyObject *object, void *place)
{
	*(PyObject **)place = object == Py_None ? NULL : object;
	if (object == Py_None || PyExceptionClass_Check(object) || PyExceptionInstance_Check(object))
		return 1;
	PyErr_Format(PyExc_TypeError, "exception must be an exception or its class, not %S: %R",
		     Py_TYPE(object), object);
	return 0;
}

/* Locked. */
static bool expire(struct limit *limit, PyObject **raises)
{
	struct iowq_work *work;
	PyObject *former;

	if (!limit->limits || !is_alive(limit->limits))
		return false;
	if (*raises) {
		former = limit->raises;
		Py_INCREF(limit->raises = *raises);
		*raises = former; /* for who has no lock */
	}
	limit->raised = false;
	limit->deadline = monotonic_ns();
	work = limit->limits->thread->work;
	io_wq_set_deadline(work->work.wq, &work->work, limit->deadline);
	return true;
}

static PyObject *cancel(PyObject *self, PyObject *args, PyObject *names)
{
	static char *keywords[] = { "exception", NULL };
	PyObject *exception = NULL, *former;
	bool was_open;

	if (!PyArg_ParseTupleAndKeywords(args, names, "|O&:cancel", keywords, convert_exception, &exception))
		return NULL;
	former = exception;
	iowq_lock(&lock);
	was_open = expire((struct limit *)self, &former);
	iowq_unlock(&lock);
	if (was_open && exception)
		Py_XDECREF(former);
	return PyBool_FromLong(was_open);
}

/* ---- the type */

/* What isn't as most are is the package's to judge. */
static int convert_seconds(PyObject *object, void *place)
{
	double *seconds = place;
	PyObject *checked;

	if (PyFloat_CheckExact(object) || PyLong_CheckExact(object)) {
		*seconds = PyFloat_AsDouble(object);
		if (*seconds >= 0 && !PyErr_Occurred())
			return 1;
		PyErr_Clear();
	}
	checked = PyObject_CallFunction(iowq_package.check_seconds, "sO", "seconds", object);
	*seconds = checked ? PyFloat_AsDouble(checked) : 0;
	Py_XDECREF(checked);
	return checked != NULL;
}

/* __init__(seconds, exception=None) */
static int init(PyObject *self, PyObject *args, PyObject *names)
{
	static char *keywords[] = { "seconds", "exception", NULL };
	struct limit *limit = (struct limit *)self;
	PyObject *exception = NULL, *former = limit->exception;

	if (!PyArg_ParseTupleAndKeywords(args, names, "O&|O&:timeout", keywords, convert_seconds,
					 &limit->seconds, convert_exception, &exception))
		return -1;
	Py_XINCREF(limit->exception = exception);
	Py_XDECREF(former);
	return 0;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
	struct limit *limit = (struct limit *)self;

	Py_VISIT(Py_TYPE(self));
	Py_VISIT(limit->exception);
	Py_VISIT(limit->raises);
	Py_VISIT(limit->frame);
	return 0;
}

/* A block that is garbage was never left: a signal's handler came first, say. */
static int clear(PyObject *self)
{
	struct limit *limit = (struct limit *)self;

	leave(limit);
	Py_CLEAR(limit->exception);
	return 0;
}

static void dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	PyObject_GC_UnTrack(self);
	clear(self);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

PyObject *iowq_make_timeout_type(void)
{
	static PyMemberDef members[] = {
		{ "_seconds", T_DOUBLE, offsetof(struct limit, seconds), READONLY, NULL },
		{ "_exception", T_OBJECT, offsetof(struct limit, exception), READONLY, NULL },
		{ 0 },
	};
	static PyMethodDef methods[] = {
		{ "__enter__", enter, METH_NOARGS, NULL },
		{ "__exit__", exit_block, METH_VARARGS, NULL },
		{ "cancel", (PyCFunction)(void (*)(void))cancel, METH_VARARGS | METH_KEYWORDS,
		  "cancel($self, exception=None)\n--\n\n"
		  "Has the block's time be up now; may be called by any thread.\n\n"
		  ":param exception: what is raised instead of what the timeout would raise.\n"
		  ":returns: whether the block was being executed." },
		{ 0 },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "A block with a time limit." },
		{ Py_tp_new, PyType_GenericNew },
		{ Py_tp_init, init },
		{ Py_tp_traverse, traverse },
		{ Py_tp_clear, clear },
		{ Py_tp_dealloc, dealloc },
		{ Py_tp_members, members },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.TimeoutBase",
		.basicsize = sizeof(struct limit),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
		.slots = slots,
	};

	return PyType_FromSpec(&spec);
}
