/*
 * After each work its thread is as it was before the first one: see thread_state.py, which
 * says what that means, and does it. Here it is seen whether there is anything to do, at
 * little cost: by asking for what is cheap to ask for, and by hooks (hooks.c) on the
 * functions that change the rest.
 */
#include "hooks.h"
#include "safepoint.h"

static PyObject *baseline_class, *get_tracer, *get_profiler, *get_running_loop;
static PyObject *name_asyncio, *name_get_loop, *name_restore;

struct baseline {
	PyObject *object;            /* a Baseline, which keeps the next two alive */
	PyObject *tracer, *profiler; /* borrowed */
	int changed;                 /* by the work that runs */
};
static _Thread_local struct baseline this_baseline;

void iowq_set_baseline(uintptr_t class, uintptr_t get_tracer_, uintptr_t get_profiler_)
{
	Py_INCREF(baseline_class = (PyObject *)class);
	Py_INCREF(get_tracer = (PyObject *)get_tracer_);
	Py_INCREF(get_profiler = (PyObject *)get_profiler_);
	name_asyncio = PyUnicode_InternFromString("_asyncio");
	name_get_loop = PyUnicode_InternFromString("_get_running_loop");
	name_restore = PyUnicode_InternFromString("restore");
}

/* The result as a borrowed reference: somebody else has it for as long as it matters. */
static PyObject *call(PyObject *function)
{
	PyObject *result = PyObject_CallNoArgs(function);

	if (!result)
		PyErr_Clear();
	Py_XDECREF(result);
	return result;
}

/* Returns asyncio's function, or NULL: nobody has imported it yet. Threads may find it at once. */
static PyObject *find_get_running_loop(void)
{
	PyObject *asyncio = PyImport_GetModule(name_asyncio), *none = NULL;
	PyObject *function = asyncio ? PyObject_GetAttr(asyncio, name_get_loop) : NULL;

	Py_XDECREF(asyncio);
	PyErr_Clear();
	if (function && !__atomic_compare_exchange_n(&get_running_loop, &none, function, false,
						     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		Py_DECREF(function);
	return function;
}

static int has_running_loop(void)
{
	PyObject *function = __atomic_load_n(&get_running_loop, __ATOMIC_ACQUIRE);

	if (!function)
		function = find_get_running_loop();
	return function && call(function) != Py_None;
}

static void note_tracers(struct baseline *baseline)
{
	baseline->tracer = call(get_tracer);
	baseline->profiler = call(get_profiler);
	baseline->changed = 0;
}

void iowq_baseline_begin(void)
{
	this_baseline.object = PyObject_CallNoArgs(baseline_class);
	if (!this_baseline.object)
		PyErr_WriteUnraisable(baseline_class);
	note_tracers(&this_baseline);
}

void iowq_baseline_end(void)
{
	Py_CLEAR(this_baseline.object);
}

void iowq_baseline_restore(void)
{
	struct baseline *baseline = &this_baseline;
	PyObject *result;

	PyErr_SetExcInfo(NULL, NULL, NULL);
	if (!baseline->changed && call(get_tracer) == baseline->tracer &&
	    call(get_profiler) == baseline->profiler && !has_running_loop())
		return;
	if (!baseline->object)
		return;
	result = PyObject_CallMethodObjArgs(baseline->object, name_restore, NULL);
	if (!result)
		PyErr_WriteUnraisable(baseline->object);
	Py_XDECREF(result);
	note_tracers(baseline);
}

static PyObject *note_change(const struct iowq_call *call)
{
	this_baseline.changed = 1;
	return iowq_call_original(call);
}

int iowq_hook_change(int n, uintptr_t function, const char *name)
{
	return iowq_hook_function(IOWQ_CHANGES + n, (PyObject *)function, name, note_change);
}
