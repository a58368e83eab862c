/*
 * The interpreter's own blocking calls: what cancel ends comes out of them as Cancelled.
 *
 * The signal makes the system call fail with ECANCELED (csrc/signal.c), for which the
 * interpreter raises OSError. That is an Exception: code that tries again after errors, or
 * counts them, would do so after a cancel. So a hook (hooks.c) is around each function that
 * may block, and raises Cancelled instead, before anybody has seen it. A call that
 * succeeds, and all calls of threads that run no work, cost one read of a thread-local.
 *
 * The object that was called is told of first (_connections.py): a socket may have to be shut
 * down, and an event loop may stand no exception.
 */
#include "hooks.h"
#include "time_limits.h"
#include "safepoint.h"

#include <errno.h>

static PyObject *call_ended; /* see iowq_hook_call */

/* Whether that is the error that cancel has ended the work's call with. musl's sigwait says -1,
 * whatever it was. */
static int is_cancels_number(long number)
{
#ifdef __GLIBC__
	return number == ECANCELED;
#else
	return number == ECANCELED || number == -1;
#endif
}

/* Whether such an error is set. */
static int is_cancels(void)
{
	PyObject *type, *value, *traceback, *number;
	int is;

	if (!io_wq_worker_interrupted() || !PyErr_ExceptionMatches(PyExc_OSError))
		return 0;
	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	number = value ? PyObject_GetAttrString(value, "errno") : NULL;
	is = number && PyLong_Check(number) && is_cancels_number(PyLong_AsLong(number));
	Py_XDECREF(number);
	PyErr_Clear();
	PyErr_Restore(type, value, traceback);
	return is;
}

PyObject *iowq_end_call(PyObject *object)
{
	PyObject *result = object ? PyObject_CallFunctionObjArgs(call_ended, object, NULL) : NULL;

	if (object && !result && iowq_take_failure(call_ended))
		return NULL;
	if (result && result != Py_None)
		return result;
	Py_XDECREF(result);
	return iowq_raise_interruption();
}

static PyObject *tell_cancel(const struct iowq_call *call)
{
	PyObject *result = iowq_call_original(call);

	if (result || !iowq_is_in_main_interpreter() || !is_cancels())
		return result;
	PyErr_Clear();
	return iowq_end_call(call->self && !PyModule_Check(call->self) ? call->self : NULL);
}

int iowq_hook_call(int n, uintptr_t owner_, const char *name, uintptr_t call_ended_)
{
	PyObject *owner = (PyObject *)owner_, *function;
	enum iowq_method method = (enum iowq_method)(IOWQ_CALLS + n);
	int hooked;

	if (method >= IOWQ_METHODS)
		return 0;
	if (!call_ended)
		Py_XINCREF(call_ended = (PyObject *)call_ended_);
	if (PyType_Check(owner))
		return iowq_hook(method, owner, name, tell_cancel);
	function = PyObject_GetAttrString(owner, name);
	hooked = function && iowq_hook_function(method, function, name, tell_cancel);
	Py_XDECREF(function);
	PyErr_Clear();
	return hooked;
}
