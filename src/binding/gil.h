/* See gil.c. */
#ifndef IOWQ_GIL_H
#define IOWQ_GIL_H

#include <Python.h>

#include "binding.h"
#include "core/spin.h"

/* For a worker, in place of PyEval_RestoreThread and PyEval_SaveThread. */
void iowq_gil_acquire(PyThreadState *state);
PyThreadState *iowq_gil_release(void);

/* The calling worker's number, for iowq_watch: from 1 on. */
uint16_t iowq_gil_number(void);

/* Watching for the end of any of some works. Zeroed: new. */
struct iowq_watch {
	struct io_spin spin;
	uint16_t told; /* atomic: the number of the thread that ended one last; 0: none */
};

/* Whether it is to be tried. */
bool iowq_watch_may_pay(struct iowq_watch *watch);
/* Before that, and before whoever ends a work can know of the watch. */
void iowq_watch_begin(struct iowq_watch *watch);
/* Waits a moment, without the GIL, for a work to end and the thread that ended it to let the GIL go.
 * After iowq_watch_may_pay. */
void iowq_watch_for_any(struct iowq_watch *watch);
/* A work has ended. */
void iowq_watch_tell(struct iowq_watch *watch);

void iowq_gil_after_fork(void);

#endif
