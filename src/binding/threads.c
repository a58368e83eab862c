/* Workers' threads, as the interpreter sees them. */
#include "context.h"
#include "gil.h"
#include "time_limits.h"
#include "package.h"
#include "safepoint.h"

#include <string.h>
#include <sys/prctl.h>

static _Thread_local PyThreadState *thread_state; /* while this worker doesn't hold the GIL */
static _Thread_local int fresh; /* this thread has run no work yet */

void iowq_worker_start(void *ctx, const char *name)
{
	char short_name[16]; /* that the core has given it; from 3.14 on threading gives another */
	PyObject *decoded;

	(void)ctx;
	prctl(PR_GET_NAME, short_name);
	PyGILState_Ensure(); /* makes this thread's state; worker_stop ends it */
	iowq_thread_begin();
	/* the core cuts long names, maybe within a character */
	decoded = PyUnicode_DecodeUTF8(name, strlen(name), "ignore");
	iowq_finish_call(PyObject_CallFunction(iowq_package.thread_started, "N", decoded),
			 iowq_package.thread_started);
	prctl(PR_SET_NAME, short_name);
	fresh = 1;
	thread_state = PyEval_SaveThread();
}

void iowq_worker_busy(void *ctx)
{
	(void)ctx;
	iowq_gil_acquire(thread_state);
}

void iowq_worker_idle(void *ctx)
{
	(void)ctx;
	thread_state = iowq_gil_release();
}

void iowq_worker_stop(void *ctx)
{
	(void)ctx;
	PyEval_RestoreThread(thread_state);
	iowq_finish_call(PyObject_CallFunctionObjArgs(iowq_package.thread_ended, NULL),
			 iowq_package.thread_ended);
	iowq_baseline_end();
	iowq_context_end();
	iowq_thread_end();
	PyGILState_Release(PyGILState_UNLOCKED);
}

/*
 * Before a thread's first work, and part of it: an initializer that waits is noticed as
 * any work that does, and holds up no other. Cancel waits for it. Returns whether the
 * thread may run works.
 */
int iowq_initialize_thread(PyObject *executor)
{
	PyObject *result;

	if (!fresh)
		return 1;
	io_wq_worker_shield();
	result = PyObject_CallFunctionObjArgs(iowq_package.initialize, executor, NULL);
	fresh = result != Py_True;
	iowq_finish_call(result, iowq_package.initialize);
	if (!fresh)
		iowq_baseline_begin();
	iowq_take_back(&iowq_this_thread);
	io_wq_worker_unshield();
	return !fresh;
}
