/* Hooks on the interpreter's methods: see hooks.c. All functions hold the GIL. */
#ifndef IOWQ_HOOKS_H
#define IOWQ_HOOKS_H

#include <Python.h>

/* The interpreter's own calls of the system: blocking_calls.c has a table of them. */
#define IOWQ_FOR_EACH_CALL(X) \
	X(IOWQ_CALL_0) X(IOWQ_CALL_1) X(IOWQ_CALL_2) X(IOWQ_CALL_3) X(IOWQ_CALL_4) X(IOWQ_CALL_5) X(IOWQ_CALL_6) \
	X(IOWQ_CALL_7) X(IOWQ_CALL_8) X(IOWQ_CALL_9) X(IOWQ_CALL_10) X(IOWQ_CALL_11) X(IOWQ_CALL_12) X(IOWQ_CALL_13) \
	X(IOWQ_CALL_14) X(IOWQ_CALL_15) X(IOWQ_CALL_16) X(IOWQ_CALL_17) X(IOWQ_CALL_18) X(IOWQ_CALL_19) X(IOWQ_CALL_20) \
	X(IOWQ_CALL_21) X(IOWQ_CALL_22) X(IOWQ_CALL_23) X(IOWQ_CALL_24) X(IOWQ_CALL_25) X(IOWQ_CALL_26) X(IOWQ_CALL_27) \
	X(IOWQ_CALL_28) X(IOWQ_CALL_29) X(IOWQ_CALL_30) X(IOWQ_CALL_31) X(IOWQ_CALL_32) X(IOWQ_CALL_33) X(IOWQ_CALL_34) \
	X(IOWQ_CALL_35) X(IOWQ_CALL_36) X(IOWQ_CALL_37) X(IOWQ_CALL_38) X(IOWQ_CALL_39) X(IOWQ_CALL_40) X(IOWQ_CALL_41) \
	X(IOWQ_CALL_42) X(IOWQ_CALL_43) X(IOWQ_CALL_44) X(IOWQ_CALL_45) X(IOWQ_CALL_46) X(IOWQ_CALL_47) X(IOWQ_CALL_48) \
	X(IOWQ_CALL_49) X(IOWQ_CALL_50) X(IOWQ_CALL_51) X(IOWQ_CALL_52) X(IOWQ_CALL_53) X(IOWQ_CALL_54) X(IOWQ_CALL_55)
#define IOWQ_AS_CONSTANT(name) name,

/* The methods, and functions, that can be hooked. */
enum iowq_method {
	IOWQ_LOCK_ACQUIRE,
	IOWQ_LOCK_ACQUIRE_LOCK,
	IOWQ_LOCK_ENTER,
	IOWQ_LOCK_LOCKED,
	IOWQ_RLOCK_ACQUIRE,
	IOWQ_RLOCK_ACQUIRE_LOCK,
	IOWQ_RLOCK_ENTER,
	IOWQ_SIMPLE_QUEUE_GET,
	IOWQ_THREAD_JOIN,
	IOWQ_TLS_READ,
	IOWQ_TLS_WRITE,
	IOWQ_TLS_HANDSHAKE,
	IOWQ_TLS_SHUTDOWN,
	IOWQ_CHANGES, /* functions that change what a thread is like; see baseline.c */
	IOWQ_CHANGES_MIDDLE,
	IOWQ_CHANGES_LAST,
	IOWQ_FOR_EACH_CALL(IOWQ_AS_CONSTANT)
	IOWQ_METHODS,
	IOWQ_CALLS = IOWQ_CALL_0, /* the first of them */
};

/* A call of a hooked method by a work, in whichever of the interpreter's conventions. */
struct iowq_call {
	enum iowq_method method;
	PyObject *self;
	PyTypeObject *defining_class;
	PyObject *args, *kwargs;      /* a tuple, or the one argument; a dict */
	PyObject *const *vector;      /* or these */
	Py_ssize_t count;             /* of what is positional */
	PyObject *names;              /* of the vector's other arguments */
};

/* What a hook does: returns a new reference, or NULL with an exception. */
typedef PyObject *(*iowq_handler)(const struct iowq_call *call);

/* Has a type's method call handler whenever a work calls it. Returns 1, or 0: it can't be
 * hooked, and is as it was; no exception is set. Once for each method; it stays. */
int iowq_hook(enum iowq_method method, PyObject *type, const char *name, iowq_handler handler);

/* The same for a function of a module. */
int iowq_hook_function(enum iowq_method method, PyObject *function, const char *name,
		       iowq_handler handler);

/* blocking_calls.c: what a call that cancel has ended with an error returns: NULL, with
 * Cancelled set, or what the package says. object: what it was made on (a socket, say), or NULL. */
PyObject *iowq_end_call(PyObject *object);

/* Positional arguments, borrowed; and the same as a tuple, or NULL. */
struct iowq_arguments {
	PyObject *items[2];
	Py_ssize_t count;
	PyObject *tuple;
};

/* Calls the method as it was called, or another one of the same object with other arguments. */
PyObject *iowq_call_original(const struct iowq_call *call);
PyObject *iowq_call_original_with(enum iowq_method method, const struct iowq_call *call,
				  const struct iowq_arguments *arguments);

/* Returns an argument, by its position or its name, as a borrowed reference, or NULL. */
PyObject *iowq_call_argument(const struct iowq_call *call, Py_ssize_t position, const char *name);
Py_ssize_t iowq_call_arguments(const struct iowq_call *call); /* how many there are */

#endif
