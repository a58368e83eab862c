/* See locks.h. */
#include "locks.h"

#ifdef Py_GIL_DISABLED

static bool has_gil = true; /* atomic */

bool iowq_has_gil(void)
{
	return __atomic_load_n(&has_gil, __ATOMIC_RELAXED);
}

void iowq_look_for_gil(void)
{
	PyObject *ask = PySys_GetObject("_is_gil_enabled"), *answer = ask ? PyObject_CallNoArgs(ask) : NULL;

	__atomic_store_n(&has_gil, answer != Py_False, __ATOMIC_RELAXED);
	Py_XDECREF(answer);
	PyErr_Clear();
}

struct call {
	void (*step)(void *arg);
	void *arg;
};

static int visit_first(PyObject *object, void *data)
{
	struct call *call = data;

	(void)object;
	call->step(call->arg);
	return 0; /* that was enough */
}

/* The interpreter offers that for looks at all objects, with all threads stopped. */
void iowq_call_alone(void (*step)(void *arg), void *arg)
{
	PyUnstable_GC_VisitObjects(visit_first, &(struct call){ step, arg });
}

#else

bool iowq_has_gil(void)
{
	return true;
}

void iowq_look_for_gil(void)
{
}

void iowq_call_alone(void (*step)(void *arg), void *arg)
{
	step(arg);
}

#endif
