/*
 * How a worker and the interpreter's lock (GIL) go together.
 *
 * A worker takes the GIL before it takes work and keeps it from one work to
 * the next; a work that blocks gives it up by itself, as any Python code does,
 * and the interpreter makes threads take turns. An idle worker, and one that
 * watches, hold nothing. So a work costs no hand-over of the GIL, and a worker
 * that got the GIL knows that whoever had it is blocked or gave way.
 *
 * Only the limited API is used, but for two functions that _look.c looks up by
 * name: one build serves every later CPython.
 */
#include <Python.h>

#include "io_wq.h"
#include "_binding.h"
#include "_look.h"

#include <errno.h>
#include <string.h>

static PyObject *run, *drop, *cancelled, *interrupts, *thread_started, *thread_ended;
static _Thread_local PyThreadState *thread_state; /* while this worker doesn't hold the GIL */

static PyObject *keep(uintptr_t address)
{
	Py_INCREF((PyObject *)address);
	return (PyObject *)address;
}

void iowq_set_objects(uintptr_t run_, uintptr_t drop_, uintptr_t cancelled_, uintptr_t interrupts_,
		      uintptr_t thread_started_, uintptr_t thread_ended_)
{
	run = keep(run_);
	drop = keep(drop_);
	cancelled = keep(cancelled_);
	interrupts = keep(interrupts_);
	thread_started = keep(thread_started_);
	thread_ended = keep(thread_ended_);
}

/* Exceptions go to sys.unraisablehook, which names context. */
static void finish_call(PyObject *result, PyObject *context)
{
	if (result)
		Py_DECREF(result);
	else
		PyErr_WriteUnraisable(context);
}

static void worker_start(void *ctx, const char *name)
{
	PyGILState_Ensure(); /* makes this thread's state; worker_stop ends it */
	finish_call(PyObject_CallFunction(thread_started, "KN",
					  (unsigned long long)(uintptr_t)ctx,
					  /* the core cuts long names, maybe within a character */
					  PyUnicode_DecodeUTF8(name, strlen(name), "ignore")),
		    thread_started);
	iowq_thread_begin();
	thread_state = PyEval_SaveThread();
}

static void worker_busy(void *ctx)
{
	(void)ctx;
	PyEval_RestoreThread(thread_state);
}

static void worker_idle(void *ctx)
{
	(void)ctx;
	thread_state = PyEval_SaveThread();
}

static void worker_stop(void *ctx)
{
	(void)ctx;
	PyEval_RestoreThread(thread_state);
	finish_call(PyObject_CallFunctionObjArgs(thread_ended, NULL), thread_ended);
	iowq_thread_end();
	PyGILState_Release(PyGILState_UNLOCKED);
}

static PyObject *object_of(struct io_wq_work *work)
{
	return (PyObject *)((struct iowq_work *)work)->object;
}

/* Puts the exception that is set into the list of interrupts. */
static void set_aside_exception(PyObject *context)
{
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (PyList_Append(interrupts, value))
		PyErr_WriteUnraisable(context);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
}

/*
 * A work was cancelled before it started. On the main thread a signal's handler
 * can raise at any instruction of drop, the first included. The work must be
 * dropped all the same, and the exception not be lost: it is kept until the
 * call that cancels is over.
 */
static void drop_work(PyObject *object)
{
	PyObject *result;

	if (PyObject_SetAttrString(object, "_state", cancelled))
		PyErr_WriteUnraisable(object);
	result = PyObject_CallFunctionObjArgs(drop, object, NULL);
	if (!result) {
		set_aside_exception(object);
		result = PyObject_CallFunctionObjArgs(drop, object, NULL);
	}
	finish_call(result, object);
}

static void run_work(struct iowq_work *work, PyObject *object)
{
	struct iowq_thread *thread = iowq_thread_begin_work(work, object);
	PyObject *result = PyObject_CallFunctionObjArgs(run, object, NULL);

	finish_call(result, object); /* run has put up a shield, if there is an exception */
	if (iowq_thread_end_work(thread, work) && PyObject_SetAttrString(object, "_state", cancelled))
		PyErr_WriteUnraisable(object);
}

/* On a worker, or on the thread that cancels: both hold the GIL already, unless
 * it is the last thread of a queue that was given up. */
static void call_python(struct io_wq_work **work)
{
	PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *object = object_of(*work);

	if ((*work)->error)
		drop_work(object);
	else
		run_work((struct iowq_work *)*work, object);
	PyGILState_Release(gil);
}

/*
 * The queue's reference to a Work. While it holds one, the Work can't be
 * garbage, so the collector needn't look at it: else each full collection walks
 * all pending works, which doubled the cost of a work among a million.
 */
static void hold(PyObject *object)
{
	Py_INCREF(object);
	PyObject_GC_UnTrack(object);
}

static void let_go(PyObject *object)
{
	if (Py_REFCNT(object) > 1)
		PyObject_GC_Track(object);
	Py_DECREF(object);
}

static void free_work(struct io_wq_work *work)
{
	PyGILState_STATE gil = PyGILState_Ensure();

	let_go(object_of(work));
	PyGILState_Release(gil);
}

struct io_wq *iowq_create(unsigned concurrency, const char *name, unsigned idle_timeout_ms,
			  int cancel_signal, int insists, uintptr_t token)
{
	struct io_wq_data data = {
		.name = name,
		.idle_timeout_ms = idle_timeout_ms,
		.cancel_signal = cancel_signal,
		.cancel_error = ECANCELED,
		.cancel_insists = insists,
		.ctx = (void *)token,
		.worker_start = worker_start,
		.worker_busy = worker_busy,
		.worker_idle = worker_idle,
		.worker_stop = worker_stop,
		.free_work = free_work,
		.interrupt = iowq_interrupt,
	};

	return io_wq_create(concurrency, &data);
}

static struct io_wq_work *init_work(struct iowq_work *work, uintptr_t object)
{
	INIT_IO_WORK(&work->work, call_python);
	work->object = object;
	work->thread = NULL;
	hold((PyObject *)object);
	return &work->work;
}

/* A work that the queue didn't take wasn't given to free_work either. */
static int enqueued(struct iowq_work *work, int ret)
{
	if (ret == -ESHUTDOWN)
		let_go((PyObject *)work->object);
	return ret;
}

int iowq_enqueue(struct io_wq *wq, struct iowq_work *work, uintptr_t object)
{
	return enqueued(work, io_wq_enqueue(wq, init_work(work, object)));
}

int iowq_enqueue_hashed(struct io_wq *wq, struct iowq_work *work, uintptr_t object, uintptr_t val)
{
	work->val = val;
	return enqueued(work, io_wq_enqueue_hashed(wq, init_work(work, object), (void *)val));
}

int iowq_enqueue_uncancellable(struct io_wq *wq, struct iowq_work *work, uintptr_t object,
			       uintptr_t val)
{
	init_work(work, object)->flags = IO_WQ_WORK_UNCANCELLABLE;
	work->val = val;
	return enqueued(work, val ? io_wq_enqueue_hashed(wq, &work->work, (void *)val)
				  : io_wq_enqueue(wq, &work->work));
}

int iowq_cancelled(struct iowq_work *work)
{
	return io_wq_work_cancelled(&work->work);
}

static int has_value(struct io_wq_work *work, void *val)
{
	return (work->flags & IO_WQ_WORK_HASHED) && ((struct iowq_work *)work)->val == (uintptr_t)val;
}

enum io_wq_cancel iowq_cancel_value(struct io_wq *wq, uintptr_t val)
{
	return io_wq_cancel_cb(wq, has_value, (void *)val, 1);
}

enum io_wq_cancel iowq_cancel(struct io_wq *wq, struct iowq_work *work)
{
	return io_wq_cancel_work(wq, &work->work);
}

int iowq_flush_wait(struct io_wq_flush *flush, int timeout_ms)
{
	PyThreadState *state = PyEval_SaveThread();
	int ret = io_wq_flush_wait(flush, timeout_ms);

	PyEval_RestoreThread(state);
	return ret;
}

int iowq_stop(struct io_wq *wq, int timeout_ms)
{
	PyThreadState *state = PyEval_SaveThread();
	int ret = io_wq_stop(wq, timeout_ms);

	PyEval_RestoreThread(state);
	return ret;
}

/* One step, because an int's hash and equality run no Python code. */
int iowq_dict_swap(uintptr_t dict, uintptr_t key, uintptr_t old, uintptr_t new_,
		   struct iowq_work *work, int key_held)
{
	int failed;

	if ((uintptr_t)PyDict_GetItem((PyObject *)dict, (PyObject *)key) != old)
		return 0;
	if (new_)
		failed = PyDict_SetItem((PyObject *)dict, (PyObject *)key, (PyObject *)new_);
	else
		failed = PyDict_DelItem((PyObject *)dict, (PyObject *)key);
	if (!failed) {
		work->key_held = key_held;
		return 1;
	}
	PyErr_Clear();
	return -1;
}
