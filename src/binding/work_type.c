/*
 * WorkBase and FutureBase: works as objects of Python's, with the core's work inside.
 *
 * What is done for each work is written here, what is done for few in Python (work.py and
 * future.py), by their subclasses. A work is pending, running, and then finished or cancelled:
 *
 *   PENDING --a worker starts it--> RUNNING --it returns or raises--> FINISHED
 *      |                               |                           (CANCELLED: cancel ended it)
 *      +--cancel, or never taken--> CANCELLED
 *
 * The state is changed by the thread that runs or drops the work: the last one in one step with the
 * look whether somebody shares the work (iowq_share), who is told then, and changes the state
 * with a lock of his own held. ended, which is atomic, is set after all that.
 *
 * Who guards what (see locks.h):
 *   - state: atomic; one bit of it says whether the work is shared, so that the two are one step.
 *   - executor, fn, shared, result, exception, thread: the work's lock, for who writes them, and for
 *     who isn't the thread that runs or drops the work. That one reads them without. Result
 *     and exception don't change any more once the state is final: then anybody does.
 *   - args, kwargs, context, key_use, key_held, worker, ran, flags: the thread that has the work: first who
 *     makes it, then who runs or drops it. The core's lock is between the two.
 *   - taken, waited: who enqueues it.
 */
#include "work.h"
#include "keys.h"
#include "package.h"
#include "safepoint.h"

#include <stddef.h>
#include <structmember.h>

uint16_t iowq_forks;

static PyObject *state_names[IOWQ_STATES];

/* ---- states */

PyObject *iowq_state_name(enum iowq_state state)
{
	return state_names[state];
}

enum iowq_state iowq_state_named(PyObject *name)
{
	enum iowq_state state = IOWQ_PENDING;

	while (state < IOWQ_STATES && state_names[state] != name)
		state++;
	return state;
}

enum { SHARED = 0x80 }; /* of a state: somebody is to be told of the work's end */

void iowq_set_work_state(struct iowq_work *work, enum iowq_state state)
{
	uint8_t before = __atomic_load_n(&work->state, __ATOMIC_RELAXED);

	while (!__atomic_compare_exchange_n(&work->state, &before, (uint8_t)((before & SHARED) | state), true,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

enum iowq_state iowq_work_state(struct iowq_work *work)
{
	enum iowq_state state = __atomic_load_n(&work->state, __ATOMIC_ACQUIRE) & ~SHARED;

	if (state >= IOWQ_FINISHED || work->forks == iowq_forks)
		return state;
	iowq_set_work_state(work, IOWQ_CANCELLED);
	return IOWQ_CANCELLED;
}

bool iowq_end_unshared(struct iowq_work *work, enum iowq_state state)
{
	uint8_t before = __atomic_load_n(&work->state, __ATOMIC_RELAXED);

	return !(before & SHARED) &&
	       __atomic_compare_exchange_n(&work->state, &before, (uint8_t)state, false, __ATOMIC_RELEASE,
					   __ATOMIC_RELAXED);
}

void iowq_share(uintptr_t object, uintptr_t shared)
{
	struct iowq_work *work = (struct iowq_work *)object;

	iowq_lock(&work->lock);
	if (!work->shared)
		Py_INCREF(work->shared = (PyObject *)shared);
	iowq_unlock(&work->lock);
	__atomic_fetch_or(&work->state, SHARED, __ATOMIC_ACQ_REL); /* maybe another thread's */
}

static PyObject *get_state(PyObject *self, void *unused)
{
	PyObject *name = state_names[iowq_work_state((struct iowq_work *)self)];

	(void)unused;
	Py_INCREF(name);
	return name;
}

static int set_state(PyObject *self, PyObject *name, void *unused)
{
	enum iowq_state state = name ? iowq_state_named(name) : IOWQ_STATES;

	(void)unused;
	if (state == IOWQ_STATES) {
		PyErr_Format(PyExc_ValueError, "%R is no state of a work", name ? name : Py_None);
		return -1;
	}
	iowq_set_work_state((struct iowq_work *)self, state);
	return 0;
}

/* ---- made, ended, freed */

static void init(struct iowq_work *work, PyObject *executor, PyObject *fn, PyObject *args,
		 PyObject *kwargs, PyObject *context)
{
	INIT_IO_WORK(&work->work, iowq_call_work);
	Py_INCREF(work->executor = executor);
	Py_INCREF(work->fn = fn);
	work->args = args;
	work->kwargs = kwargs;
	Py_XINCREF(work->context = context);
	work->forks = iowq_forks;
	iowq_hand_over(args);
	iowq_hand_over(kwargs);
}

struct iowq_work *iowq_new_work(PyTypeObject *class, PyObject *executor, PyObject *fn, PyObject *args,
				PyObject *kwargs, PyObject *context)
{
	struct iowq_work *work = args ? (struct iowq_work *)PyType_GenericAlloc(class, 0) : NULL;

	if (work) {
		init(work, executor, fn, args, kwargs, context);
		return work;
	}
	Py_XDECREF(args);
	Py_XDECREF(kwargs);
	return NULL;
}

/* WorkBase.__init__(executor, fn, args, kwargs, context) */
static int init_object(PyObject *self, PyObject *arguments, PyObject *names)
{
	struct iowq_work *work = (struct iowq_work *)self;
	PyObject *executor, *fn, *args, *kwargs, *context;
	Py_ssize_t variables;

	(void)names;
	if (!PyArg_ParseTuple(arguments, "OOO!O!O", &executor, &fn, &PyTuple_Type, &args,
			      &PyDict_Type, &kwargs, &context))
		return -1;
	if (work->work.func) {
		PyErr_SetString(PyExc_RuntimeError, "a work is initialised once");
		return -1;
	}
	variables = PyObject_Size(context);
	if (variables < 0)
		return -1;
	Py_INCREF(args);
	if (PyDict_Size(kwargs))
		Py_INCREF(kwargs);
	else
		kwargs = NULL;
	init(work, executor, fn, args, kwargs, variables ? context : NULL);
	return 0;
}

PyObject *iowq_let_go_of_call(struct iowq_work *work)
{
	PyObject *fn, *executor;

	iowq_release_key(work);
	iowq_lock(&work->lock);
	fn = work->fn;
	executor = work->executor;
	work->fn = work->executor = NULL;
	iowq_unlock(&work->lock);
	Py_XDECREF(fn);
	Py_CLEAR(work->args);
	Py_CLEAR(work->kwargs);
	Py_CLEAR(work->context);
	return executor;
}

int iowq_clear_work(PyObject *self)
{
	struct iowq_work *work = (struct iowq_work *)self;

	Py_XDECREF(iowq_let_go_of_call(work));
	Py_CLEAR(work->shared);
	Py_CLEAR(work->result);
	Py_CLEAR(work->exception);
	return 0;
}

int iowq_traverse_work(PyObject *self, visitproc visit, void *arg)
{
	struct iowq_work *work = (struct iowq_work *)self;

	Py_VISIT(Py_TYPE(self));
	Py_VISIT(work->executor);
	Py_VISIT(work->fn);
	Py_VISIT(work->args);
	Py_VISIT(work->kwargs);
	Py_VISIT(work->context);
	Py_VISIT(work->shared);
	Py_VISIT(work->result);
	Py_VISIT(work->exception);
	return 0;
}

void iowq_free_work_object(PyObject *self)
{
	struct iowq_work *work = (struct iowq_work *)self;
	PyTypeObject *type = Py_TYPE(self);

	if (work->weak_references)
		PyObject_ClearWeakRefs(self);
	iowq_clear_work(self);
	if (work->key_use)
		iowq_put_key_use(work->key_use);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

static void dealloc(PyObject *self)
{
	PyObject_GC_UnTrack(self);
	iowq_free_work_object(self);
}

/* ---- for the subclasses */

bool iowq_is_cancelled_by(struct iowq_work *work, PyObject *error)
{
	if (PyErr_GivenExceptionMatches((PyObject *)Py_TYPE(error), iowq_package.skipped))
		return true;
	return io_wq_work_cancelled(&work->work) &&
	       (io_wq_worker_interrupted() ||
		PyErr_GivenExceptionMatches((PyObject *)Py_TYPE(error), iowq_package.cancelled));
}

static PyObject *is_cancelled_by(PyObject *self, PyObject *error)
{
	return PyBool_FromLong(iowq_is_cancelled_by((struct iowq_work *)self, error));
}

static PyObject *let_go(PyObject *self, PyObject *unused)
{
	(void)unused;
	Py_XDECREF(iowq_let_go_of_call((struct iowq_work *)self));
	return iowq_none();
}

/* ---- fields that threads share */

void iowq_set_field(struct iowq_work *work, PyObject **field, PyObject *object)
{
	PyObject *former;

	iowq_lock(&work->lock);
	former = *field;
	*field = object;
	iowq_unlock(&work->lock);
	Py_XDECREF(former);
}

static PyObject **field_at(PyObject *self, void *offset)
{
	return (PyObject **)((char *)self + (size_t)offset);
}

static PyObject *get_field(PyObject *self, void *offset)
{
	struct iowq_work *work = (struct iowq_work *)self;
	PyObject *value;

	iowq_lock(&work->lock);
	value = *field_at(self, offset);
	value = value ? value : Py_None;
	Py_INCREF(value);
	iowq_unlock(&work->lock);
	return value;
}

static int set_field(PyObject *self, PyObject *value, void *offset)
{
	Py_XINCREF(value);
	iowq_set_field((struct iowq_work *)self, field_at(self, offset), value);
	return 0;
}

#define FIELD(name, field, setter) \
	{ name, get_field, setter, NULL, (void *)offsetof(struct iowq_work, field) }
#define MEMBER(name, type, field, flags) { name, type, offsetof(struct iowq_work, field), flags, NULL }
static PyMemberDef members[] = {
	MEMBER("__weaklistoffset__", T_PYSSIZET, weak_references, READONLY),
	MEMBER("_number", T_ULONGLONG, work.seq, READONLY),
	MEMBER("_keeps_outcome", T_BOOL, keeps_outcome, 0),
	MEMBER("_taken", T_BOOL, taken, READONLY),
	MEMBER("_waited", T_BOOL, waited, 0),
	{ 0 },
};
static PyGetSetDef properties[] = {
	{ "_state", get_state, set_state, NULL, NULL },
	FIELD("_executor", executor, NULL),
	FIELD("_fn", fn, set_field),
	FIELD("_shared", shared, NULL),
	FIELD("_result", result, set_field),
	FIELD("_exception", exception, set_field),
	{ 0 },
};
static PyMethodDef methods[] = {
	{ "_is_cancelled_by", is_cancelled_by, METH_O,
	  "Whether an exception that the running work has raised is cancel's." },
	{ "_let_go", let_go, METH_NOARGS, "Lets go of all that the callable needed." },
	{ 0 },
};

PyObject *iowq_make_work_type(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "The memory of a work, and what is done for each." },
		{ Py_tp_new, PyType_GenericNew },
		{ Py_tp_init, init_object },
		{ Py_tp_traverse, iowq_traverse_work },
		{ Py_tp_clear, iowq_clear_work },
		{ Py_tp_dealloc, dealloc },
		{ Py_tp_members, members },
		{ Py_tp_getset, properties },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.WorkBase",
		.basicsize = sizeof(struct iowq_work),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
		.slots = slots,
	};

	state_names[IOWQ_PENDING] = PyUnicode_InternFromString("PENDING");
	state_names[IOWQ_RUNNING] = PyUnicode_InternFromString("RUNNING");
	state_names[IOWQ_FINISHED] = PyUnicode_InternFromString("FINISHED");
	state_names[IOWQ_CANCELLED] = PyUnicode_InternFromString("CANCELLED_AND_NOTIFIED");
	return PyType_FromSpec(&spec);
}

/* ---- futures */

/* Returns the argument timeout of the call, borrowed; NULL with an exception set. */
static PyObject *timeout_of(PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	Py_ssize_t named = names ? PyTuple_Size(names) : 0;

	if (!count && !named)
		return Py_None;
	if (count + named == 1 &&
	    (count || !PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout")))
		return args[0];
	PyErr_SetString(PyExc_TypeError, "result() takes one argument, timeout");
	return NULL;
}

/* Future.result(timeout=None), the short way for one that is done, and has not failed. */
static PyObject *get_result(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	struct iowq_work *work = (struct iowq_work *)self;
	PyObject *timeout = timeout_of(args, count, names), *result;

	if (!timeout)
		return NULL;
	if (iowq_work_state(work) != IOWQ_FINISHED || work->exception)
		return PyObject_CallMethod(self, "_wait_for_result", "O", timeout);
	result = work->result ? work->result : Py_None;
	Py_INCREF(result);
	return result;
}

PyObject *iowq_make_future_type(PyObject *work_type)
{
	static PyMethodDef methods[] = {
		{ "result", (PyCFunction)(void (*)(void))get_result, METH_FASTCALL | METH_KEYWORDS,
		  "result($self, timeout=None)\n--\n\n"
		  "Returns what the callable returned, or raises what it raised.\n\n"
		  ":param timeout: seconds to wait; None: no limit. Its end doesn't cancel the work.\n"
		  ":raises concurrent.futures.TimeoutError: when that time is up.\n"
		  ":raises concurrent.futures.CancelledError: if the work was cancelled, be it\n"
		  "    while it ran." },
		{ "__class_getitem__", Py_GenericAlias, METH_CLASS | METH_O, NULL },
		{ 0 },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "A work that keeps its callable's outcome." },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.FutureBase",
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, /* the rest is inherited */
		.slots = slots,
	};
	PyObject *bases = PyTuple_Pack(1, work_type), *type;

	type = bases ? PyType_FromSpecWithBases(&spec, bases) : NULL;
	Py_XDECREF(bases);
	return type;
}
