/* What the binding knows of the package: functions and constants of Python, given to
 * iowq_set_objects, and what its own files call of each other. All functions hold the GIL. */
#ifndef IOWQ_PACKAGE_H
#define IOWQ_PACKAGE_H

#include <Python.h>

#include "binding.h"

extern struct iowq_package {
	PyObject *run, *drop, *publish;  /* see iowq_set_objects */
	PyObject *finished, *cancelled;  /* states of a Work */
	PyObject *deferred;
	PyObject *thread_started, *thread_ended, *initialize, *admit;
	PyObject *name_state, *name_shared, *name_executor; /* of a Work's attributes */
} iowq_package;

/* Ends a call: drops its result, or hands its exception to sys.unraisablehook, which names
 * context. */
void iowq_finish_call(PyObject *result, PyObject *context);
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
void iowq_hold(PyObject *object);
void iowq_let_go(PyObject *object);

#endif
