/*
 * ExecutorBase: what a queue and its views have in common, and how works come in.
 *
 * enqueue, enqueue_hashed and submit make a work and offer it to the core, without any Python code of the
 * package's in between. What is rare is the package's: a time limit, a queue that doesn't take
 * the work.
 */
#include "keys.h"
#include "context.h"
#include "package.h"
#include "work.h"

#include <errno.h>
#include <stddef.h>
#include <structmember.h>

struct executor {
	PyObject_HEAD
	PyObject *queue;          /* NULL: it is one */
	PyObject *outer;          /* what a view was made from */
	PyObject *key_table;      /* a queue's */
	PyObject *key;            /* that all works have, or NULL */
	PyObject *limit;          /* called with their fn, which it returns with a time limit; or NULL */
	unsigned long long wq;    /* a queue's address: struct io_wq * */
	unsigned flags;           /* that all works have */
	char closed;              /* atomic; the rest is set before others know the executor */
};

static PyTypeObject *executor_type;

/* An executor, and the queue that it is one of. */
struct target {
	struct executor *executor, *queue;
};

static struct executor *queue_of(PyObject *self)
{
	struct executor *executor = (struct executor *)self;

	return executor->queue ? (struct executor *)executor->queue : executor;
}

/* Returns 0; or -1 with an exception set: the queue isn't there yet. */
static int find_target(PyObject *self, struct target *target)
{
	*target = (struct target){ (struct executor *)self, queue_of(self) };
	if (target->queue->wq)
		return 0;
	PyErr_Format(PyExc_RuntimeError, "__init__() of this %S was not called, or not to its end",
		     Py_TYPE(self));
	return -1;
}

/* Whether the view is closed, or one that it was made from, or the queue. */
static bool is_closed(const struct executor *executor)
{
	while (!__atomic_load_n(&executor->closed, __ATOMIC_ACQUIRE) && executor->outer)
		executor = (const struct executor *)executor->outer;
	return __atomic_load_n(&executor->closed, __ATOMIC_ACQUIRE);
}

/* ---- offered to the core */

/*
 * The queue's reference to a work. While it holds one, the work can't be garbage, so the
 * collector needn't look at it: else each full collection walks all pending works, which
 * doubled the cost of a work among a million.
 */
static void hold(struct iowq_work *work)
{
	iowq_incref_for_other((PyObject *)work);
	PyObject_GC_UnTrack(work);
}

void iowq_release_work(struct iowq_work *work)
{
	if (!iowq_has_gil() || Py_REFCNT((PyObject *)work) > 1) /* without: nobody can tell for sure */
		PyObject_GC_Track(work);
	Py_DECREF(work);
}

static struct io_wq *core_queue(const struct executor *queue)
{
	return (struct io_wq *)(uintptr_t)queue->wq;
}

/* Returns what io_wq_enqueue does. May be repeated until the work is taken. */
static int offer(struct target target, struct iowq_work *work)
{
	struct io_wq *wq = core_queue(target.queue);
	int ret;

	if (is_closed(target.executor))
		return -ESHUTDOWN;
	work->work.flags = target.executor->flags | (work->waited ? IO_WQ_WORK_WAITED : 0);
	work->forks = iowq_forks;
	hold(work);
	ret = work->key_use ? io_wq_enqueue_hashed(wq, &work->work, work->key_use) :
			      io_wq_enqueue(wq, &work->work);
	work->taken = ret != -ESHUTDOWN && ret != -EBUSY && ret != -EINVAL;
	if (!work->taken) /* so not given to free_work either */
		iowq_release_work(work);
	return ret;
}

/* The work has the use of a key, and is counted for it. In a child that the key's own methods have
 * forked the queue has another table. Returns 0, or -1 with an exception set. */
static int acquire_key(struct executor *queue, PyObject *key, struct iowq_work *work)
{
	Py_hash_t hash = PyObject_Hash(key);
	bool is_current = false;
	int failed = hash == -1 ? -1 : 0;

	while (!failed && !is_current) {
		PyObject *table = queue->key_table;

		Py_INCREF(table);
		failed = iowq_acquire_key(table, key, hash, work);
		is_current = table == queue->key_table;
		if (!failed && !is_current)
			iowq_give_key_back(work);
		Py_DECREF(table);
	}
	return failed;
}

/* Offers a work that is new, under a key if key isn't NULL. Returns 0; or -1 with an exception set:
 * then the queue hasn't taken it. */
static int offer_new(struct target target, struct iowq_work *work, PyObject *key)
{
	PyObject *done;
	int ret;

	if (key && acquire_key(target.queue, key, work))
		return -1;
	ret = offer(target, work);
	if (!ret)
		return 0;
	done = PyObject_CallMethod((PyObject *)target.executor, "_not_taken", "Oi", work, ret);
	Py_XDECREF(done);
	return done ? 0 : -1;
}

/* ---- made */

static PyObject *as_tuple(PyObject *const *args, Py_ssize_t count)
{
	PyObject *tuple = PyTuple_New(count);

	for (Py_ssize_t i = 0; tuple && i < count; i++) {
		Py_INCREF(args[i]);
		PyTuple_SetItem(tuple, i, args[i]);
	}
	return tuple;
}

/* Stores a dict, or NULL for no arguments. Returns 0, or -1 with an exception set. */
static int as_dict(PyObject *const *values, PyObject *names, PyObject **dict)
{
	Py_ssize_t count = names ? PyTuple_Size(names) : 0;

	*dict = count ? PyDict_New() : NULL;
	if (count && !*dict)
		return -1;
	for (Py_ssize_t i = 0; i < count; i++)
		if (PyDict_SetItem(*dict, PyTuple_GetItem(names, i), values[i])) {
			Py_CLEAR(*dict);
			return -1;
		}
	return 0;
}

/* Returns fn with the executor's time limit, if it has one: a new reference. */
static PyObject *limited(const struct executor *executor, PyObject *fn)
{
	if (executor->limit)
		return PyObject_CallFunctionObjArgs(executor->limit, fn, NULL);
	if (!PyCallable_Check(fn))
		return PyObject_CallFunction(iowq_package.check_callable, "sO", "fn", fn);
	Py_INCREF(fn);
	return fn;
}

/* Returns a work for fn(*args, **{names: values behind args}), or NULL with an exception set. */
static struct iowq_work *make_work(struct target target, PyObject *class, PyObject *fn,
				   PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	struct iowq_work *work = NULL;
	PyObject *callable = limited(target.executor, fn), *kwargs, *context;

	if (!callable)
		return NULL;
	if (!as_dict(args + count, names, &kwargs)) {
		if (iowq_context_copy(&context))
			Py_XDECREF(kwargs);
		else
			work = iowq_new_work((PyTypeObject *)class, (PyObject *)target.executor, callable,
					     as_tuple(args, count), kwargs, context);
		Py_XDECREF(context);
		if (work)
			iowq_hand_over(work->context);
	}
	Py_DECREF(callable);
	return work;
}

struct iowq_work *iowq_make_work(PyObject *executor, PyObject *class, PyObject *const *call,
				 Py_ssize_t count, PyObject *names)
{
	struct target target;

	if (find_target(executor, &target))
		return NULL;
	return make_work(target, class, call[0], call + 1, count - 1, names);
}

/* Makes a work and enqueues it. */
static PyObject *take(PyObject *self, PyObject *class, PyObject *key, PyObject *const *call,
		      Py_ssize_t count, PyObject *names)
{
	struct iowq_work *work = iowq_make_work(self, class, call, count, names);
	struct target target = { (struct executor *)self, queue_of(self) };

	if (!work)
		return NULL;
	work->keeps_outcome = class == iowq_package.future_class;
	if (offer_new(target, work, key))
		Py_CLEAR(work);
	return (PyObject *)work;
}

static PyObject *missing(const char *function, const char *argument)
{
	return PyErr_Format(PyExc_TypeError, "%s() missing 1 required positional argument: '%s'",
			    function, argument);
}

/* enqueue(fn, /, *args, **kwargs) */
static PyObject *enqueue(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	if (count < 1)
		return missing("enqueue", "fn");
	return take(self, iowq_package.work_class, ((struct executor *)self)->key, args, count, names);
}

/* enqueue_hashed(key, fn, /, *args, **kwargs) */
static PyObject *enqueue_hashed(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	if (count < 2)
		return missing("enqueue_hashed", count ? "fn" : "key");
	return take(self, iowq_package.work_class, args[0], args + 1, count - 1, names);
}

/* submit(fn, /, *args, **kwargs) */
static PyObject *submit(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	if (count < 1)
		return missing("submit", "fn");
	return take(self, iowq_package.future_class, ((struct executor *)self)->key, args, count, names);
}

/* ---- for the subclasses */

/* _offer(work): 0 or a negative errno. May be repeated. */
static PyObject *offer_work(PyObject *self, PyObject *object)
{
	struct iowq_work *work = (struct iowq_work *)object;
	struct target target;

	if (find_target(self, &target))
		return NULL;
	if (target.executor->key && !work->key_use &&
	    acquire_key(target.queue, target.executor->key, work))
		return NULL;
	return PyLong_FromLong(offer(target, work));
}

static int has_key(struct io_wq_work *work, void *use)
{
	return (work->flags & IO_WQ_WORK_HASHED) && iowq_work_of(work)->key_use == use;
}

/* _cancel_key(key): what io_wq_cancel_cb returns. */
static PyObject *cancel_key(PyObject *self, PyObject *key)
{
	enum io_wq_cancel answer = IO_WQ_CANCEL_NOTFOUND;
	struct iowq_key_use *use;
	struct target target;
	PyObject *table;
	Py_hash_t hash = PyObject_Hash(key);

	if (hash == -1 || find_target(self, &target))
		return NULL;
	Py_INCREF(table = target.queue->key_table); /* the key's methods may fork */
	use = iowq_find_key(table, key, hash);
	Py_DECREF(table);
	if (!use)
		return PyErr_Occurred() ? NULL : PyLong_FromLong(answer);
	iowq_cancel_begins();
	answer = io_wq_cancel_cb(core_queue(target.queue), has_key, use, 1);
	iowq_cancel_ends();
	iowq_put_key_use(use);
	return PyLong_FromLong(answer);
}

/* _narrow_from(outer): makes it a view of another executor's queue. */
static PyObject *narrow_from(PyObject *self, PyObject *outer)
{
	struct executor *executor = (struct executor *)self;
	PyObject *queue;

	if (executor->outer || !PyObject_TypeCheck(outer, executor_type) || outer == self)
		return PyErr_Format(PyExc_TypeError, "a view is made once, of an executor, not of %R",
				    outer);
	queue = (PyObject *)queue_of(outer);
	Py_INCREF(executor->outer = outer);
	Py_INCREF(executor->queue = queue);
	return iowq_none();
}

static PyObject *ask_closed(PyObject *self, PyObject *unused)
{
	(void)unused;
	return PyBool_FromLong(is_closed((struct executor *)self));
}

static PyObject *get_closed(PyObject *self, void *unused)
{
	(void)unused;
	return PyBool_FromLong(__atomic_load_n(&((struct executor *)self)->closed, __ATOMIC_ACQUIRE));
}

static int set_closed(PyObject *self, PyObject *value, void *unused)
{
	int closed = value ? PyObject_IsTrue(value) : 0;

	(void)unused;
	if (closed >= 0)
		__atomic_store_n(&((struct executor *)self)->closed, (char)closed, __ATOMIC_RELEASE);
	return closed < 0 ? -1 : 0;
}

/* ---- the type */

static int traverse(PyObject *self, visitproc visit, void *arg)
{
	struct executor *executor = (struct executor *)self;

	Py_VISIT(Py_TYPE(self));
	Py_VISIT(executor->queue);
	Py_VISIT(executor->outer);
	Py_VISIT(executor->key_table);
	Py_VISIT(executor->key);
	Py_VISIT(executor->limit);
	return 0;
}

static int clear(PyObject *self)
{
	struct executor *executor = (struct executor *)self;

	Py_CLEAR(executor->key);
	Py_CLEAR(executor->limit);
	return 0; /* who may still enqueue needs the rest; no cycle is of that alone */
}

static void dealloc(PyObject *self)
{
	struct executor *executor = (struct executor *)self;
	PyTypeObject *type = Py_TYPE(self);

	PyObject_GC_UnTrack(self);
	clear(self);
	Py_CLEAR(executor->outer);
	Py_CLEAR(executor->queue);
	Py_CLEAR(executor->key_table);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

#define MEMBER(name, type, field, flags) { name, type, offsetof(struct executor, field), flags, NULL }
#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS
static PyMemberDef members[] = {
	MEMBER("_outer_queue", T_OBJECT, queue, READONLY),
	MEMBER("_outer", T_OBJECT, outer, READONLY),
	MEMBER("_keys", T_OBJECT, key_table, 0),
	MEMBER("_key", T_OBJECT_EX, key, 0),
	MEMBER("_limit", T_OBJECT_EX, limit, 0),
	MEMBER("_address", T_ULONGLONG, wq, 0),
	MEMBER("_flags", T_UINT, flags, 0),
	{ 0 },
};
static PyGetSetDef properties[] = {
	{ "_closed", get_closed, set_closed, NULL, NULL },
	{ 0 },
};
static PyMethodDef methods[] = {
	{ "enqueue", WITH_KEYWORDS(enqueue),
	  "enqueue($self, fn, /, *args, **kwargs)\n--\n\n"
	  "Queues ``fn(*args, **kwargs)``; first in, first started.\n\n"
	  "The work sees the caller's context variables. What it returns is dropped;\n"
	  "what it raises is reported (see ``on_error``)." },
	{ "enqueue_hashed", WITH_KEYWORDS(enqueue_hashed),
	  "enqueue_hashed($self, key, fn, /, *args, **kwargs)\n--\n\n"
	  "Queues ``fn(*args, **kwargs)`` behind all earlier work with an equal key.\n\n"
	  "Works with equal keys never run in parallel, and run in the order in which\n"
	  "they were enqueued; works with different keys don't wait for each other." },
	{ "submit", WITH_KEYWORDS(submit),
	  "submit($self, fn, /, *args, **kwargs)\n--\n\n"
	  "Queues ``fn(*args, **kwargs)`` as :meth:`enqueue` does, and keeps its outcome." },
	{ "_offer", offer_work, METH_O,
	  "Enqueues a work, or says why not: 0 or a negative errno. May be repeated." },
	{ "_cancel_key", cancel_key, METH_O, "Cancels all work of one key." },
	{ "_narrow_from", narrow_from, METH_O, "Makes it a view of another executor's queue." },
	{ "_is_closed", ask_closed, METH_NOARGS,
	  "Whether this view is closed, or one that it was made from." },
	{ 0 },
};

PyObject *iowq_make_executor_type(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "What a queue and its views have in common." },
		{ Py_tp_new, PyType_GenericNew },
		{ Py_tp_traverse, traverse },
		{ Py_tp_clear, clear },
		{ Py_tp_dealloc, dealloc },
		{ Py_tp_members, members },
		{ Py_tp_getset, properties },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.ExecutorBase",
		.basicsize = sizeof(struct executor),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
		.slots = slots,
	};

	executor_type = (PyTypeObject *)PyType_FromSpec(&spec);
	return (PyObject *)executor_type;
}
