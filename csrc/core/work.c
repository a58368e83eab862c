/* One work: onto the queues, off them, and its func's call. */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"
#include "numa/numa.h"

/* Reading the clock takes a third as long as all the rest of an empty work, so one in 32
 * is timed. Which ones follows no period that works may have, too: Fibonacci hashing. */
static bool is_timed(uint64_t seq)
{
	return seq * 0x9E3779B97F4A7C15u < UINT64_MAX / 32;
}

/* Atomic for io_work_is_pending alone, which may read another queue's work. */
static void set_state(struct io_wq_work *work, enum io_work_state state)
{
	__atomic_store_n(&work->state, state, __ATOMIC_RELEASE);
}

/* Whether work is pending on this queue. Locked; work may be anybody's. */
bool io_work_is_pending(const struct io_wq *wq, const struct io_wq_work *work)
{
	return __atomic_load_n(&work->state, __ATOMIC_ACQUIRE) != IO_WORK_NONE &&
	       __atomic_load_n(&work->wq, __ATOMIC_RELAXED) == wq;
}

/* A work without a key, or that holds its key, becomes runnable. Locked. */
static void make_runnable(struct io_wq_work *work)
{
	struct io_pool *pool = &work->wq->pools[work->pool];

	set_state(work, IO_WORK_RUNNABLE);
	list_add_tail(&work->list, &pool->run);
}

/* Queues a work whose flags, key and pool are set. Locked. */
void io_work_queue(struct io_wq *wq, struct io_wq_work *work)
{
	__atomic_store_n(&work->wq, wq, __ATOMIC_RELAXED);
	work->seq = ++wq->seq;
	wq->unfinished++;
	wq->pending++;
	wq->pools[work->pool].enqueued++;
	if (wq->pending > wq->longest)
		wq->longest = wq->pending;
	work->enqueued_ns = is_timed(wq->seq) ? monotonic_ns() : 0;
	if ((work->flags & IO_WQ_WORK_HASHED) && io_wq_keys_join(&wq->keys, work))
		set_state(work, IO_WORK_WAITING);
	else
		make_runnable(work);
}

/* The holder of a key is done with it: the next in line, maybe of another
 * pool, becomes runnable. Locked. */
void io_work_release_key(struct io_wq *wq, struct io_wq_key *key)
{
	struct io_wq_work *next = io_wq_keys_leave(&wq->keys, key);

	if (next) {
		make_runnable(next);
		/* can't fail: the queue has a worker, else nobody held the key */
		io_pool_need_worker(&wq->pools[next->pool]);
	}
}

/* Takes a pending work off the queue, for cancel. Locked. */
void io_work_take_off(struct io_wq_work *work)
{
	bool holds_key = work->state == IO_WORK_RUNNABLE && (work->flags & IO_WQ_WORK_HASHED);

	list_del(&work->list);
	set_state(work, IO_WORK_NONE);
	work->wq->pending--;
	work->wq->pools[work->pool].dropped++;
	if (holds_key)
		io_work_release_key(work->wq, &work->key);
}

/* The pool's next work starts on this worker. Locked; the run queue isn't empty. */
void io_work_start(struct io_worker *worker)
{
	struct io_pool *pool = worker->pool;
	struct io_wq_work *work = container_of(pool->run.next, struct io_wq_work, list);

	list_del(&work->list);
	set_state(work, IO_WORK_NONE);
	pool->wq->pending--;
	pool->started++;
	if (work->enqueued_ns)
		io_pool_note_wait(pool, monotonic_ns() - work->enqueued_ns);
	worker->cur_work = work;
	worker->seq = work->seq;
	io_worker_rebind_if_moved(worker);
	io_worker_begin(worker);
	worker->hashed = work->flags & IO_WQ_WORK_HASHED;
	if (worker->hashed)
		io_wq_keys_replace(&work->key, &worker->key);
}

/* Calls func. Returns the dependent work it left, or NULL. Not locked. */
struct io_wq_work *io_work_call(struct io_wq_work *work)
{
	struct io_wq_work *next = work;
	struct io_wq_stack before;

	io_wq_stack_begin(&before, NULL);
	work->func(&next);
	io_wq_stack_end(&before);
	return next == work ? NULL : next;
}

/* The worker's cur_work has returned; next is its dependent work or NULL.
 * Locked. */
void io_work_done(struct io_worker *worker, struct io_wq_work *next)
{
	struct io_wq *wq = worker->pool->wq;

	worker->cur_work = next;
	worker->cancelling = false;
	worker->deadline = 0;
	io_worker_stop_awaiting(worker); /* if it hasn't said so itself */
	if (next)
		io_worker_begin(worker);
	if (worker->hashed)
		io_work_release_key(wq, &worker->key);
	worker->hashed = false;
	if (!next) {
		if (worker->outcome != IO_WQ_FINISHED)
			io_worker_note_outcome(worker);
		io_wq_finished(wq, worker->seq);
	} else if (wq->exiting)
		io_work_flag_cancel(next);
}

/* The queue touches this work no more. Not locked. On a worker, cancel of its next work,
 * which is its cur_work by now, must not reach what the hook does for this one. */
void io_work_free(struct io_wq *wq, struct io_wq_work *work)
{
	if (!wq->data.free_work)
		return;
	io_wq_worker_shield();
	wq->data.free_work(work);
	io_wq_worker_unshield();
}

/* Asks for cancel: func may read the flags at any time. */
void io_work_flag_cancel(struct io_wq_work *work)
{
	__atomic_or_fetch(&work->flags, IO_WQ_WORK_CANCEL, __ATOMIC_RELAXED);
}

int io_wq_work_cancelled(const struct io_wq_work *work)
{
	return !!(__atomic_load_n(&work->flags, __ATOMIC_RELAXED) & IO_WQ_WORK_CANCEL);
}
