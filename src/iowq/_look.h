/* See _look.c. All functions hold the GIL. */
#ifndef IOWQ_LOOK_H
#define IOWQ_LOOK_H

#include <Python.h>

#include "io_wq.h"
#include "_binding.h"

/* A worker's thread, as far as its Python code can be interrupted. */
struct iowq_thread {
	PyThreadState *state;
	unsigned long ident;     /* threading.get_ident() */
	struct io_wq *wq;
	int64_t serial;          /* of the work among all of the process */
	PyObject *object;        /* the Work that it runs, borrowed; NULL: none */
	int poked;               /* it is to look where its code is */
	PyObject *tracks;        /* a dict: where its frames were seen since it was poked */
	int woken;               /* its wait was ended from outside: the exception is due */
	unsigned looks_left;
	unsigned ignored;        /* pokes after which it didn't look */
	unsigned calls;          /* pending calls since it was poked */
	long long looked_ns;     /* time spent looking, in this work; waits don't count */
	long long last_look;
	long long reached_at;    /* in this work; 0: the hook wasn't called for it */
	int in_use;              /* by another thread: it mustn't end */
};

void iowq_thread_begin(void);
struct iowq_thread *iowq_thread_begin_work(struct iowq_work *work, PyObject *object);
int iowq_thread_end_work(struct iowq_thread *thread, struct iowq_work *work);
void iowq_thread_end(void);
void iowq_interrupt(void *ctx, struct io_wq *wq); /* the core's hook */

void iowq_look_after_fork(void);

#endif
