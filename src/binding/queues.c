/* The core's queues, for works that call Python. */
#include "gil.h"
#include "time_limits.h"
#include "locks.h"
#include "operations.h"
#include "package.h"
#include "safepoint.h"
#include "work.h"

/* On a thread with the GIL or without. */
static void call_admit(void *ctx)
{
	PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *admit = iowq_package.admit;

	iowq_finish_call(PyObject_CallFunction(admit, "K", (unsigned long long)(uintptr_t)ctx), admit);
	PyGILState_Release(gil);
}

/* Bytes, 0: the C library's default. musl's is less than the interpreter's limit on recursion
 * takes for granted: there it is glibc's. */
static size_t stack_size(void)
{
	size_t size = PyThread_get_stacksize(); /* threading.stack_size() would also reset it */

#ifndef __GLIBC__
	if (!size)
		return 8 << 20;
#endif
	return size;
}

struct io_wq *iowq_create(unsigned concurrency, unsigned unbounded, unsigned max_pending,
			  const char *name, unsigned idle_timeout_ms, int cancel_signal,
			  int insists, uintptr_t token)
{
	iowq_look_for_gil();
	struct io_wq_data data = {
		.name = name,
		.parallel = !iowq_has_gil(),
		.unbounded = unbounded,
		.max_pending = max_pending,
		.idle_timeout_ms = idle_timeout_ms,
		.stack_size = stack_size(),
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

static struct io_wq_work *core_work(uintptr_t work)
{
	return &((struct iowq_work *)work)->work;
}

/* ---- cancel */

static uint32_t cancels; /* atomic: those that are under way */

void iowq_cancel_begins(void)
{
	__atomic_fetch_add(&cancels, 1, __ATOMIC_ACQ_REL);
}

void iowq_cancel_ends(void)
{
	__atomic_fetch_sub(&cancels, 1, __ATOMIC_ACQ_REL);
}

int iowq_is_cancelling(void)
{
	return __atomic_load_n(&cancels, __ATOMIC_ACQUIRE) != 0;
}

enum io_wq_cancel iowq_cancel(struct io_wq *wq, uintptr_t work)
{
	enum io_wq_cancel answer;

	iowq_cancel_begins();
	answer = io_wq_cancel_work(wq, core_work(work));
	iowq_cancel_ends();
	return answer;
}

void iowq_cancel_all(struct io_wq *wq)
{
	iowq_cancel_begins();
	io_wq_cancel_all(wq);
	iowq_cancel_ends();
}

void iowq_cancel_pending(struct io_wq *wq)
{
	iowq_cancel_begins();
	io_wq_cancel_pending(wq);
	iowq_cancel_ends();
}

void iowq_after_fork(void)
{
	iowq_forks++;
	cancels = 0; /* the parent's */
	iowq_safepoint_after_fork();
	iowq_lending_after_fork();
	iowq_gil_after_fork();
	iowq_operations_after_fork();
}

int iowq_await(uintptr_t work)
{
	return io_wq_worker_await(core_work(work)->wq, core_work(work));
}

/* ---- waits */

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
