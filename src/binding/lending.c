/*
 * Threads that run no work, and are lent a worker's part for a block with a time limit.
 *
 * For each there is a guest: a Work that is never called, and counts as running on the thread
 * meanwhile, so that all that ends works ends what the thread does. It is the guest of a queue that has
 * no works (lent.py), and none of what a work leaves on its thread is put back: the thread is somebody's.
 *
 * The guest is kept for as long as the thread has its state in the interpreter. That has a dict, and when it
 * ends, so does a capsule in there.
 */
#include "time_limits.h"
#include "package.h"
#include "safepoint.h"
#include "work.h"

#include <errno.h>
#include <stdlib.h>

enum { SUSPENDS = 0x20 | 0x80 | 0x100 | 0x200 }; /* CO_GENERATOR, coroutines and both */

static struct io_wq *queue; /* that lends; NULL: there is none yet */

void iowq_set_lender(struct io_wq *wq)
{
	queue = wq;
}

bool iowq_is_lent(const struct iowq_thread *thread)
{
	return thread->work && thread->limits && thread->work == thread->limits->guest;
}

/* ---- as long as the thread */

/* The thread's state ends. At the interpreter's end, and in a forked child, that of threads that will
 * never run again. */
static void end_limits(PyObject *capsule)
{
	struct iowq_limits *limits = PyCapsule_GetPointer(capsule, NULL);
	struct iowq_thread *thread = &iowq_this_thread;
	struct iowq_work *guest = limits->guest;

	if (thread->limits == limits) {
		iowq_close_limits(thread);
		iowq_take_back(thread);
		iowq_thread_end();
		thread->limits = NULL;
	} else if (guest && guest->work.wq) {
		iowq_set_thread(guest, NULL);
		io_wq_guest_end(guest->work.wq, &guest->work);
	}
	limits->thread = NULL;
	limits->guest = NULL;
	iowq_put_limits(limits);
	Py_XDECREF((PyObject *)guest);
}

static struct iowq_limits *new_limits(struct iowq_thread *thread)
{
	struct iowq_limits *limits = calloc(1, sizeof(*limits));

	if (!limits)
		return NULL;
	list_init(&limits->open);
	limits->thread = thread;
	limits->references = 1;
	limits->forks = iowq_forks;
	return limits;
}

struct iowq_limits *iowq_limits_of(struct iowq_thread *thread)
{
	PyObject *state = PyThreadState_GetDict(), *capsule;
	struct iowq_limits *limits = thread->limits;
	int failed;

	if (limits)
		return limits;
	limits = state ? new_limits(thread) : NULL;
	capsule = limits ? PyCapsule_New(limits, NULL, end_limits) : NULL;
	if (!capsule) {
		free(limits);
		return (struct iowq_limits *)PyErr_NoMemory();
	}
	thread->limits = limits;
	failed = PyDict_SetItemString(state, "iowq limits", capsule);
	Py_DECREF(capsule); /* if it is in no dict, it has ended all */
	return failed ? NULL : limits;
}

/* ---- lent */

/* Returns 0, or -1 with an exception set. */
static int make_guest(struct iowq_limits *limits)
{
	PyObject *guest = PyObject_CallNoArgs(iowq_package.make_guest);

	if (!guest)
		return -1;
	if (limits->guest) /* a signal's handler was quicker */
		Py_DECREF(guest);
	else
		limits->guest = (struct iowq_work *)guest;
	return 0;
}

int iowq_lend(struct iowq_thread *thread)
{
	struct iowq_limits *limits = thread->limits;
	int ret;

	if (!limits->guest && make_guest(limits))
		return -1;
	if (thread->work) /* the same, and it has left its block open */
		return 0;
	ret = io_wq_guest_begin(queue, &limits->guest->work);
	if (ret) {
		errno = -ret;
		PyErr_SetFromErrno(PyExc_OSError);
		return -1;
	}
	thread->state = PyThreadState_Get();
	iowq_thread_begin_work(limits->guest);
	return 0;
}

void iowq_take_back(struct iowq_thread *thread)
{
	struct iowq_work *guest;

	if (!iowq_is_lent(thread))
		return;
	guest = thread->work;
	iowq_close_limits(thread);
	io_wq_guest_end(guest->work.wq, &guest->work);
	iowq_thread_end_work(thread, guest);
}

void iowq_lending_after_fork(void)
{
	queue = NULL;
	iowq_this_thread.limits = NULL; /* its capsule has them until there are others */
}

/* ---- whose block it is */

static long flags_of(PyObject *code)
{
	static PyObject *name;
	PyObject *flags;
	long value;

	if (!name)
		name = PyUnicode_InternFromString("co_flags");
	flags = PyObject_GetAttr(code, name);
	value = flags ? PyLong_AsLong(flags) : -1;
	Py_XDECREF(flags);
	return value;
}

/* Most often the frame that calls. */
PyObject *iowq_find_block(void)
{
	PyObject *frame = (PyObject *)PyEval_GetFrame(), *code;
	bool is_plain;

	if (!frame)
		return NULL;
	code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
	is_plain = code != iowq_package.enter_context && !(flags_of(code) & SUSPENDS);
	Py_DECREF(code);
	if (!is_plain)
		return PyObject_CallFunctionObjArgs(iowq_package.find_block, frame, NULL);
	Py_INCREF(frame);
	return frame;
}
