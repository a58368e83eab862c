/*
 * How a worker and the interpreter's lock (GIL) go together.
 *
 * A worker takes the GIL before it takes work and keeps it from one work to
 * the next; a work that blocks gives it up by itself, as any Python code does,
 * and the interpreter makes threads take turns. An idle worker, and one that
 * watches, hold nothing. So a work costs no switch of the GIL, and a worker
 * that got the GIL knows that whoever had it is blocked or gave way.
 *
 * Switching it without a sleep:
 *
 * A round trip, submit(...).result(), switches the GIL to a worker and back. Whoever asks for
 * the GIL while it is taken sleeps, and to be woken takes longer than all the rest.
 * So each side watches the other for a moment first: the worker, until whoever
 * submitted waits for a result, with the GIL let go; and that one, until its work has
 * ended and the worker that ran it has let the GIL go. (Others may be blocked, without the
 * GIL, for as long as they like: nobody knows, and it is no matter.) Where that is in vain, it is soon not tried
 * any more: see spin.h.
 */
#include "gil.h"
#include "core/spin.h"

/* Workers by number, modulo. Two may share an entry: then a wait is longer, or shorter, than need be. */
enum { WORKERS = 1024 };

static uint32_t watchers; /* atomic: threads in iowq_watch; they don't hold the GIL */
static bool holds[WORKERS]; /* atomic: whether that worker does, or asks for it */
static uint32_t workers; /* atomic: numbers given */
static _Thread_local uint32_t number; /* of this worker, from 1 on; 0: it has none yet */
static struct io_spin take_spin, watch_spin;

uint32_t iowq_gil_number(void)
{
	if (!number)
		number = __atomic_add_fetch(&workers, 1, __ATOMIC_RELAXED);
	return number;
}

static bool *held_by(uint32_t worker)
{
	return &holds[worker % WORKERS];
}

static bool is_watched(void)
{
	return __atomic_load_n(&watchers, __ATOMIC_ACQUIRE);
}

static bool is_over(const struct iowq_work *work)
{
	return __atomic_load_n(&work->ended, __ATOMIC_ACQUIRE) &&
	       !__atomic_load_n(held_by(work->worker), __ATOMIC_ACQUIRE);
}

void iowq_gil_acquire(PyThreadState *state)
{
	if (spin_begin(&take_spin))
		spin_until(&take_spin, is_watched());
	__atomic_store_n(held_by(iowq_gil_number()), true, __ATOMIC_RELAXED);
	PyEval_RestoreThread(state);
}

PyThreadState *iowq_gil_release(void)
{
	PyThreadState *state = PyEval_SaveThread();

	__atomic_store_n(held_by(iowq_gil_number()), false, __ATOMIC_RELEASE);
	return state;
}

void iowq_watch(struct iowq_work *work)
{
	PyThreadState *state;

	if (!spin_begin(&watch_spin))
		return;
	state = PyEval_SaveThread();
	__atomic_fetch_add(&watchers, 1, __ATOMIC_RELEASE);
	spin_until(&watch_spin, is_over(work));
	__atomic_fetch_sub(&watchers, 1, __ATOMIC_RELAXED);
	PyEval_RestoreThread(state);
}

void iowq_gil_after_fork(void)
{
	watchers = 0; /* the others stayed in the parent */
}
