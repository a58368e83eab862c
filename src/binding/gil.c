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
 *
 * Without a GIL "to take it" means that the thread may call the interpreter, which it may at once, and
 * there is less to watch for: the worker doesn't watch, and whoever waits for a work, for its
 * end alone.
 */
#include "gil.h"
#include "locks.h"
#include "work.h"

#include <string.h>

/* Workers by number. Two may share one: then a wait is longer, or shorter, than need be. */
enum { WORKERS = 1024 };

static uint32_t watchers; /* atomic: threads in iowq_watch; they don't hold the GIL */
static bool holds[WORKERS + 1]; /* atomic: whether that worker does, or asks for it */
static uint32_t workers; /* atomic: numbers given */
static _Thread_local uint16_t number; /* of this worker, from 1 on; 0: it has none yet */
static struct io_spin take_spin, watch_spin;

uint16_t iowq_gil_number(void)
{
	if (!number)
		number = (uint16_t)(1 + __atomic_fetch_add(&workers, 1, __ATOMIC_RELAXED) % WORKERS);
	return number;
}

static bool *held_by(uint16_t worker)
{
	return &holds[worker];
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
	if (iowq_has_gil()) {
		if (spin_begin(&take_spin))
			spin_until(&take_spin, is_watched());
		__atomic_store_n(held_by(iowq_gil_number()), true, __ATOMIC_RELAXED);
	}
	PyEval_RestoreThread(state);
}

PyThreadState *iowq_gil_release(void)
{
	PyThreadState *state = PyEval_SaveThread();

	__atomic_store_n(held_by(iowq_gil_number()), false, __ATOMIC_RELEASE);
	return state;
}

void iowq_watch(uintptr_t object)
{
	const struct iowq_work *work = (struct iowq_work *)object;
	PyThreadState *state;

	if (io_wq_work_cancelled(&work->work) || !spin_begin(&watch_spin))
		return; /* it takes longer to end one that runs */
	state = PyEval_SaveThread();
	__atomic_fetch_add(&watchers, 1, __ATOMIC_RELEASE);
	spin_until(&watch_spin, is_over(work));
	__atomic_fetch_sub(&watchers, 1, __ATOMIC_RELAXED);
	PyEval_RestoreThread(state);
}

bool iowq_watch_may_pay(struct iowq_watch *watch)
{
	return spin_begin(&watch->spin);
}

void iowq_watch_begin(struct iowq_watch *watch)
{
	__atomic_store_n(&watch->told, 0, __ATOMIC_RELAXED);
}

void iowq_watch_tell(struct iowq_watch *watch)
{
	__atomic_store_n(&watch->told, iowq_gil_number(), __ATOMIC_RELEASE);
}

static bool was_told(const struct iowq_watch *watch)
{
	uint16_t worker = __atomic_load_n(&watch->told, __ATOMIC_ACQUIRE);

	return worker && !__atomic_load_n(held_by(worker), __ATOMIC_ACQUIRE);
}

void iowq_watch_for_any(struct iowq_watch *watch)
{
	PyThreadState *state;

	state = PyEval_SaveThread();
	__atomic_fetch_add(&watchers, 1, __ATOMIC_RELEASE);
	spin_until(&watch->spin, was_told(watch));
	__atomic_fetch_sub(&watchers, 1, __ATOMIC_RELAXED);
	PyEval_RestoreThread(state);
}

void iowq_gil_after_fork(void)
{
	watchers = 0; /* the others stayed in the parent */
	memset(holds, 0, sizeof(holds));
}
