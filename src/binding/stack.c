/*
 * The Python stack of a thread that runs a work.
 *
 * sys._current_frames() would also look into other interpreters, whose lock isn't held; and frames
 * that go on running can't be looked at without a GIL. So all threads stand still, while what
 * is asked of the frames is noted, in plain memory: nothing that runs foreign code, a collection
 * say, may be called then.
 *
 * PyFrame_GetBack is exported by every CPython, but not of the limited API. So it is looked up by name.
 */
#define _GNU_SOURCE
#include "time_limits.h"
#include "locks.h"
#include "safepoint.h"
#include "work.h"

#include <dlfcn.h>
#include <stdlib.h>

struct entry {
	PyObject *code;
	int line;
};

typedef PyFrameObject *(*get_back_t)(PyFrameObject *);

struct stack {
	get_back_t get_back;
	const struct iowq_work *work;
	struct entry *entries; /* from the innermost on */
	size_t count, capacity;
	int no_memory;
};

static void add(struct stack *stack, PyFrameObject *frame)
{
	struct entry *entries = stack->entries;

	if (stack->count == stack->capacity) {
		stack->capacity = stack->capacity ? 2 * stack->capacity : 32;
		entries = realloc(entries, stack->capacity * sizeof(*entries));
		stack->no_memory = !entries;
		if (!entries)
			return;
		stack->entries = entries;
	}
	entries[stack->count].code = (PyObject *)PyFrame_GetCode(frame);
	entries[stack->count++].line = PyFrame_GetLineNumber(frame);
}

static void take(void *stack_)
{
	struct stack *stack = stack_;
	const struct iowq_thread *thread = stack->work->thread;
	const PyObject *last = thread ? iowq_base_frame(thread) : NULL;
	PyFrameObject *frame = thread ? PyThreadState_GetFrame(thread->state) : NULL, *caller;

	for (; frame && !stack->no_memory; frame = caller) {
		add(stack, frame);
		caller = (PyObject *)frame == last ? NULL : stack->get_back(frame);
		Py_DECREF(frame);
	}
	Py_XDECREF(frame);
}

int iowq_get_stack(uintptr_t work, uintptr_t list)
{
	struct stack stack = { .work = (struct iowq_work *)work };
	int failed;

	*(void **)&stack.get_back = dlsym(RTLD_DEFAULT, "PyFrame_GetBack");
	if (stack.get_back)
		iowq_call_alone(take, &stack);
	failed = stack.no_memory;
	for (size_t i = 0; i < stack.count; i++) {
		PyObject *item = Py_BuildValue("(Ni)", stack.entries[i].code, stack.entries[i].line);

		failed |= !item || PyList_Append((PyObject *)list, item);
		Py_XDECREF(item);
	}
	free(stack.entries);
	PyErr_Clear();
	return failed ? -1 : 0;
}
