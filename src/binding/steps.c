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

int iowq_share(uintptr_t object_, uintptr_t shared)
{
	PyObject *object = (PyObject *)object_, *name = iowq_package.name_shared;
	PyObject *present = PyObject_GetAttr(object, name);
	int failed = !present || (present == Py_None &&
				  PyObject_SetAttr(object, name, (PyObject *)shared));

	Py_XDECREF(present);
	if (failed)
		PyErr_Clear();
	return failed ? -1 : 0;
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
