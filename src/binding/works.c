/* How a worker runs a work, and how a work ends. */
#include "context.h"
#include "gil.h"
#include "loops.h"
#include "package.h"
#include "safepoint.h"
#include "work.h"

/* Keeps the exception that is set for later, if it may come from a signal's handler: these
 * run on the main thread. */
static void set_aside_exception(PyObject *context)
{
	if (iowq_is_main_thread())
		iowq_append_exception(iowq_package.deferred, context);
	else
		PyErr_WriteUnraisable(context);
}

/*
 * For functions that must be called to their end. On the main thread a signal's handler
 * can raise at any instruction of one, the first included: then it is called again, and
 * the exception is kept until the call that cancels is over.
 */
static PyObject *call_to_the_end(PyObject *function, struct iowq_work *work, PyObject *arg)
{
	PyObject *result;

	for (int tries = 0; tries < 100; tries++) {
		result = PyObject_CallFunctionObjArgs(function, (PyObject *)work, arg, NULL);
		if (result)
			return result;
		set_aside_exception((PyObject *)work);
	}
	return NULL;
}

/* ---- the end */

/* Cancel doesn't reach what that takes: the work is over. */
static void end_for_loop(struct iowq_work *work, enum iowq_state state)
{
	iowq_set_work_state(work, state);
	iowq_mailbox_put(work);
	io_wq_worker_shield();
	for (int tries = 0; iowq_mailbox_wake(work) && tries < 100; tries++)
		set_aside_exception((PyObject *)work);
	io_wq_worker_unshield();
}

static void publish(struct iowq_work *work, enum iowq_state state)
{
	PyObject *published = call_to_the_end(iowq_package.publish, work, iowq_state_name(state));

	if (!published)
		iowq_set_work_state(work, state);
	Py_XDECREF(published);
}

/* A work's last transition. Nobody shares most works. */
static void end_in(struct iowq_work *work, enum iowq_state state)
{
	if (work->for_loop)
		end_for_loop(work, state);
	else if (!iowq_end_unshared(work, state))
		publish(work, state);
	work->worker = iowq_gil_number();
	__atomic_store_n(&work->ended, 1, __ATOMIC_RELEASE);
}

/* A work was cancelled before it started. */
static void drop_work(struct iowq_work *work)
{
	PyObject *name = call_to_the_end(iowq_package.drop, work, NULL);
	enum iowq_state state = name ? iowq_state_named(name) : IOWQ_CANCELLED;

	end_in(work, state == IOWQ_STATES ? IOWQ_CANCELLED : state);
	Py_XDECREF(name);
}

/* ---- the call */

/* A Python function has a frame, in which the interpreter sees to what others have asked this
 * thread for: to give way, or to raise an exception. What isn't one is called from such a
 * frame; some need to know their caller, too. */
static PyObject *call(struct iowq_work *work)
{
	PyObject *context = iowq_context_enter(work->context), *result;
	struct io_wq_stack before;

	if (!context)
		return NULL;
	io_wq_stack_begin(&before, iowq_call_work);
	if (Py_TYPE(work->fn) == Py_TYPE(iowq_package.call_object))
		result = PyObject_Call(work->fn, work->args, work->kwargs);
	else
		result = PyObject_CallFunctionObjArgs(iowq_package.call_object, work->fn, work->args,
						      work->kwargs, NULL);
	io_wq_stack_end(&before);
	iowq_context_exit(context);
	return result;
}

/* Somebody cares for what the work has raised: its future, the queue's on_error, or the
 * interpreter's hook. error: stolen. */
static void report(struct iowq_work *work, PyObject *error)
{
	PyObject *taken;

	if (work->keeps_outcome) {
		iowq_hand_over(error);
		iowq_set_field(work, &work->exception, error);
		return;
	}
	taken = PyObject_CallFunctionObjArgs(iowq_package.take_error, (PyObject *)work, error, NULL);
	if (!taken)
		PyErr_WriteUnraisable((PyObject *)work);
	if (taken != Py_True) {
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
		PyErr_WriteUnraisable((PyObject *)work);
	}
	Py_XDECREF(taken);
	Py_DECREF(error);
}

/*
 * The call has raised. After cancel has ended one of its system calls the exception is
 * cancel's, whatever a library made of it; so is Cancelled, if cancel was asked for.
 */
static enum iowq_state fail(struct iowq_work *work)
{
	PyObject *error = iowq_take_exception();

	if (iowq_is_cancelled_by(work, error)) {
		Py_DECREF(error);
		return IOWQ_CANCELLED;
	}
	/* A cancel that comes now is too late: it must not disturb the report. */
	io_wq_worker_shield();
	io_wq_worker_set_outcome(IO_WQ_FAILED);
	report(work, error);
	return IOWQ_FINISHED;
}

/* *executor becomes the work's, whose reference is the caller's now: one more would cost, as
 * threads without a GIL count those of an executor in one place. */
static enum iowq_state call_and_keep(struct iowq_work *work, PyObject **executor)
{
	PyObject *result = call(work);
	enum iowq_state state = result ? IOWQ_FINISHED : fail(work);

	if (result && work->keeps_outcome) {
		if (work->exception) /* a link's: why it might have been cancelled */
			iowq_set_field(work, &work->exception, NULL);
		iowq_hand_over(result);
		iowq_set_field(work, &work->result, result);
		result = NULL;
	}
	*executor = iowq_let_go_of_call(work);
	Py_XDECREF(result);
	return state;
}

/* Whether to give back the queue's reference runs no foreign code: there are others, which stay
 * while this thread has the GIL, which is until then, or nothing that could have any is left. Without a
 * GIL nobody can tell. */
static bool frees_quickly(const struct iowq_work *work)
{
	if (!iowq_has_gil())
		return false;
	return Py_REFCNT((PyObject *)work) > 1 ||
	       ((PyObject *)Py_TYPE((PyObject *)work) == iowq_package.work_class && !work->weak_references);
}

static void run_work(struct iowq_work *work)
{
	/* kept, so that who exits finds the queue, and waits, while callbacks are called */
	PyObject *executor;
	struct iowq_thread *thread;
	enum iowq_state state;

	if (!iowq_initialize_thread(work->executor) ||
	    io_wq_work_cancelled(&work->work)) { /* since it was taken off the queue */
		io_wq_worker_set_outcome(IO_WQ_CANCELLED);
		Py_INCREF(executor = work->executor);
		drop_work(work);
	} else {
		thread = iowq_thread_begin_work(work);
		iowq_set_work_state(work, IOWQ_RUNNING);
		state = call_and_keep(work, &executor);
		iowq_thread_end_work(thread, work);
		iowq_baseline_restore();
		if (state == IOWQ_CANCELLED)
			io_wq_worker_set_outcome(IO_WQ_CANCELLED);
		end_in(work, state);
	}
	Py_XDECREF(executor);
	if (frees_quickly(work))
		io_wq_worker_frees_quickly();
}

/* ---- the core's hooks */

/* A worker has the GIL. Who cancels has it, too, unless it is the last thread of a queue that
 * was given up, or waits for the end of one. */
void iowq_call_work(struct io_wq_work **place)
{
	struct iowq_work *work = iowq_work_of(*place);
	PyGILState_STATE gil;

	work->ran = !(*place)->error;
	if (work->ran) {
		run_work(work);
		return;
	}
	gil = PyGILState_Ensure();
	drop_work(work);
	PyGILState_Release(gil);
}

void iowq_free_work(struct io_wq_work *io_work)
{
	struct iowq_work *work = iowq_work_of(io_work);
	PyGILState_STATE gil;

	if (work->ran) {
		iowq_release_work(work);
		return;
	}
	gil = PyGILState_Ensure();
	iowq_release_work(work);
	PyGILState_Release(gil);
}
