/*
 * Works that complete futures of an event loop.
 *
 * Each loop has a mailbox. A work that ends is put into it, by whatever thread. The first that comes
 * into an empty one wakes the loop, which then completes the futures of all that are there,
 * in one callback. With 64 works at a time that is one wake-up for dozens.
 *
 * The mailbox' lock (locks.h) guards what is in it, and whether the loop has been called, or watches; so no
 * work is left behind: whoever puts one sees whether the loop has been called; the loop first
 * notes that it hasn't, and takes works then. A signal's handler that
 * raises may have the loop forget that it was called, as it may any callback. So if it
 * hasn't come for a while it is called again. The rest of a mailbox, and the futures of works, are the
 * loop's thread's.
 *
 * Before a loop sleeps it watches for a moment: works that were submitted in this turn of it may be about
 * to end (gil.c tells more of that). It does so in a callback that the first of them asks for, which
 * comes after all others of the turn, if no other callback waits for the next turn. Then neither of the
 * two threads is woken by the other.
 */
#include "loops.h"
#include "core/futex.h"
#include "gil.h"
#include "locks.h"
#include "package.h"
#include "work.h"

#include <stddef.h>
#include <stdlib.h>
#include <structmember.h>

struct mailbox {
	PyObject_HEAD
	PyObject *weak_references;
	PyObject *weak_loop;      /* constant, as the next */
	PyObject *future_class;
	iowq_lock_t lock;         /* guards all up to is_watching */
	struct loop_work **ended; /* a ring of works that are held, the oldest at first */
	size_t first, count, capacity;
	size_t reserved;          /* works that may come in: never more than capacity */
	long long called_at;      /* CLOCK_MONOTONIC; 0: the loop isn't called */
	bool is_watching;
	bool is_to_watch;         /* in this turn of the loop */
	struct iowq_watch watch;
};

struct loop_work {
	struct iowq_work base;
	struct mailbox *mailbox;
	PyObject *future; /* until it has been completed */
	int failures;     /* to complete it */
};

#define PATIENCE (100 * NSEC_PER_MSEC) /* after which a loop that was called is called again */
enum { CAPACITY_MIN = 16, FAILURES_MAX = 100 };

static PyObject *name_done, *name_set_result, *name_work, *name_loop; /* of futures */
static PyObject *name_ready; /* of loops */

/* ---- the ring */

/* Returns whether there is memory. Locked. */
static bool grow(struct mailbox *mailbox)
{
	size_t capacity = mailbox->capacity ? 2 * mailbox->capacity : CAPACITY_MIN;
	struct loop_work **ended = malloc(capacity * sizeof(*ended));

	if (!ended)
		return false;
	for (size_t i = 0; i < mailbox->count; i++)
		ended[i] = mailbox->ended[(mailbox->first + i) % mailbox->capacity];
	free(mailbox->ended);
	mailbox->ended = ended;
	mailbox->capacity = capacity;
	mailbox->first = 0;
	return true;
}

/* Returns 0, or -1 with an exception set. */
static int reserve(struct mailbox *mailbox)
{
	bool has_room;

	iowq_lock(&mailbox->lock);
	has_room = mailbox->reserved < mailbox->capacity || grow(mailbox);
	mailbox->reserved += has_room;
	iowq_unlock(&mailbox->lock);
	if (has_room)
		return 0;
	PyErr_NoMemory();
	return -1;
}

static void unreserve(struct mailbox *mailbox)
{
	iowq_lock(&mailbox->lock);
	mailbox->reserved--;
	iowq_unlock(&mailbox->lock);
}

static void append(struct mailbox *mailbox, struct loop_work *work)
{
	Py_INCREF(work);
	iowq_lock(&mailbox->lock);
	mailbox->ended[(mailbox->first + mailbox->count++) % mailbox->capacity] = work;
	iowq_unlock(&mailbox->lock);
}

/* Returns the oldest, a new reference, or NULL. */
static struct loop_work *get_first(struct mailbox *mailbox)
{
	struct loop_work *work = NULL;

	iowq_lock(&mailbox->lock);
	if (mailbox->count)
		Py_INCREF(work = mailbox->ended[mailbox->first]);
	iowq_unlock(&mailbox->lock);
	return work;
}

/* Drops the oldest, if it is that. */
static void drop_first(struct mailbox *mailbox, struct loop_work *work)
{
	bool is_first;

	iowq_lock(&mailbox->lock);
	is_first = mailbox->count && mailbox->ended[mailbox->first] == work;
	if (is_first) {
		mailbox->first = (mailbox->first + 1) % mailbox->capacity;
		mailbox->count--;
	}
	iowq_unlock(&mailbox->lock);
	if (is_first)
		Py_DECREF(work);
}

static size_t count_ended(struct mailbox *mailbox)
{
	size_t count;

	iowq_lock(&mailbox->lock);
	count = mailbox->count;
	iowq_unlock(&mailbox->lock);
	return count;
}

static int clear_mailbox(PyObject *self)
{
	struct mailbox *mailbox = (struct mailbox *)self;
	struct loop_work *work;

	while ((work = get_first(mailbox))) {
		drop_first(mailbox, work);
		Py_DECREF(work);
	}
	return 0;
}

/* ---- the loop is called */

/* Returns the loop, a new reference, or NULL. */
static PyObject *loop_of(const struct mailbox *mailbox)
{
	PyObject *loop = PyObject_CallNoArgs(mailbox->weak_loop);

	if (!loop)
		PyErr_Clear();
	if (loop != Py_None)
		return loop;
	Py_DECREF(loop);
	return NULL;
}

/* Notes that the loop is called, unless it was lately, or watches. Returns whether it is to be. */
static bool begin_call(struct mailbox *mailbox)
{
	long long now = monotonic_ns();
	bool is_new;

	iowq_lock(&mailbox->lock);
	is_new = !mailbox->is_watching && (!mailbox->called_at || now >= mailbox->called_at + PATIENCE);
	if (is_new)
		mailbox->called_at = now;
	iowq_unlock(&mailbox->lock);
	return is_new;
}

static void set_called_at(struct mailbox *mailbox, long long when)
{
	iowq_lock(&mailbox->lock);
	mailbox->called_at = when;
	iowq_unlock(&mailbox->lock);
}

/* Has the loop call a method of the mailbox's. Returns 0, or -1 with an exception set. */
static int call_soon(struct mailbox *mailbox, PyObject *loop, const char *how, const char *method)
{
	PyObject *callback = PyObject_GetAttrString((PyObject *)mailbox, method), *handle = NULL;

	if (callback)
		handle = PyObject_CallMethod(loop, how, "O", callback);
	Py_XDECREF(callback);
	Py_XDECREF(handle);
	return handle ? 0 : -1;
}

static bool is_closed_loop(PyObject *loop)
{
	PyObject *type, *value, *traceback, *closed;
	bool answer;

	PyErr_Fetch(&type, &value, &traceback);
	closed = PyObject_CallMethod(loop, "is_closed", NULL);
	answer = closed == Py_True;
	Py_XDECREF(closed);
	PyErr_Restore(type, value, traceback);
	return answer;
}

int iowq_mailbox_wake(struct iowq_work *work)
{
	struct mailbox *mailbox = ((struct loop_work *)work)->mailbox;
	PyObject *loop;
	int failed;

	if (!begin_call(mailbox))
		return 0;
	loop = loop_of(mailbox);
	if (!loop)
		return 0;
	failed = call_soon(mailbox, loop, "call_soon_threadsafe", "deliver");
	if (failed) {
		set_called_at(mailbox, 0);
		if (is_closed_loop(loop)) {
			PyErr_Clear();
			clear_mailbox((PyObject *)mailbox); /* nobody waits for them any more */
			failed = 0;
		}
	}
	Py_DECREF(loop);
	return failed;
}

void iowq_mailbox_put(struct iowq_work *work)
{
	struct mailbox *mailbox = ((struct loop_work *)work)->mailbox;

	append(mailbox, (struct loop_work *)work);
	iowq_watch_tell(&mailbox->watch);
}

/* ---- on the loop */

int iowq_future_is_done(PyObject *future)
{
	PyObject *done = PyObject_CallMethodObjArgs(future, name_done, NULL);
	int answer = done ? done == Py_True : -1;

	Py_XDECREF(done);
	return answer;
}

/* Completes a work's future. Returns 0; or -1 with an exception set, a signal's handler's:
 * it may be repeated. */
static int complete(struct loop_work *work)
{
	PyObject *future = work->future, *result = NULL;
	int done;

	if (!future)
		return 0;
	Py_INCREF(future);
	done = iowq_future_is_done(future);
	if (!done && iowq_work_state(&work->base) == IOWQ_FINISHED && !work->base.exception &&
	    !PyObject_SetAttr(future, name_work, Py_None))
		result = PyObject_CallMethodObjArgs(future, name_set_result,
						    work->base.result ? work->base.result : Py_None, NULL);
	else if (!done && !PyErr_Occurred())
		result = PyObject_CallMethod((PyObject *)work, "_complete", "O", future);
	Py_DECREF(future);
	if (done < 0 || (!done && !result))
		return -1;
	Py_XDECREF(result);
	Py_CLEAR(work->future);
	return 0;
}

/* Has the rest delivered in another turn of the loop. An exception that is set stays so. */
static void deliver_later(struct mailbox *mailbox)
{
	PyObject *type, *value, *traceback, *loop = loop_of(mailbox);

	PyErr_Fetch(&type, &value, &traceback);
	for (int tries = 0; loop && call_soon(mailbox, loop, "call_soon", "deliver"); tries++) {
		PyErr_WriteUnraisable((PyObject *)mailbox);
		if (tries == 100) {
			set_called_at(mailbox, 0); /* the next work's end calls it */
			break;
		}
	}
	Py_XDECREF(loop);
	PyErr_Restore(type, value, traceback);
}

/* Those that are there by now, and no more, so that others have their turn. */
static PyObject *deliver(PyObject *self, PyObject *unused)
{
	struct mailbox *mailbox = (struct mailbox *)self;
	struct loop_work *work;
	size_t left;
	int failed = 0;

	(void)unused;
	set_called_at(mailbox, 0);
	for (left = count_ended(mailbox); left && !failed && (work = get_first(mailbox)); left--) {
		failed = complete(work);
		if (!failed || ++work->failures == FAILURES_MAX)
			drop_first(mailbox, work);
		Py_DECREF(work);
	}
	if (count_ended(mailbox) && begin_call(mailbox))
		deliver_later(mailbox);
	if (failed)
		return NULL;
	return iowq_none();
}

/* Whether callbacks wait for the loop's next turn, as far as it says so: asyncio's own does. */
static bool has_more_to_do(const struct mailbox *mailbox)
{
	PyObject *loop = loop_of(mailbox), *ready = loop ? PyObject_GetAttr(loop, name_ready) : NULL;
	bool answer = ready && PyObject_Size(ready) > 0;

	PyErr_Clear();
	Py_XDECREF(ready);
	Py_XDECREF(loop);
	return answer;
}

/* Whether there are none yet; then nobody calls the loop until it has watched. */
static bool begin_watching(struct mailbox *mailbox)
{
	iowq_watch_begin(&mailbox->watch);
	iowq_lock(&mailbox->lock);
	mailbox->is_watching = !mailbox->count;
	iowq_unlock(&mailbox->lock);
	return mailbox->is_watching;
}

static void end_watching(struct mailbox *mailbox)
{
	iowq_lock(&mailbox->lock);
	mailbox->is_watching = false;
	iowq_unlock(&mailbox->lock);
}

/* The last callback of a turn in which works were submitted. */
static PyObject *watch(PyObject *self, PyObject *unused)
{
	struct mailbox *mailbox = (struct mailbox *)self;

	mailbox->is_to_watch = false;
	if (!has_more_to_do(mailbox) && begin_watching(mailbox)) {
		iowq_watch_for_any(&mailbox->watch);
		end_watching(mailbox);
	}
	if (count_ended(mailbox))
		return deliver(self, unused);
	return iowq_none();
}

/* ---- the types */

/* Mailbox(loop, future_class) */
static int init_mailbox(PyObject *self, PyObject *args, PyObject *names)
{
	struct mailbox *mailbox = (struct mailbox *)self;
	PyObject *loop, *class;

	(void)names;
	if (mailbox->weak_loop || !PyArg_ParseTuple(args, "OO", &loop, &class))
		return -1;
	Py_INCREF(mailbox->future_class = class);
	mailbox->weak_loop = PyWeakref_NewRef(loop, NULL);
	return mailbox->weak_loop ? 0 : -1;
}

static PyObject *belongs_to(PyObject *self, PyObject *loop)
{
	PyObject *own = loop_of((struct mailbox *)self);

	Py_XDECREF(own);
	return PyBool_FromLong(own == loop);
}

static int traverse_mailbox(PyObject *self, visitproc visit, void *arg)
{
	struct mailbox *mailbox = (struct mailbox *)self;

	Py_VISIT(Py_TYPE(self));
	for (size_t i = 0; i < mailbox->count; i++)
		Py_VISIT(mailbox->ended[(mailbox->first + i) % mailbox->capacity]);
	return 0;
}

static void free_mailbox(PyObject *self)
{
	struct mailbox *mailbox = (struct mailbox *)self;
	PyTypeObject *type = Py_TYPE(self);

	PyObject_GC_UnTrack(self);
	if (mailbox->weak_references)
		PyObject_ClearWeakRefs(self);
	clear_mailbox(self);
	Py_CLEAR(mailbox->weak_loop);
	Py_CLEAR(mailbox->future_class);
	free(mailbox->ended);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

PyObject *iowq_make_mailbox_type(void)
{
	static PyMemberDef members[] = {
		{ "__weaklistoffset__", T_PYSSIZET, offsetof(struct mailbox, weak_references), READONLY,
		  NULL },
		{ 0 },
	};
	static PyMethodDef methods[] = {
		{ "belongs_to", belongs_to, METH_O, "Whether it is this loop's." },
		{ "deliver", deliver, METH_NOARGS, "Completes the futures of the works that have ended." },
		{ "watch", watch, METH_NOARGS, "Waits a moment for works that are about to end." },
		{ 0 },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "Works that have ended, on their way to one event loop." },
		{ Py_tp_new, PyType_GenericNew },
		{ Py_tp_init, init_mailbox },
		{ Py_tp_traverse, traverse_mailbox },
		{ Py_tp_clear, clear_mailbox },
		{ Py_tp_dealloc, free_mailbox },
		{ Py_tp_members, members },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.Mailbox",
		.basicsize = sizeof(struct mailbox),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
		.slots = slots,
	};

	return PyType_FromSpec(&spec);
}

/* Returns a future of the loop's, which cancels the work; NULL with an exception set. */
static PyObject *new_future(const struct mailbox *mailbox, PyObject *loop, struct loop_work *work)
{
	PyObject *none = PyTuple_New(0), *names = PyDict_New(), *future = NULL;

	if (none && names && !PyDict_SetItem(names, name_loop, loop))
		future = PyObject_Call(mailbox->future_class, none, names);
	Py_XDECREF(none);
	Py_XDECREF(names);
	if (future && PyObject_SetAttr(future, name_work, (PyObject *)work))
		Py_CLEAR(future);
	return future;
}

/* Gives a new work its future, and the mailbox that it ends in. Returns 0, or -1 with an
 * exception set. */
static int attach(struct loop_work *work, struct mailbox *mailbox, PyObject *loop)
{
	if (reserve(mailbox))
		return -1;
	Py_INCREF(work->mailbox = mailbox);
	work->base.keeps_outcome = work->base.for_loop = true;
	work->future = new_future(mailbox, loop, work);
	if (!work->future)
		return -1;
	if (mailbox->is_to_watch || !iowq_watch_may_pay(&mailbox->watch))
		return 0;
	mailbox->is_to_watch = !call_soon(mailbox, loop, "call_soon", "watch");
	return mailbox->is_to_watch ? 0 : -1;
}

/* LoopWork.make(loop, mailbox, executor, fn, *args, **kwargs): not enqueued yet. */
static PyObject *make_loop_work(PyObject *class, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	enum { LOOP, MAILBOX, EXECUTOR, CALL };
	struct iowq_work *work = iowq_make_work(args[EXECUTOR], class, args + CALL, count - CALL, names);

	if (work && attach((struct loop_work *)work, (struct mailbox *)args[MAILBOX], args[LOOP]))
		Py_CLEAR(work);
	return (PyObject *)work;
}

static int traverse_work(PyObject *self, visitproc visit, void *arg)
{
	struct loop_work *work = (struct loop_work *)self;

	Py_VISIT(work->mailbox);
	Py_VISIT(work->future);
	return iowq_traverse_work(self, visit, arg);
}

static int clear_work(PyObject *self)
{
	Py_CLEAR(((struct loop_work *)self)->future);
	return iowq_clear_work(self);
}

static void free_work(PyObject *self)
{
	struct loop_work *work = (struct loop_work *)self;

	PyObject_GC_UnTrack(self);
	Py_CLEAR(work->future);
	if (work->mailbox) {
		unreserve(work->mailbox);
		Py_CLEAR(work->mailbox);
	}
	iowq_free_work_object(self);
}

PyObject *iowq_make_loop_work_type(PyObject *work_type)
{
	static PyMemberDef members[] = {
		{ "future", T_OBJECT, offsetof(struct loop_work, future), READONLY, NULL },
		{ 0 },
	};
	static PyMethodDef methods[] = {
		{ "make", (PyCFunction)(void (*)(void))make_loop_work, METH_CLASS | METH_FASTCALL | METH_KEYWORDS,
		  "make(loop, mailbox, executor, fn, /, *args, **kwargs): not enqueued yet." },
		{ 0 },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "A work that completes a future of an event loop." },
		{ Py_tp_traverse, traverse_work },
		{ Py_tp_clear, clear_work },
		{ Py_tp_dealloc, free_work },
		{ Py_tp_members, members },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.LoopWorkBase",
		.basicsize = sizeof(struct loop_work),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
		.slots = slots,
	};
	PyObject *bases = PyTuple_Pack(1, work_type), *type;

	name_done = PyUnicode_InternFromString("done");
	name_set_result = PyUnicode_InternFromString("set_result");
	name_work = PyUnicode_InternFromString("_work");
	name_loop = PyUnicode_InternFromString("loop");
	name_ready = PyUnicode_InternFromString("_ready");
	type = bases ? PyType_FromSpecWithBases(&spec, bases) : NULL;
	Py_XDECREF(bases);
	return type;
}
