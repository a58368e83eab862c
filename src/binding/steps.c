/*
 * Steps that must be one: no other thread and no signal's handler comes between, since none of
 * them runs any code of Python's until it is done.
 */
#include "package.h"

void iowq_call_first(uintptr_t callbacks_, uintptr_t object, uintptr_t errors)
{
	PyObject *callbacks = (PyObject *)callbacks_, *callback = PyList_GetItem(callbacks, 0), *result;

	Py_INCREF(callback);
	PyList_SetSlice(callbacks, 0, 1, NULL);
	result = PyObject_CallFunctionObjArgs(callback, (PyObject *)object, NULL);
	if (!result)
		iowq_append_exception((PyObject *)errors, callback);
	Py_XDECREF(result);
	Py_DECREF(callback);
}

void iowq_report(uintptr_t error, uintptr_t context)
{
	PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), (PyObject *)error);
	PyErr_WriteUnraisable((PyObject *)context);
}
