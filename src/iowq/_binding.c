/*
 * How a worker and the interpreter's lock (GIL) go together.
 *
 * A worker takes the GIL before it takes work and keeps it from one work to
 * the next; a work that blocks gives it up by itself, as any Python code does,
 * and the interpreter makes threads take turns. An idle worker, and one that
 * watches, hold nothing. So a work costs no hand-over of the GIL, and a worker
 * that got the GIL knows that whoever had it is blocked or gave way.
 *
 * Only the limited API is used, but for what _trace.c and _hooks.c say: one build serves
 * every later CPython.
 */
#include <Python.h>

#include "io_wq.h"
#include "_binding.h"
#include "_handover.h"
#include "_safepoint.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static PyObject *run, *drop, *publish, *finished, *cancelled, *interrupts;
static PyObject *thread_started, *thread_ended, *initialize, *room;
static PyObject *name_state, *name_shared, *name_entrance;
static _Thread_local PyThreadState *thread_state; /* while this worker doesn't hold the GIL */
static _Thread_local int fresh; /* this thread has run no work yet */

static PyObject *keep(uintptr_t address)
{
	Py_INCREF((PyObject *)address);
	return (PyObject *)address;
}

int iowq_set_objects(uintptr_t run_, uintptr_t drop_, uintptr_t publish_, uintptr_t finished_,
		     uintptr_t cancelled_, uintptr_t interrupts_, uintptr_t thread_started_,
		     uintptr_t thread_ended_, uintptr_t initialize_, uintptr_t room_)
{
	if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0)
		return 0;
	run = keep(run_);
	drop = keep(drop_);
	publish = keep(publish_);
	finished = keep(finished_);
	cancelled = keep(cancelled_);
	interrupts = keep(interrupts_);
	thread_started = keep(thread_started_);
	thread_ended = keep(thread_ended_);
	initialize = keep(initialize_);
	room = keep(room_);
	name_state = PyUnicode_InternFromString("_state");
	name_shared = PyUnicode_InternFromString("_shared");
	name_entrance = PyUnicode_InternFromString("_entrance");
	return 1;
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
	char short_name[16]; /* that the core has given it; from 3.14 on threading gives another */

	(void)ctx;
	prctl(PR_GET_NAME, short_name);
	PyGILState_Ensure(); /* makes this thread's state; worker_stop ends it */
	iowq_thread_begin();
	finish_call(PyObject_CallFunction(thread_started, "N",
					  /* the core cuts long names, maybe within a character */
					  PyUnicode_DecodeUTF8(name, strlen(name), "ignore")),
		    thread_started);
	prctl(PR_SET_NAME, short_name);
	fresh = 1;
	thread_state = PyEval_SaveThread();
}

static void worker_busy(void *ctx)
{
	(void)ctx;
	iowq_take_gil(thread_state);
}

static void worker_idle(void *ctx)
{
	(void)ctx;
	thread_state = iowq_give_gil();
}

static void worker_stop(void *ctx)
{
	(void)ctx;
	PyEval_RestoreThread(thread_state);
	finish_call(PyObject_CallFunctionObjArgs(thread_ended, NULL), thread_ended);
	iowq_baseline_end();
	iowq_thread_end();
	PyGILState_Release(PyGILState_UNLOCKED);
}

static PyObject *object_of(struct io_wq_work *work)
{
	return (PyObject *)((struct iowq_work *)work)->object;
}

/* Moves the exception that is set to the end of a list. */
static void append_exception(PyObject *list, PyObject *context)
{
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback)
		PyException_SetTraceback(value, traceback);
	if (PyList_Append(list, value))
		PyErr_WriteUnraisable(context);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
}

/* Keeps the exception that is set for later, if it may come from a signal's handler: these
 * run on the main thread. */
static void set_aside_exception(PyObject *context)
{
	if (syscall(SYS_gettid) == getpid())
		append_exception(interrupts, context);
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
 * between the look and the step, since slots' attributes run no Python code. */
static void end_in(struct iowq_work *work, PyObject *state)
{
	PyObject *object = (PyObject *)work->object, *published = NULL;
	PyObject *shared = PyObject_GetAttr(object, name_shared);

	if (shared && shared != Py_None)
		published = call_to_the_end(publish, object, state);
	if (!shared || (!published && PyObject_SetAttr(object, name_state, state)))
		PyErr_WriteUnraisable(object);
	Py_XDECREF(published);
	Py_XDECREF(shared);
	__atomic_store_n(&work->ended, 1, __ATOMIC_RELEASE);
}

/* A work was cancelled before it started. */
static void drop_work(struct iowq_work *work, PyObject *object)
{
	PyObject *state = call_to_the_end(drop, object, NULL);

	end_in(work, state ? state : cancelled);
	Py_XDECREF(state);
}

/*
 * Before a thread's first work, and part of it: an initializer that waits is noticed as
 * any work that does, and holds up no other. Cancel waits for it. Returns whether the
 * thread may run works.
 */
static int initialize_thread(PyObject *entrance)
{
	PyObject *result;

	if (!fresh)
		return 1;
	io_wq_worker_shield();
	result = PyObject_CallFunctionObjArgs(initialize, entrance, NULL);
	fresh = result != Py_True;
	finish_call(result, initialize);
	if (!fresh)
		iowq_baseline_begin();
	io_wq_worker_unshield();
	return !fresh;
}

static void run_work(struct iowq_work *work, PyObject *object)
{
	/* so that who exits finds the queue, and waits, while callbacks are called */
	PyObject *entrance = PyObject_GetAttr(object, name_entrance), *state;
	struct iowq_thread *thread;

	if (!initialize_thread(entrance) ||
	    io_wq_work_cancelled(&work->work)) { /* since it was taken off the queue */
		io_wq_worker_set_outcome(IO_WQ_CANCELLED);
		drop_work(work, object);
		Py_XDECREF(entrance);
		return;
	}
	thread = iowq_thread_begin_work(work, object);
	state = PyObject_CallFunctionObjArgs(run, object, NULL);
	if (!state)
		PyErr_WriteUnraisable(object); /* run has put up a shield */
	iowq_thread_end_work(thread, work);
	if (state == cancelled)
		io_wq_worker_set_outcome(IO_WQ_CANCELLED);
	end_in(work, state == cancelled ? cancelled : finished);
	Py_XDECREF(state);
	Py_XDECREF(entrance);
}

/* On a worker, or on the thread that cancels: both hold the GIL already, unless
 * it is the last thread of a queue that was given up. */
static void call_python(struct io_wq_work **work)
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

/* On a thread with the GIL or without. */
static void call_room(void *ctx)
{
	PyGILState_STATE gil = PyGILState_Ensure();

	finish_call(PyObject_CallFunction(room, "K", (unsigned long long)(uintptr_t)ctx), room);
	PyGILState_Release(gil);
}

struct io_wq *iowq_create(unsigned concurrency, unsigned unbounded, unsigned max_pending,
			  const char *name, unsigned idle_timeout_ms, int cancel_signal,
			  int insists, uintptr_t token)
{
	struct io_wq_data data = {
		.name = name,
		.unbounded = unbounded,
		.max_pending = max_pending,
		.idle_timeout_ms = idle_timeout_ms,
		/* threading.stack_size() would also reset it */
		.stack_size = PyThread_get_stacksize(),
		.cancel_signal = cancel_signal,
		.cancel_error = ECANCELED,
		.cancel_insists = insists,
		.ctx = (void *)token,
		.worker_start = worker_start,
		.worker_busy = worker_busy,
		.worker_idle = worker_idle,
		.worker_stop = worker_stop,
		.free_work = free_work,
		.room = call_room,
		.interrupt = iowq_interrupt,
	};

	return io_wq_create(concurrency, &data);
}

static void put_queue(PyObject *owner)
{
	io_wq_put(PyCapsule_GetPointer(owner, NULL));
}

int iowq_own(struct io_wq *wq, uintptr_t list)
{
	PyObject *owner = PyCapsule_New(wq, NULL, put_queue);
	int failed = !owner || PyList_Append((PyObject *)list, owner);

	if (!owner)
		io_wq_put(wq);
	Py_XDECREF(owner);
	if (failed)
		PyErr_Clear();
	return failed ? -1 : 0;
}

int iowq_enqueue(struct io_wq *wq, struct iowq_work *work, uintptr_t object, uintptr_t val,
		 unsigned flags)
{
	int ret;

	INIT_IO_WORK(&work->work, call_python);
	work->work.flags = flags | (work->waited ? IO_WQ_WORK_WAITED : 0);
	work->object = object;
	work->val = val;
	work->thread = NULL;
	work->ended = 0;
	hold((PyObject *)object);
	ret = val ? io_wq_enqueue_hashed(wq, &work->work, (void *)val) : io_wq_enqueue(wq, &work->work);
	work->taken = ret != -ESHUTDOWN && ret != -EBUSY;
	if (!work->taken) /* so not given to free_work either */
		let_go((PyObject *)object);
	return ret;
}

void iowq_call_first(uintptr_t callbacks_, uintptr_t object, uintptr_t errors)
{
	PyObject *callbacks = (PyObject *)callbacks_, *callback = PyList_GetItem(callbacks, 0), *result;

	Py_INCREF(callback);
	PyList_SetSlice(callbacks, 0, 1, NULL);
	result = PyObject_CallFunctionObjArgs(callback, (PyObject *)object, NULL);
	if (!result)
		append_exception((PyObject *)errors, callback);
	Py_XDECREF(result);
	Py_DECREF(callback);
}

void iowq_report(uintptr_t error, uintptr_t context)
{
	PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), (PyObject *)error);
	PyErr_WriteUnraisable((PyObject *)context);
}

int iowq_share(uintptr_t object_, uintptr_t shared)
{
	PyObject *object = (PyObject *)object_, *present = PyObject_GetAttr(object, name_shared);
	int failed = !present || (present == Py_None &&
				  PyObject_SetAttr(object, name_shared, (PyObject *)shared));

	Py_XDECREF(present);
	if (failed)
		PyErr_Clear();
	return failed ? -1 : 0;
}

void iowq_after_fork(void)
{
	iowq_safepoint_after_fork();
	iowq_handover_after_fork();
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
