/*
 * Operations on files that workers do, and how loops learn of their ends.
 *
 * One queue of the core does all of the process' operations. It has no hooks that take the GIL, so that its
 * workers neither wait for Python nor keep it waiting.
 *
 * Each loop has an inbox: a list of operations that have completed, and an eventfd, which the loop reads. A
 * worker puts one in by an atomic exchange, and whoever finds the list empty writes to the eventfd: once for
 * all that come until the loop takes the whole list. By then the operation, and the inbox with it, may be let go of; so
 * the inbox counts who is putting something in. All else of it is the loop's thread's.
 *
 * An operation under way is held: submit takes a reference, which whoever empties the inbox gives back. So is
 * its inbox, by the operation.
 */
#include "loops.h"
#include "operations.h"
#include "package.h"

#include "core/futex.h"
#include "core/list.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { WORKERS = 64, FAILURES_MAX = 100 };

struct inbox {
	PyObject_HEAD
	PyObject *weak_references;
	int eventfd;                 /* constant; < 0: not yet made */
	struct operation *completed; /* atomic: the latest one, which leads to those before it */
	unsigned putting;            /* atomic: workers in put(), for whom the eventfd stays open */
};

static PyObject *name_set_result, *name_set_exception;

/* ---- the queue */

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static struct io_wq *queue; /* atomic; set once, locked */

/* The first that comes into an empty list tells the loop. The queue's hook: without the GIL. */
static void put(struct io_wq_work *work)
{
	struct operation *operation = container_of(work, struct operation, io.work);
	struct inbox *inbox = operation->inbox;
	struct operation *before = __atomic_load_n(&inbox->completed, __ATOMIC_RELAXED);

	if (__atomic_exchange_n(&operation->under_way, 0, __ATOMIC_ACQ_REL) > 1)
		futex_wake(&operation->under_way, INT_MAX);
	__atomic_fetch_add(&inbox->putting, 1, __ATOMIC_RELAXED);
	do
		operation->next = before;
	while (!__atomic_compare_exchange_n(&inbox->completed, &before, operation, 0, __ATOMIC_ACQ_REL,
					    __ATOMIC_RELAXED));
	if (!before)
		eventfd_write(inbox->eventfd, 1);
	__atomic_fetch_sub(&inbox->putting, 1, __ATOMIC_RELEASE); /* from here on it may be gone */
}

/* Returns the queue, or NULL with errno. */
static struct io_wq *get_queue(void)
{
	struct io_wq_data data = { .name = "iowq-files", .parallel = 1, .free_work = put };
	struct io_wq *wq = __atomic_load_n(&queue, __ATOMIC_ACQUIRE);

	if (wq)
		return wq;
	pthread_mutex_lock(&starting);
	if (!queue)
		__atomic_store_n(&queue, io_wq_create(WORKERS, &data), __ATOMIC_RELEASE);
	wq = queue;
	pthread_mutex_unlock(&starting);
	return wq;
}

void iowq_operations_after_fork(void)
{
	pthread_mutex_init(&starting, NULL);
	queue = NULL;
}

/* What the operation has from submit on, until it has left the inbox. */
static void hold(struct operation *operation, PyObject *inbox, PyObject *future)
{
	Py_INCREF(operation);
	Py_INCREF(inbox);
	Py_INCREF(future);
	operation->inbox = (struct inbox *)inbox;
	operation->future = future;
	__atomic_store_n(&operation->under_way, 1, __ATOMIC_RELAXED);
}

static void let_go(struct operation *operation)
{
	struct inbox *inbox = operation->inbox;

	operation->inbox = NULL;
	__atomic_store_n(&operation->under_way, 0, __ATOMIC_RELAXED);
	if (operation->io.kind == IO_WQ_IO_WRITE)
		Py_CLEAR(operation->kept[0]); /* it may be large, and there are those who keep the latest one */
	Py_CLEAR(operation->future);
	Py_DECREF(operation);
	Py_DECREF(inbox);
}

int iowq_submit_operation(struct operation *operation, PyObject *inbox, PyObject *future, void *key)
{
	struct io_wq *wq = get_queue();
	int error = wq ? 0 : -errno;

	if (!error) {
		hold(operation, inbox, future);
		error = io_wq_enqueue_io(wq, &operation->io, key);
		if (!error || error == -EAGAIN)
			return 0; /* without a thread it has completed as cancelled */
		let_go(operation);
	}
	errno = -error;
	PyErr_SetFromErrno(PyExc_OSError);
	return -1;
}

bool iowq_cancel_operation(struct operation *operation)
{
	struct io_wq *wq = __atomic_load_n(&queue, __ATOMIC_ACQUIRE);

	if (!wq || !operation->inbox)
		return false;
	io_wq_cancel_work(wq, &operation->io.work);
	return __atomic_load_n(&operation->io.work.flags, __ATOMIC_RELAXED) & IO_WQ_WORK_UNBOUND;
}

/* What may wait for ever, and nobody loses anything by its end. */
static int is_endless(struct io_wq_work *work, void *data)
{
	const struct io_wq_io *io = container_of(work, struct io_wq_io, work);

	(void)data;
	return io->kind == IO_WQ_IO_OPEN || io->kind == IO_WQ_IO_READ_FILE ||
	       (io->kind == IO_WQ_IO_READ && work->flags & IO_WQ_WORK_UNBOUND);
}

int iowq_finish_operations(void)
{
	struct io_wq *wq = __atomic_load_n(&queue, __ATOMIC_ACQUIRE);
	PyThreadState *state;
	int ret;

	if (!wq)
		return 0;
	io_wq_cancel_cb(wq, is_endless, NULL, 1);
	state = PyEval_SaveThread();
	ret = io_wq_flush(wq, -1);
	PyEval_RestoreThread(state);
	return ret;
}

/* ---- an inbox is emptied */

/* Takes all that have completed, the first one first. */
static struct operation *take_completed(struct inbox *inbox)
{
	struct operation *latest = __atomic_exchange_n(&inbox->completed, NULL, __ATOMIC_ACQ_REL), *first = NULL;

	while (latest) {
		struct operation *before = latest->next;

		latest->next = first;
		first = latest;
		latest = before;
	}
	return first;
}

static void put_back(struct operation *first)
{
	for (struct operation *next; first; first = next) {
		next = first->next;
		put(&first->io.work);
	}
}

/* Completes an operation's future. Returns 0, or -1 with an exception set: a signal's handler's. */
static int complete(struct operation *operation)
{
	int done = iowq_future_is_done(operation->future);
	PyObject *value, *method, *answer;

	if (done)
		return done < 0 ? -1 : 0;
	value = iowq_operation_result(operation);
	method = value ? name_set_result : name_set_exception;
	if (!value)
		value = iowq_take_exception();
	answer = PyObject_CallMethodObjArgs(operation->future, method, value, NULL);
	Py_XDECREF(value);
	Py_XDECREF(answer);
	return answer ? 0 : -1;
}

/* drain(): completes the futures of the operations that have completed. */
static PyObject *drain(PyObject *self, PyObject *unused)
{
	struct inbox *inbox = (struct inbox *)self;
	struct operation *operation, *next;
	eventfd_t count;

	(void)unused;
	eventfd_read(inbox->eventfd, &count); /* never waits */
	for (operation = take_completed(inbox); operation; operation = next) {
		next = operation->next;
		if (complete(operation)) {
			put_back(++operation->failures < FAILURES_MAX ? operation : next);
			return NULL;
		}
		let_go(operation);
	}
	return iowq_none();
}

/* discard(): drops them; their loop is closed. */
static PyObject *discard(PyObject *self, PyObject *unused)
{
	struct operation *operation, *next;

	(void)unused;
	for (operation = take_completed((struct inbox *)self); operation; operation = next) {
		next = operation->next;
		let_go(operation);
	}
	return iowq_none();
}

static PyObject *fileno_of(PyObject *self, PyObject *unused)
{
	(void)unused;
	return PyLong_FromLong(((struct inbox *)self)->eventfd);
}

/* ---- the type */

static int init_inbox(PyObject *self, PyObject *args, PyObject *names)
{
	struct inbox *inbox = (struct inbox *)self;

	(void)names;
	if (!PyArg_ParseTuple(args, ""))
		return -1;
	inbox->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (inbox->eventfd >= 0)
		return 0;
	PyErr_SetFromErrno(PyExc_OSError);
	return -1;
}

static PyObject *new_inbox(PyTypeObject *class, PyObject *args, PyObject *names)
{
	PyObject *self = PyType_GenericNew(class, args, names);

	if (self)
		((struct inbox *)self)->eventfd = -1;
	return self;
}

static void free_inbox(PyObject *self)
{
	struct inbox *inbox = (struct inbox *)self;
	PyTypeObject *type = Py_TYPE(self);

	if (inbox->weak_references)
		PyObject_ClearWeakRefs(self);
	while (__atomic_load_n(&inbox->putting, __ATOMIC_ACQUIRE))
		sched_yield(); /* it is about to be done */
	if (inbox->eventfd >= 0)
		close(inbox->eventfd);
	PyObject_Free(self);
	Py_DECREF(type);
}

PyObject *iowq_make_inbox_type(void)
{
	static PyMemberDef members[] = {
		{ "__weaklistoffset__", T_PYSSIZET, offsetof(struct inbox, weak_references), READONLY, NULL },
		{ 0 },
	};
	static PyMethodDef methods[] = {
		{ "drain", drain, METH_NOARGS, "Completes the futures of the operations that have completed." },
		{ "discard", discard, METH_NOARGS, "Drops the operations that have completed." },
		{ "fileno", fileno_of, METH_NOARGS, "Returns what can be read when there are some." },
		{ 0 },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "Operations that have completed, on their way to one event loop." },
		{ Py_tp_new, new_inbox },
		{ Py_tp_init, init_inbox },
		{ Py_tp_dealloc, free_inbox },
		{ Py_tp_members, members },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.Inbox",
		.basicsize = sizeof(struct inbox),
		.flags = Py_TPFLAGS_DEFAULT,
		.slots = slots,
	};

	name_set_result = PyUnicode_InternFromString("set_result");
	name_set_exception = PyUnicode_InternFromString("set_exception");
	return PyType_FromSpec(&spec);
}
