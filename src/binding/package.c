/* The package's objects, and what all files do with exceptions. */
#include "package.h"

struct iowq_package iowq_package;

static PyObject *keep(uintptr_t address)
{
	Py_INCREF((PyObject *)address);
	return (PyObject *)address;
}

int iowq_set_objects(uintptr_t run, uintptr_t drop, uintptr_t publish, uintptr_t finished,
		     uintptr_t cancelled, uintptr_t deferred, uintptr_t thread_started,
		     uintptr_t thread_ended, uintptr_t initialize, uintptr_t admit)
{
	if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0)
		return 0;
	iowq_package = (struct iowq_package){
		.run = keep(run),
		.drop = keep(drop),
		.publish = keep(publish),
		.finished = keep(finished),
		.cancelled = keep(cancelled),
		.deferred = keep(deferred),
		.thread_started = keep(thread_started),
		.thread_ended = keep(thread_ended),
		.initialize = keep(initialize),
		.admit = keep(admit),
		.name_state = PyUnicode_InternFromString("_state"),
		.name_shared = PyUnicode_InternFromString("_shared"),
		.name_executor = PyUnicode_InternFromString("_executor"),
	};
	return 1;
}

void iowq_finish_call(PyObject *result, PyObject *context)
{
	if (result)
		Py_DECREF(result);
	else
		PyErr_WriteUnraisable(context);
}

void iowq_append_exception(PyObject *list, PyObject *context)
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
