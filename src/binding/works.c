/* How a worker runs a Work, and how a Work ends. */
#include "gil.h"
#include "package.h"
#include "safepoint.h"

#include <sys/syscall.h>
#include <unistd.h>

static PyObject *object_of(struct io_wq_work *work)
{
	return (PyObject *)((struct iowq_work *)work)->object;
}

/* Keeps the exception that is set for later, if it may come from a signal's handler: these
 * run on the main thread. */
static void set_aside_exception(PyObject *context)
{
	if (syscall(SYS_gettid) == getpid())
		iowq_append_exception(iowq_package.deferred, context);
	else
		PyErr_WriteUnraisable(context);
}

/*
 * For functions that must be called to their end. On the main thread a signal's handler
 * can raise at any instruction of one, the first included: then it is called again, and
 * the exception is kept until the call that cancels is over.
 */
static PyObject *call_to_the_end(PyObject *function, PyObject *object, PyObject *arg)
{
	PyObject *result;

	for (int tries = 0; tries < 100; tries++) {
		result = PyObject_CallFunctionObjArgs(function, object, arg, NULL);
		if (result)
			return result;
		set_aside_exception(object);
	}
	return NULL;
}

/* A work's last transition. Nobody shares most works: then no other thread comes
 * between the read and the step, since slots' attributes run no Python code. */
static void end_in(struct iowq_work *work, PyObject *state)
{
	PyObject *object = (PyObject *)work->object, *published = NULL;
	PyObject *shared = PyObject_GetAttr(object, iowq_package.name_shared);

	if (shared && shared != Py_None)
		published = call_to_the_end(iowq_package.publish, object, state);
	if (!shared || (!published && PyObject_SetAttr(object, iowq_package.name_state, state)))
		PyErr_WriteUnraisable(object);
	Py_XDECREF(published);
	Py_XDECREF(shared);
	work->worker = iowq_gil_number();
	__atomic_store_n(&work->ended, 1, __ATOMIC_RELEASE);
}

/* A work was cancelled before it started. */
static void drop_work(struct iowq_work *work, PyObject *object)
{
	PyObject *state = call_to_the_end(iowq_package.drop, object, NULL);

	end_in(work, state ? state : iowq_package.cancelled);
	Py_XDECREF(state);
}

static void run_work(struct iowq_work *work, PyObject *object)
{
	/* so that who exits finds the queue, and waits, while callbacks are called */
	PyObject *executor = PyObject_GetAttr(object, iowq_package.name_executor), *state;
	struct iowq_thread *thread;

	if (!iowq_initialize_thread(executor) ||
	    io_wq_work_cancelled(&work->work)) { /* since it was taken off the queue */
		io_wq_worker_set_outcome(IO_WQ_CANCELLED);
		drop_work(work, object);
		Py_XDECREF(executor);
		return;
	}
	thread = iowq_thread_begin_work(work, object);
	state = PyObject_CallFunctionObjArgs(iowq_package.run, object, NULL);
	if (!state)
		PyErr_WriteUnraisable(object); /* run has put up a shield */
	iowq_thread_end_work(thread, work);
	if (state == iowq_package.cancelled)
		io_wq_worker_set_outcome(IO_WQ_CANCELLED);
	end_in(work, state == iowq_package.cancelled ? iowq_package.cancelled : iowq_package.finished);
	Py_XDECREF(state);
	Py_XDECREF(executor);
}

/* On a worker, or on the thread that cancels: both hold the GIL already, unless
 * it is the last thread of a queue that was given up. */
void iowq_call_work(struct io_wq_work **work)
{
	PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *object = object_of(*work);

	if ((*work)->error)
		drop_work((struct iowq_work *)*work, object);
	else
		run_work((struct iowq_work *)*work, object);
	PyGILState_Release(gil);
}

/*
 * The queue's reference to a Work. While it holds one, the Work can't be
 * garbage, so the collector needn't look at it: else each full collection walks
 * all pending works, which doubled the cost of a work among a million.
 */
void iowq_hold(PyObject *object)
{
	Py_INCREF(object);
	PyObject_GC_UnTrack(object);
}

void iowq_let_go(PyObject *object)
{
	if (Py_REFCNT(object) > 1)
		PyObject_GC_Track(object);
	Py_DECREF(object);
}

void iowq_free_work(struct io_wq_work *work)
{
	PyGILState_STATE gil = PyGILState_Ensure();

	iowq_let_go(object_of(work));
	PyGILState_Release(gil);
}
