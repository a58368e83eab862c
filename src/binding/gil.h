/* See gil.c. */
#ifndef IOWQ_GIL_H
#define IOWQ_GIL_H

#include <Python.h>

#include "binding.h"

/* For a worker, in place of PyEval_RestoreThread and PyEval_SaveThread. */
void iowq_gil_acquire(PyThreadState *state);
PyThreadState *iowq_gil_release(void);

/* The calling worker's number, for iowq_watch: from 1 on. */
uint32_t iowq_gil_number(void);

void iowq_gil_after_fork(void);

#endif
