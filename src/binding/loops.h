/* See loops.c. All functions hold the GIL. */
#ifndef IOWQ_LOOPS_H
#define IOWQ_LOOPS_H

#include <Python.h>

struct iowq_work;

/* Return the types, new references; NULL with an exception set. */
PyObject *iowq_make_mailbox_type(void);
PyObject *iowq_make_loop_work_type(PyObject *work_type);

/* Whether a loop's future is done; -1 with an exception set. */
int iowq_future_is_done(PyObject *future);

/* Puts a loop's work, which has ended, into its mailbox. */
void iowq_mailbox_put(struct iowq_work *work);
/* After that: wakes the loop, if it has to be. Returns 0; or -1 with an exception set: it isn't
 * woken, and this is to be called again. */
int iowq_mailbox_wake(struct iowq_work *work);

#endif
