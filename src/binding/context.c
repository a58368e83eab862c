/*
 * Context variables: a work has those of the call that enqueued it.
 *
 * Most calls have none. Their works share an empty context, one for each worker's thread, until one
 * of them sets a variable and leaves it set: it takes the context with it.
 *
 * The functions are documented, and exported by every CPython, but not of the limited API. So they are
 * looked up by name.
 */
#define _GNU_SOURCE
#include "context.h"

#include <dlfcn.h>

static PyObject *(*copy_current)(void), *(*new_context)(void);
static int (*enter)(PyObject *), (*leave)(PyObject *);
static _Thread_local PyObject *spare; /* not entered, and without variables; or NULL */

static void *find(const char *name)
{
	void *address = dlsym(RTLD_DEFAULT, name);

	if (!address && !PyErr_Occurred())
		PyErr_Format(PyExc_ImportError, "iowq needs %s, which this interpreter has not", name);
	return address;
}

int iowq_context_find(void)
{
	*(void **)&copy_current = find("PyContext_CopyCurrent");
	*(void **)&new_context = find("PyContext_New");
	*(void **)&enter = find("PyContext_Enter");
	*(void **)&leave = find("PyContext_Exit");
	return PyErr_Occurred() ? -1 : 0;
}

int iowq_context_copy(PyObject **context)
{
	*context = copy_current();
	if (!*context)
		return -1;
	if (!PyObject_Size(*context))
		Py_CLEAR(*context);
	return 0;
}

PyObject *iowq_context_enter(PyObject *context)
{
	PyObject *own = context;

	if (context) {
		Py_INCREF(own);
	} else {
		own = spare ? spare : new_context();
		spare = NULL;
	}
	if (own && enter(own))
		Py_CLEAR(own);
	return own;
}

void iowq_context_exit(PyObject *context)
{
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	if (leave(context))
		PyErr_WriteUnraisable(context); /* the work has left it, or entered another one */
	else if (!spare && Py_REFCNT(context) == 1 && !PyObject_Size(context))
		spare = context;
	if (context != spare)
		Py_DECREF(context);
	PyErr_Restore(type, value, traceback);
}

void iowq_context_end(void)
{
	Py_CLEAR(spare);
}
