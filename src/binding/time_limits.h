/* Time limits: see time_limits.c and lending.c. All functions hold the GIL. */
#ifndef IOWQ_LIMITS_H
#define IOWQ_LIMITS_H

#include <Python.h>
#include <stdbool.h>

#include "binding.h"

struct iowq_thread;
struct iowq_work;

/* What a thread has for its limits. It is the thread's, and that of each block that is open. */
struct iowq_limits {
	struct io_wq_list open;     /* of the work that runs, the outermost first */
	struct iowq_thread *thread; /* NULL: it has ended */
	struct iowq_work *guest;    /* stands for the thread when it runs no work; NULL: not yet */
	unsigned references;
	uint16_t forks;             /* of the process, when it was made */
};

/* Raises what the calling work is to be ended with: what its limit says, or Cancelled. Returns NULL. */
PyObject *iowq_raise_interruption(void);
/* The thread's work ends: what is left open of its blocks, by generators say, is open no more. */
void iowq_close_limits(struct iowq_thread *thread);
/* Gives up one reference, with no lock held. */
void iowq_put_limits(struct iowq_limits *limits);

/* The frame that all that is lent to the thread is for, borrowed; NULL: it isn't known. */
PyObject *iowq_base_frame(const struct iowq_thread *thread);

PyObject *iowq_make_timeout_type(void); /* a new reference; NULL with an exception set */

/* ---- lending.c */

/* Has the calling thread, which runs no work, run its guest. Returns 0, or -1 with an exception set. */
int iowq_lend(struct iowq_thread *thread);
/* The reverse, if that is so. */
void iowq_take_back(struct iowq_thread *thread);
bool iowq_is_lent(const struct iowq_thread *thread);
void iowq_lending_after_fork(void);
/* Returns the calling thread's; NULL with an exception set. */
struct iowq_limits *iowq_limits_of(struct iowq_thread *thread);
/* Returns the frame that a block is part of, a new reference, or NULL: it isn't known. With an exception
 * set: there can be no block. */
PyObject *iowq_find_block(void);

#endif
