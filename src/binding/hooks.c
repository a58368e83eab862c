/*
 * Hooks on methods of the interpreter's that are written in C.
 *
 * A method's definition (PyMethodDef) points at the function that does the work. A hook
 * puts another function there, which calls the first. Whoever calls the method comes
 * to it, by whatever way: `lock.acquire()`, `with lock:`, a bound method that was made long
 * before. On threads that run no work of ours that costs one read of a thread-local.
 *
 * Nothing else makes a wait for a lock fail: from 3.10 to 3.15 the interpreter looks whether
 * a wait is to end with an exception on the main thread only. (3.12.1 and 3.13.0 are
 * the exceptions.) With a hook on a worker it fails as on the main thread after Ctrl-C, from
 * inside of the call, so that nobody holds the lock, and `with` isn't entered.
 *
 * Where a method's definition stands is not in the interpreter's documents: a descriptor
 * has its type, its name, its qualified name, and then the definition, and a function
 * has it first, in every version so far. That is checked: the first two, and the name in
 * the definition, must be what they should be. Memory is read through the kernel
 * meanwhile, which says EFAULT where this process would crash.
 */
#include "hooks.h"
#include "locks.h"
#include "safepoint.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { TYPE, NAME, QUALIFIED_NAME, DEFINITION, WORDS }; /* of a method descriptor */

typedef PyObject *(*with_keywords)(PyObject *, PyObject *, PyObject *);
typedef PyObject *(*with_vector)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
typedef PyObject *(*with_positional)(PyObject *, PyObject *const *, Py_ssize_t);
typedef PyObject *(*with_class)(PyObject *, PyTypeObject *, PyObject *const *, size_t, PyObject *);

static struct hook {
	iowq_handler handler;
	int flags; /* METH_*: the convention */
	union {
		PyCFunction plain;
		with_keywords keywords;
		with_positional positional;
		with_vector vector;
		with_class class;
	} original;
} hooks[IOWQ_METHODS];

/* ---- calls */

PyObject *iowq_call_original(const struct iowq_call *call)
{
	const struct hook *hook = &hooks[call->method];
	struct io_wq_stack before;
	PyObject *result;

	io_wq_stack_begin(&before, iowq_call_original); /* what is called is the interpreter's */
	switch (hook->flags) {
	case METH_VARARGS | METH_KEYWORDS:
		result = hook->original.keywords(call->self, call->args, call->kwargs);
		break;
	case METH_FASTCALL:
		result = hook->original.positional(call->self, call->vector, call->count);
		break;
	case METH_FASTCALL | METH_KEYWORDS:
		result = hook->original.vector(call->self, call->vector, call->count, call->names);
		break;
	case METH_METHOD | METH_FASTCALL | METH_KEYWORDS:
		result = hook->original.class(call->self, call->defining_class, call->vector,
					      (size_t)call->count, call->names);
		break;
	default:
		result = hook->original.plain(call->self, call->args);
	}
	io_wq_stack_end(&before);
	return result;
}

static PyObject *as_tuple(const struct iowq_arguments *arguments)
{
	PyObject *tuple = arguments->tuple ? arguments->tuple : PyTuple_New(arguments->count);

	Py_XINCREF(arguments->tuple);
	for (Py_ssize_t i = 0; tuple && !arguments->tuple && i < arguments->count; i++) {
		Py_INCREF(arguments->items[i]);
		PyTuple_SetItem(tuple, i, arguments->items[i]);
	}
	return tuple;
}

PyObject *iowq_call_original_with(enum iowq_method method, const struct iowq_call *call,
				  const struct iowq_arguments *arguments)
{
	struct iowq_call other = {
		.method = method,
		.self = call->self,
		.defining_class = call->defining_class,
		.vector = arguments->items,
		.count = arguments->count,
	};
	PyObject *result;

	if (hooks[method].flags & METH_FASTCALL)
		return iowq_call_original(&other);
	other.args = as_tuple(arguments);
	result = other.args ? iowq_call_original(&other) : NULL;
	Py_XDECREF(other.args);
	return result;
}

Py_ssize_t iowq_call_arguments(const struct iowq_call *call)
{
	int flags = hooks[call->method].flags;

	if (flags & METH_FASTCALL)
		return call->count + (call->names ? PyTuple_Size(call->names) : 0);
	if (!(flags & METH_VARARGS))
		return call->args != NULL;
	return PyTuple_Size(call->args) + (call->kwargs ? PyDict_Size(call->kwargs) : 0);
}

static PyObject *find_in_vector(const struct iowq_call *call, Py_ssize_t position, const char *name)
{
	if (position < call->count)
		return call->vector[position];
	for (Py_ssize_t i = 0; call->names && i < PyTuple_Size(call->names); i++)
		if (!PyUnicode_CompareWithASCIIString(PyTuple_GetItem(call->names, i), name))
			return call->vector[call->count + i];
	return NULL;
}

PyObject *iowq_call_argument(const struct iowq_call *call, Py_ssize_t position, const char *name)
{
	int flags = hooks[call->method].flags;

	if (flags & METH_FASTCALL)
		return find_in_vector(call, position, name);
	if (!(flags & METH_VARARGS))
		return NULL;
	if (position < PyTuple_Size(call->args))
		return PyTuple_GetItem(call->args, position);
	return call->kwargs ? PyDict_GetItemString(call->kwargs, name) : NULL;
}

/* The functions that stand in for a method's own, one for each convention. */
#define STAND_INS(method_) \
	static PyObject *plain_##method_(PyObject *self, PyObject *args) \
	{ \
		if (!iowq_is_working()) \
			return hooks[method_].original.plain(self, args); \
		return hooks[method_].handler( \
			&(struct iowq_call){ .method = method_, .self = self, .args = args }); \
	} \
	static PyObject *keywords_##method_(PyObject *self, PyObject *args, PyObject *kwargs) \
	{ \
		if (!iowq_is_working()) \
			return hooks[method_].original.keywords(self, args, kwargs); \
		return hooks[method_].handler(&(struct iowq_call){ \
			.method = method_, .self = self, .args = args, .kwargs = kwargs }); \
	} \
	static PyObject *positional_##method_(PyObject *self, PyObject *const *args, Py_ssize_t count) \
	{ \
		if (!iowq_is_working()) \
			return hooks[method_].original.positional(self, args, count); \
		return hooks[method_].handler(&(struct iowq_call){ \
			.method = method_, .self = self, .vector = args, .count = count }); \
	} \
	static PyObject *vector_##method_(PyObject *self, PyObject *const *args, Py_ssize_t count, \
					  PyObject *names) \
	{ \
		if (!iowq_is_working()) \
			return hooks[method_].original.vector(self, args, count, names); \
		return hooks[method_].handler(&(struct iowq_call){ .method = method_, \
								   .self = self, \
								   .vector = args, \
								   .count = count, \
								   .names = names }); \
	} \
	static PyObject *class_##method_(PyObject *self, PyTypeObject *class, \
					 PyObject *const *args, size_t count, PyObject *names) \
	{ \
		if (!iowq_is_working()) \
			return hooks[method_].original.class(self, class, args, count, names); \
		return hooks[method_].handler(&(struct iowq_call){ .method = method_, \
								   .self = self, \
								   .defining_class = class, \
								   .vector = args, \
								   .count = (Py_ssize_t)count, \
								   .names = names }); \
	}

#define FOR_EACH_METHOD(X) \
	X(IOWQ_LOCK_ACQUIRE) X(IOWQ_LOCK_ACQUIRE_LOCK) X(IOWQ_LOCK_ENTER) X(IOWQ_LOCK_LOCKED) \
	X(IOWQ_RLOCK_ACQUIRE) X(IOWQ_RLOCK_ACQUIRE_LOCK) X(IOWQ_RLOCK_ENTER) \
	X(IOWQ_SIMPLE_QUEUE_GET) X(IOWQ_THREAD_JOIN) \
	X(IOWQ_TLS_READ) X(IOWQ_TLS_WRITE) X(IOWQ_TLS_HANDSHAKE) X(IOWQ_TLS_SHUTDOWN) \
	X(IOWQ_CHANGES) X(IOWQ_CHANGES_MIDDLE) X(IOWQ_CHANGES_LAST) \
	IOWQ_FOR_EACH_CALL(X)

FOR_EACH_METHOD(STAND_INS)

#define STAND_INS_ENTRY(method_) \
	[method_] = { plain_##method_, keywords_##method_, positional_##method_, vector_##method_, \
		      class_##method_ },
static const struct {
	PyCFunction plain;
	with_keywords keywords;
	with_positional positional;
	with_vector vector;
	with_class class;
} stand_ins[IOWQ_METHODS] = { FOR_EACH_METHOD(STAND_INS_ENTRY) };

/* Returns the function for a convention, or NULL. */
static void *stand_in(enum iowq_method method, int flags)
{
	switch (flags) {
	case METH_VARARGS:
	case METH_NOARGS:
	case METH_O:
		return (void *)stand_ins[method].plain;
	case METH_VARARGS | METH_KEYWORDS:
		return (void *)stand_ins[method].keywords;
	case METH_FASTCALL:
		return (void *)stand_ins[method].positional;
	case METH_FASTCALL | METH_KEYWORDS:
		return (void *)stand_ins[method].vector;
	case METH_METHOD | METH_FASTCALL | METH_KEYWORDS:
		return (void *)stand_ins[method].class;
	default:
		return NULL;
	}
}

/* ---- a method's definition */

/* Copies memory through a pipe. Returns 0 where it can't be read, or written. */
static int copy(void *to, const void *from, size_t size)
{
	int pipe_ends[2], copied;

	if (pipe2(pipe_ends, O_CLOEXEC))
		return 0;
	copied = write(pipe_ends[1], from, size) == (ssize_t)size &&
		 read(pipe_ends[0], to, size) == (ssize_t)size;
	close(pipe_ends[0]);
	close(pipe_ends[1]);
	return copied;
}

static int is_named(PyObject *descriptor, const void *name)
{
	PyObject *own = PyObject_GetAttrString(descriptor, "__name__");

	Py_XDECREF(own); /* the descriptor has it */
	return own == name;
}

/* Returns the definition, if that is what it is, or NULL. */
static PyMethodDef *check(PyMethodDef *definition, const char *name)
{
	PyMethodDef content;
	char found[64] = "";

	if (!copy(&content, definition, sizeof(content)) ||
	    !copy(found, content.ml_name, strlen(name) + 1) || strcmp(found, name))
		return NULL;
	return definition;
}

static PyMethodDef *definition_of(PyObject *descriptor, PyObject *type, const char *name)
{
	void *words[WORDS];

	if (Py_TYPE(descriptor) != &PyMethodDescr_Type ||
	    !copy(words, descriptor + 1, sizeof(words)) || words[TYPE] != type ||
	    !is_named(descriptor, words[NAME]))
		return NULL;
	return check(words[DEFINITION], name);
}

struct replacement {
	PyMethodDef *definition;
	enum iowq_method method;
	iowq_handler handler;
};

/* No other thread of the interpreter begins a call meanwhile: else it could find the stand-in, but
 * not yet the hook. (For those of others the stand-in comes last.) */
static void replace(void *arg)
{
	const struct replacement *wanted = arg;
	PyMethodDef *definition = wanted->definition;
	struct hook *hook = &hooks[wanted->method];
	void *function = stand_in(wanted->method, definition->ml_flags);

	if (hook->handler || !function ||
	    !copy(&definition->ml_meth, &definition->ml_meth, sizeof(function)))
		return;
	hook->flags = definition->ml_flags;
	hook->handler = wanted->handler;
	hook->original.plain = definition->ml_meth;
	__atomic_store_n((void **)&definition->ml_meth, function, __ATOMIC_RELEASE);
}

/* Returns whether the method is hooked, by whichever thread. */
static int hook(PyMethodDef *definition, enum iowq_method method, iowq_handler handler)
{
	iowq_call_alone(replace, &(struct replacement){ definition, method, handler });
	return hooks[method].handler != NULL;
}

int iowq_hook(enum iowq_method method, PyObject *type, const char *name, iowq_handler handler)
{
	PyObject *descriptor = PyObject_GetAttrString(type, name);
	PyMethodDef *definition = descriptor ? definition_of(descriptor, type, name) : NULL;
	int hooked = hooks[method].handler || (definition && hook(definition, method, handler));

	Py_XDECREF(descriptor);
	PyErr_Clear();
	return hooked;
}

/* A function has its definition first of all. */
int iowq_hook_function(enum iowq_method method, PyObject *function, const char *name,
		       iowq_handler handler)
{
	PyMethodDef *definition = NULL;

	if (hooks[method].handler)
		return 1;
	if (PyCFunction_Check(function) && copy(&definition, function + 1, sizeof(definition)))
		definition = check(definition, name);
	return definition && definition->ml_meth == PyCFunction_GetFunction(function) &&
	       hook(definition, method, handler);
}
