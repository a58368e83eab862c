/*
 * Safepoints by a trace function: CPython 3.10 and 3.11, which have no sys.monitoring, and always a GIL.
 *
 * It is set in the worker's thread state, from outside, while the worker is armed. It is
 * called before each line, and in the frames that were on top then before each instruction; an
 * exception from there is raised at that line, in the handlers that are in force there.
 * A tracer that the thread has already (coverage, a debugger) is kept, sees all its events
 * meanwhile, and is put back.
 *
 * _PyEval_SetTrace is private, as is where a thread state keeps its tracer; no version that
 * has them will change any more. They are looked up by name, and by what changes in a
 * thread state when a tracer is set and when it is called.
 */
#include "safepoint.h"

#include <dlfcn.h>
#include <string.h>

enum { EVENT_CALL = 0, EVENT_LINE = 2, EVENT_RETURN = 3, EVENT_OPCODE = 7 };
enum { STATE_WORDS = 12 }; /* of a thread state, that are looked at */
enum { CALLERS_MAX = 8 };  /* of the frame on top, whose instructions are seen, too */

static int (*set_trace)(PyThreadState *state, iowq_trace_function function, PyObject *context);
static size_t function_word; /* of a thread state; 0: not found. Its object is two words on. */
static size_t tracing_int;   /* how many tracers are being called, as the n-th int of it */

static struct iowq_tracer tracer_of(PyThreadState *state)
{
	struct iowq_tracer tracer;

	memcpy(&tracer.function, (void **)state + function_word, sizeof(tracer.function));
	memcpy(&tracer.object, (void **)state + function_word + 2, sizeof(tracer.object));
	return tracer;
}

static int set_tracer(PyThreadState *state, struct iowq_tracer tracer)
{
	PyObject *type, *value, *traceback;
	int failed;

	PyErr_Fetch(&type, &value, &traceback);
	failed = set_trace(state, tracer.function, tracer.object);
	if (failed)
		PyErr_Clear(); /* an audit hook forbids it */
	PyErr_Restore(type, value, traceback);
	return !failed;
}

/* ---- on the worker */

/* The frame ends: nothing in it is kept alive. */
static void forget_frame(PyObject *frames, PyObject *frame)
{
	PyObject *type, *value, *traceback;

	if (!frames)
		return;
	PyErr_Fetch(&type, &value, &traceback);
	if (PyDict_Contains(frames, frame) == 1)
		PyDict_DelItem(frames, frame);
	PyErr_Restore(type, value, traceback);
}

/* Has the thread's own tracer see an event. It may put another in our place. */
static int pass_on(struct iowq_thread *thread, PyObject *frame, int event, PyObject *arg)
{
	struct iowq_tracer own = thread->tracer;
	int failed;

	if (!own.function || (event == EVENT_OPCODE && thread->by_opcode &&
			      PyDict_Contains(thread->by_opcode, frame) == 1))
		return 0;
	Py_XINCREF(own.object);
	failed = own.function(own.object, frame, event, arg);
	Py_XDECREF(own.object);
	return failed;
}

/* A loop without a line of its own is seen by its instructions alone. */
static void send_opcodes(struct iowq_thread *thread, PyObject *frame)
{
	PyObject *sends = PyObject_GetAttrString(frame, "f_trace_opcodes");

	if (sends == Py_False && !thread->by_opcode)
		thread->by_opcode = PyDict_New();
	if (sends == Py_False && thread->by_opcode &&
	    !PyDict_SetItem(thread->by_opcode, frame, Py_None))
		PyObject_SetAttrString(frame, "f_trace_opcodes", Py_True);
	PyErr_Clear();
	Py_XDECREF(sends);
}

/* In the frame on top, and in those that it was called from: a generator's caller may be a loop
 * of one line. */
static void send_opcodes_of_callers(struct iowq_thread *thread, PyObject *frame)
{
	Py_INCREF(frame);
	for (int depth = 0; depth < CALLERS_MAX && frame && frame != Py_None; depth++) {
		PyObject *caller = PyObject_GetAttrString(frame, "f_back");

		send_opcodes(thread, frame);
		Py_DECREF(frame);
		frame = caller;
	}
	PyErr_Clear();
	Py_XDECREF(frame);
}

static int trace(PyObject *context, PyObject *frame, int event, PyObject *arg)
{
	struct iowq_thread *thread = &iowq_this_thread;

	(void)context;
	if (pass_on(thread, frame, event, arg))
		return -1;
	if (!thread->armed || tracer_of(thread->state).function != trace) {
		iowq_trace_disarm(thread); /* the work has ended, or has a new tracer */
		return 0;
	}
	if (event == EVENT_RETURN) {
		forget_frame(thread->tracks, frame);
		forget_frame(thread->by_opcode, frame);
	}
	if (event != EVENT_LINE && event != EVENT_OPCODE)
		return 0;
	if (iowq_safepoint(frame, thread->next_in == frame ? IOWQ_EVENT_NEXT : event, 0, 0))
		return -1;
	if (thread->next_in)
		send_opcodes(thread, frame);
	return 0;
}

static void stop_opcodes(struct iowq_thread *thread)
{
	PyObject *frames = thread->by_opcode, *frame, *value;
	Py_ssize_t position = 0;

	thread->by_opcode = NULL;
	while (frames && PyDict_Next(frames, &position, &frame, &value))
		if (PyObject_SetAttrString(frame, "f_trace_opcodes", Py_False))
			PyErr_Clear();
	Py_XDECREF(frames);
}

void iowq_trace_disarm(struct iowq_thread *thread)
{
	struct iowq_tracer own = thread->tracer;
	PyObject *type, *value, *traceback;

	thread->tracer = (struct iowq_tracer){ NULL, NULL };
	PyErr_Fetch(&type, &value, &traceback);
	stop_opcodes(thread);
	if (function_word && tracer_of(thread->state).function == trace)
		set_tracer(thread->state, own);
	Py_XDECREF(own.object);
	PyErr_Restore(type, value, traceback);
}

int iowq_trace_is_running(void)
{
	int count;

	memcpy(&count, (int *)PyThreadState_Get() + tracing_int, sizeof(count));
	return function_word && count > 0;
}

/* ---- on any thread */

void iowq_trace_arm(struct iowq_thread *thread)
{
	PyObject *frame = (PyObject *)PyThreadState_GetFrame(thread->state);
	struct iowq_tracer own;

	if (frame && function_word)
		send_opcodes_of_callers(thread, frame);
	Py_XDECREF(frame);
	if (!frame || !function_word)
		return;
	own = tracer_of(thread->state);
	if (own.function == trace)
		return;
	thread->in_use++; /* an audit hook may run, and wait, meanwhile */
	Py_XINCREF(own.object); /* for the thread, and for this call */
	Py_XINCREF(own.object);
	Py_XDECREF(thread->tracer.object);
	thread->tracer = own;
	set_tracer(thread->state, (struct iowq_tracer){ trace, NULL });
	if (!thread->armed) /* the work has ended meanwhile */
		set_tracer(thread->state, own);
	Py_XDECREF(own.object);
	thread->in_use--;
}

/* ---- where a thread state keeps its tracer */

static int count_tracers(PyObject *count, PyObject *frame, int event, PyObject *arg)
{
	(void)frame;
	(void)arg;
	for (size_t i = 0; event == EVENT_CALL && i < 2 * STATE_WORDS; i++)
		((int *)PyBytes_AsString(count))[i] = ((int *)PyThreadState_Get())[i];
	return 0;
}

static void find_words(const void *const *state, const void *object, PyObject *inside)
{
	const int *before = (const int *)state, *during = (const int *)PyBytes_AsString(inside);
	size_t found = 0;

	for (size_t i = 2; i < STATE_WORDS; i++)
		if (state[i] == object && state[i - 2] == (const void *)count_tracers)
			function_word = i - 2;
	for (size_t i = 0; i < 2 * STATE_WORDS && i < 2 * function_word; i++)
		if (before[i] == 0 && during[i] == 1) {
			tracing_int = i;
			found++;
		}
	if (found != 1)
		function_word = 0;
}

/* On a thread that has no tracer. The function calls another: of two counts that go up by
 * one with a call, that of frames goes up by two. */
void iowq_trace_find(PyObject *function)
{
	PyThreadState *state = PyThreadState_Get();
	PyObject *ints = PyBytes_FromStringAndSize(NULL, 2 * STATE_WORDS * sizeof(int)), *result;

	*(void **)&set_trace = dlsym(RTLD_DEFAULT, "_PyEval_SetTrace");
	if (ints && set_trace &&
	    set_tracer(state, (struct iowq_tracer){ count_tracers, ints })) {
		result = PyObject_CallFunctionObjArgs(function, NULL);
		Py_XDECREF(result);
		find_words((const void *const *)state, ints, ints);
		set_tracer(state, (struct iowq_tracer){ NULL, NULL });
	}
	PyErr_Clear();
	Py_XDECREF(ints);
}
