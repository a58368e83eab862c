/* See _handover.c. */
#ifndef IOWQ_HANDOVER_H
#define IOWQ_HANDOVER_H

#include <Python.h>

#include "_binding.h"

/* For a worker, in place of PyEval_RestoreThread and PyEval_SaveThread. */
void iowq_take_gil(PyThreadState *state);
PyThreadState *iowq_give_gil(void);

void iowq_handover_after_fork(void);

#endif
