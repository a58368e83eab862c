/* A work as an object of Python's: see work_type.c, which says who guards what of it. All functions
 * hold the GIL. */
#ifndef IOWQ_WORK_H
#define IOWQ_WORK_H

#include <Python.h>
#include <stdbool.h>

#include "binding.h"
#include "core/list.h"
#include "locks.h"

struct iowq_key_use;
struct iowq_thread;

/* In this order: those from finished on have ended. */
enum iowq_state { IOWQ_PENDING, IOWQ_RUNNING, IOWQ_FINISHED, IOWQ_CANCELLED, IOWQ_STATES };

struct iowq_work {
	PyObject_HEAD
	struct io_wq_work work; /* the core's */
	PyObject *weak_references;
	iowq_lock_t lock;
	PyObject *executor;  /* and this, until it has ended: */
	PyObject *fn, *args; /* args: a tuple */
	PyObject *kwargs;    /* a dict, or NULL: none */
	PyObject *context;   /* NULL: an empty one */
	PyObject *shared;    /* whom a future tells of its end; NULL: nobody */
	PyObject *result, *exception; /* its outcome, if it keeps one */
	struct iowq_key_use *key_use; /* of hashed work: see keys.h */
	struct iowq_thread *thread;   /* that runs it, or NULL */
	uint16_t worker; /* the number of the thread that ended it: see gil.h */
	uint16_t forks;  /* of the process, before it was enqueued: see iowq_work_state */
	uint8_t state;   /* atomic: enum iowq_state, and whether it is shared */
	uint8_t ended;   /* atomic: its state is final, and worker is set */
	bool key_held;   /* it is counted among its key's works */
	bool ran;        /* a worker has run it */
	bool for_loop;   /* it completes a loop's future: see loops.c */
	char keeps_outcome;
	char taken;        /* the queue has, or had, it */
	char waited;       /* until a full queue admits it, and it is its turn */
};

static inline struct iowq_work *iowq_work_of(struct io_wq_work *work)
{
	return container_of(work, struct iowq_work, work);
}

/* Returns the type, a new reference; NULL with an exception set. */
PyObject *iowq_make_work_type(void);
PyObject *iowq_make_future_type(PyObject *work_type);

/* Returns a work of this class that is pending; NULL with an exception set. args and kwargs (may be
 * NULL) are stolen, in any case. context: borrowed; NULL: an empty one. */
struct iowq_work *iowq_new_work(PyTypeObject *class, PyObject *executor, PyObject *fn, PyObject *args,
				PyObject *kwargs, PyObject *context);

/* Its state. In a forked child, what stayed in the parent is cancelled. */
enum iowq_state iowq_work_state(struct iowq_work *work);
void iowq_set_work_state(struct iowq_work *work, enum iowq_state state);
/* The work's last transition, unless it is shared. Returns whether it was made. */
bool iowq_end_unshared(struct iowq_work *work, enum iowq_state state);
/* What Python code calls a state: a borrowed, interned str. */
PyObject *iowq_state_name(enum iowq_state state);
/* The reverse; IOWQ_STATES if it is none. */
enum iowq_state iowq_state_named(PyObject *name);

/* Whether an exception that the running work has raised is cancel's. */
bool iowq_is_cancelled_by(struct iowq_work *work, PyObject *error);

/* For subtypes: what these slots do for the work in them. The last one frees the memory. */
int iowq_traverse_work(PyObject *self, visitproc visit, void *arg);
int iowq_clear_work(PyObject *self);
void iowq_free_work_object(PyObject *self);

/* Replaces what a field of the work refers to; object: stolen, or NULL. */
void iowq_set_field(struct iowq_work *work, PyObject **field, PyObject *object);

/* Lets go of all that the callable needed, as soon as it has been called. Returns the executor, whose
 * reference is the caller's now; NULL: it has let go before. */
PyObject *iowq_let_go_of_call(struct iowq_work *work);

/* Gives back the queue's reference: see executor_type.c. */
void iowq_release_work(struct iowq_work *work);

/* How often the process has forked before it became this one. */
extern uint16_t iowq_forks;

#endif
