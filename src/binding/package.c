/* The package's objects, the binding's types, and what all files do with exceptions. */
#include "package.h"
#include "context.h"
#include "keys.h"
#include "time_limits.h"
#include "loops.h"
#include "operations.h"
#include "work.h"

struct iowq_package iowq_package;

/* Appends to a list an object, whose reference is stolen; NULL: with an exception set. */
static int append(PyObject *list, PyObject *object)
{
	int failed = !object || PyList_Append(list, object);

	Py_XDECREF(object);
	return failed ? -1 : 0;
}

/* Returns a list of them, which all imports of the package share, or NULL with an exception set. */
static PyObject *make_types(void)
{
	PyObject *list = iowq_context_find() ? NULL : PyList_New(0), *work_type;

	if (!list)
		return NULL;
	work_type = iowq_make_work_type();
	if (append(list, work_type) || append(list, iowq_make_future_type(work_type)) ||
	    append(list, iowq_make_executor_type()) || append(list, iowq_make_key_table_type()) ||
	    append(list, iowq_make_mailbox_type()) || append(list, iowq_make_loop_work_type(work_type)) ||
	    append(list, iowq_make_operation_type()) || append(list, iowq_make_inbox_type()) ||
	    append(list, iowq_make_read_buffer_type()) || append(list, iowq_make_line_iterator_type()) ||
	    append(list, iowq_make_timeout_type()))
		Py_CLEAR(list);
	return list;
}

void iowq_get_types(uintptr_t list_)
{
	static PyObject *types;
	PyObject *list = (PyObject *)list_;

	if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0)
		PyErr_SetString(PyExc_ImportError,
				"iowq works in the main interpreter only, not in a subinterpreter");
	else if (!types)
		types = make_types();
	if (PyErr_Occurred() || PyList_SetSlice(list, 0, 0, types))
		iowq_append_exception(list, NULL);
}

int iowq_set_objects(uintptr_t callbacks)
{
	static const struct {
		const char *name;
		PyObject **place;
	} objects[] = {
		{ "Work", &iowq_package.work_class },
		{ "Future", &iowq_package.future_class },
		{ "Skipped", &iowq_package.skipped },
		{ "Cancelled", &iowq_package.cancelled },
		{ "drop", &iowq_package.drop },
		{ "publish", &iowq_package.publish },
		{ "take_error", &iowq_package.take_error },
		{ "call_object", &iowq_package.call_object },
		{ "check_callable", &iowq_package.check_callable },
		{ "check_seconds", &iowq_package.check_seconds },
		{ "deferred", &iowq_package.deferred },
		{ "started", &iowq_package.thread_started },
		{ "ended", &iowq_package.thread_ended },
		{ "initialize", &iowq_package.initialize },
		{ "admit", &iowq_package.admit },
		{ "make_guest", &iowq_package.make_guest },
		{ "find_block", &iowq_package.find_block },
		{ "enter_context", &iowq_package.enter_context },
	};

	for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++) {
		*objects[i].place = PyObject_GetAttrString((PyObject *)callbacks, objects[i].name);
		if (!*objects[i].place) {
			PyErr_WriteUnraisable((PyObject *)callbacks);
			return -1;
		}
	}
	return 0;
}

void iowq_finish_call(PyObject *result, PyObject *context)
{
	if (result)
		Py_DECREF(result);
	else
		PyErr_WriteUnraisable(context);
}

PyObject *iowq_take_exception(void)
{
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback)
		PyException_SetTraceback(value, traceback);
	Py_XDECREF(type);
	Py_XDECREF(traceback);
	return value;
}

void iowq_append_exception(PyObject *list, PyObject *context)
{
	PyObject *error = iowq_take_exception();

	if (PyList_Append(list, error))
		PyErr_WriteUnraisable(context);
	Py_XDECREF(error);
}
