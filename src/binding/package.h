/* What the binding knows of the package: functions and classes of Python, and what its own files
 * call of each other. All functions hold the GIL. */
#ifndef IOWQ_PACKAGE_H
#define IOWQ_PACKAGE_H

#include <Python.h>

#include "binding.h"

struct iowq_work;

/* Each by its name in callbacks.py. */
extern struct iowq_package {
	PyObject *work_class, *future_class;
	PyObject *skipped, *cancelled; /* exceptions that end a work */
	PyObject *drop;           /* (work) -> the state that it ends in */
	PyObject *publish;        /* (work, state): ends a work that is shared */
	PyObject *take_error;     /* (work, exception) -> whether somebody cares for it */
	PyObject *call_object;    /* (fn, args, kwargs or nothing) -> what fn returns */
	PyObject *check_callable; /* (name, object), which it refuses */
	PyObject *check_seconds;  /* (name, object) -> float, unless it refuses it */
	PyObject *deferred;       /* the list of what signals' handlers raised in drop and publish */
	PyObject *thread_started; /* (name: str) */
	PyObject *thread_ended;   /* () */
	PyObject *initialize;     /* (executor) -> whether the thread may run its first work */
	PyObject *admit;          /* (token): the core's hook */
	PyObject *make_guest;     /* () -> the Work that stands for the calling thread */
	PyObject *find_block;     /* (frame) -> the frame that a block is part of that it enters */
	PyObject *enter_context;  /* the code of a function that enters blocks for its caller */
} iowq_package;

/* Returns None, a new reference. (Py_RETURN_NONE counts none since 3.12, even if what is built there is to
 * serve 3.10, too, where None can be freed.) */
static inline PyObject *iowq_none(void)
{
	Py_INCREF(Py_None);
	return Py_None;
}

/* Ends a call: drops its result, or hands its exception to sys.unraisablehook, which names
 * context. */
void iowq_finish_call(PyObject *result, PyObject *context);
/* Takes the exception that is set: a new reference. */
PyObject *iowq_take_exception(void);
/* Moves the exception that is set to the end of a list. */
void iowq_append_exception(PyObject *list, PyObject *context);

/* ---- threads.c: the core's hooks, and whether the thread may run works */
void iowq_worker_start(void *ctx, const char *name);
void iowq_worker_busy(void *ctx);
void iowq_worker_idle(void *ctx);
void iowq_worker_stop(void *ctx);
int iowq_initialize_thread(PyObject *executor);

/* ---- works.c: a work's func, and the core's hook when it is done with a work */
void iowq_call_work(struct io_wq_work **work);
void iowq_free_work(struct io_wq_work *work);

/* ---- queues.c: around what cancels pending works */
void iowq_cancel_begins(void);
void iowq_cancel_ends(void);

/* ---- executor_type.c */
PyObject *iowq_make_executor_type(void); /* a new reference; NULL with an exception set */
/* Returns a work for the call (fn, *args, **{names: values behind args}), count without the latter;
 * NULL with an exception set. executor: an ExecutorBase. */
struct iowq_work *iowq_make_work(PyObject *executor, PyObject *class, PyObject *const *call,
				 Py_ssize_t count, PyObject *names);

#endif
