/* See context.c. All functions hold the GIL. */
#ifndef IOWQ_CONTEXT_H
#define IOWQ_CONTEXT_H

#include <Python.h>

/* Returns 0, or -1 with an exception set: this interpreter has no such functions. */
int iowq_context_find(void);

/* Stores a copy of the caller's context variables, a new reference, or NULL if there are
 * none. Returns 0, or -1 with an exception set. */
int iowq_context_copy(PyObject **context);

/* Makes it the calling worker's. context: borrowed; NULL: an empty one. Returns what is to be
 * given to iowq_context_exit, or NULL with an exception set. */
PyObject *iowq_context_enter(PyObject *context);
/* An exception that is set stays so. */
void iowq_context_exit(PyObject *entered);

/* Before a thread ends. */
void iowq_context_end(void);

#endif
