/* The core's queues, for works that call Python. */
#include "gil.h"
#include "package.h"
#include "safepoint.h"

#include <errno.h>

/* On a thread with the GIL or without. */
static void call_admit(void *ctx)
{
	PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *admit = iowq_package.admit;

	iowq_finish_call(PyObject_CallFunction(admit, "K", (unsigned long long)(uintptr_t)ctx), admit);
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
		.worker_start = iowq_worker_start,
		.worker_busy = iowq_worker_busy,
		.worker_idle = iowq_worker_idle,
		.worker_stop = iowq_worker_stop,
		.free_work = iowq_free_work,
		.admit = call_admit,
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

int iowq_enqueue(struct io_wq *wq, struct iowq_work *work, uintptr_t object, uintptr_t key,
		 unsigned flags)
{
	int ret;

	INIT_IO_WORK(&work->work, iowq_call_work);
	work->work.flags = flags | (work->waited ? IO_WQ_WORK_WAITED : 0);
	work->object = object;
	work->key = key;
	work->thread = NULL;
	work->ended = 0;
	iowq_hold((PyObject *)object);
	ret = key ? io_wq_enqueue_hashed(wq, &work->work, (void *)key) : io_wq_enqueue(wq, &work->work);
	work->taken = ret != -ESHUTDOWN && ret != -EBUSY;
	if (!work->taken) /* so not given to free_work either */
		iowq_let_go((PyObject *)object);
	return ret;
}

void iowq_after_fork(void)
{
	iowq_safepoint_after_fork();
	iowq_gil_after_fork();
}

int iowq_await(struct iowq_work *work)
{
	return io_wq_worker_await(work->work.wq, &work->work);
}

int iowq_cancelled(struct iowq_work *work)
{
	return io_wq_work_cancelled(&work->work);
}

static int has_key(struct io_wq_work *work, void *key)
{
	return (work->flags & IO_WQ_WORK_HASHED) && ((struct iowq_work *)work)->key == (uintptr_t)key;
}

enum io_wq_cancel iowq_cancel_key(struct io_wq *wq, uintptr_t key)
{
	return io_wq_cancel_cb(wq, has_key, (void *)key, 1);
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
