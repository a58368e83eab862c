/* Operations on files as objects of Python's: see operations.c. All functions hold the GIL, unless they say
 * otherwise. */
#ifndef IOWQ_OPERATIONS_H
#define IOWQ_OPERATIONS_H

#include <Python.h>

#include "binding.h"
#include "io_wq_io.h"

#include <stdbool.h>

struct inbox;

struct operation {
	PyObject_HEAD
	struct io_wq_io io;
	struct stat status;
	PyObject *kept[2]; /* what io points into: bytes, or whoever keeps memory where it is */
	PyObject *bytes;   /* that a read fills, or NULL */
	PyObject *result;  /* once it has been asked for */
	struct operation *next; /* in an inbox, once it has completed */
	struct inbox *inbox;    /* of the loop that is to be told, while it is under way, or NULL */
	PyObject *future;       /* that loop's */
	unsigned failures;      /* to complete it */
	uint32_t under_way;     /* atomic: 1 from submit on, until the core has done with it; 2: a thread waits for that */
	bool is_taken;          /* the descriptor that it has opened, by its owner */
	bool owes_turn;         /* to its loop, before whoever awaits it goes on */
	PyObject *turn;         /* an iterator, while the loop has that turn; or NULL */
};

/* Return the types, new references; NULL with an exception set. */
PyObject *iowq_make_operation_type(void);
PyObject *iowq_make_inbox_type(void);
PyObject *iowq_make_read_buffer_type(void);
PyObject *iowq_make_line_iterator_type(void);

/* ---- operations.c */

/* Returns what the operation has to say, a new reference; NULL with an exception set. */
PyObject *iowq_operation_result(struct operation *operation);

/* Counts a read that needed no operation; returns whether the thread's loop is to have a turn, before
 * the next one. */
bool iowq_count_buffered_read(void);
/* Counts one, too, and returns whether the loop is to have a turn, which the caller gives it now. */
bool iowq_take_turn(void);

/* ---- inbox.c */

/* Has a worker do the operation, and tell the inbox, which has the future completed. inbox, future: borrowed.
 * key: see io_wq_enqueue_hashed. Returns 0, or -1 with an exception set. */
int iowq_submit_operation(struct operation *operation, PyObject *inbox, PyObject *future, void *key);
/* Ends it, if it is under way and can be ended. Returns whether it is a stream's: it ends at once. */
bool iowq_cancel_operation(struct operation *operation);
/* In a forked child: the threads stayed in the parent, and so did what they do. */
void iowq_operations_after_fork(void);

#endif
