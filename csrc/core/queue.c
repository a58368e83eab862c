/*
 * The queue: made, given work, stopped, freed.
 *
 * STATES
 *
 * A work (enum io_work_state; guarded by wq->lock):
 *
 *   NONE ---enqueue---> RUNNABLE ---a worker starts it---> NONE, running
 *     |                  ^     \                            |
 *     |    the key's   |      +--cancel--> NONE, cancelled|
 *     |    holder ends   |      |                           |
 *     +--enqueue---> WAITING ---+              func returns: NONE, finished
 *
 *   Which of "not enqueued", running and finished a work in NONE is, the work
 *   does not say, since its memory may be gone: it is running if, and as long
 *   as, some worker's cur_work points at it. flags are written under the lock,
 *   atomically, because func reads them without.
 *
 * A key of hashed works (hash.c; guarded by wq->lock): not in the table, or
 * held by one work that is runnable, or by one worker that runs its work. All
 * other works of the key are WAITING in the holder's list.
 *
 * A worker (enum io_worker_state; guarded by wq->lock):
 *
 *             need_worker                take_work
 *   (new) ----------------> STANDBY --------------------> RUNNING <---+
 *                           ^    |                        |  | ^      |
 *            need_worker    |    | nobody needs it        |  | |      |
 *                           |    v                        |  | |      |
 *   (gone) <-- timeout ---- IDLE <-- others run, or ------+  | |      | its work
 *                                    no more work            | |      | ended
 *                                                            v |      |
 *                         worker_sleeping, or noticed      BLOCKED ---+
 *                         by the standby
 *
 *   A STANDBY or IDLE worker also goes when there are more than there may be, or
 *   the queue ends.
 *
 *   The hooks of struct io_wq_data: worker_start in a new thread, STANDBY already,
 *   worker_busy before take_work, worker_idle after the last work or when
 *   take_work found none, worker_stop when it is gone. Between busy and idle:
 *   admit, if the start of a work lets in another one that was refused, before its func;
 *   free_work. None is called locked.
 *
 * The queue: open -> refusing (io_wq_exit_start) -> exiting (no unfinished work
 * is left; or io_wq_stop and io_wq_put: no pending work) -> no threads -> freed, by
 * io_wq_put, or if others were left then (orphan), by the last of them: workers,
 * the canceller, flushes, threads that complete cancelled work. No work comes
 * into a queue that is exiting, but dependent work of what still runs.
 *
 * THE LOCK
 *
 * One mutex guards all of a queue. Enqueueing takes it once, and so does a worker
 * between two works; once more if it has to call a free_work that may take long. Nothing waits with the
 * lock held, no foreign code runs under it (but io_wq_cancel_cb's match), and it is
 * the innermost lock: a hook may hold an interpreter's lock while it is taken, never
 * the reverse. A lock per node, as in Linux, would need a second one for keys,
 * flushes and cancel, which belong to all nodes, and rules between the two.
 *
 * Not guarded by it: `asleep` words and signal counts, which are atomics.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"
#include "numa/numa.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_TIMEOUT_MS 5000
#define CANCEL_GRACE_MS 1000
#define FLAGS_OF_NODE (~0u << IO_WQ_WORK_NODE_SHIFT)
#define FLAGS_OF_OWNER (IO_WQ_WORK_UNCANCELLABLE | IO_WQ_WORK_UNBOUND | FLAGS_OF_NODE)

/* ---- the lock */

void io_wq_lock(struct io_wq *wq)
{
	perturb();
	pthread_mutex_lock(&wq->lock);
}

/* Also wakes whom io_worker_wake named: a thread woken earlier would only run
 * into the lock. Its worker may be gone by then, its memory is not: see spares. */
void io_wq_unlock(struct io_wq *wq)
{
	uint32_t *wake = wq->wake;

	wq->wake = NULL;
	pthread_mutex_unlock(&wq->lock);
	perturb();
	if (wake)
		futex_wake(wake, 1);
}

/* The same, wherever works may have left the queue, or it began to refuse: those
 * who found it full are told. Each refusal is followed by a call, since both the
 * note of it and pending are read under the lock. */
void io_wq_unlock_and_tell(struct io_wq *wq)
{
	bool tell = wq->refused_any && (wq->pending < wq->data.max_pending || wq->refusing);

	if (tell)
		wq->refused_any = false;
	io_wq_unlock(wq);
	if (!tell || !wq->data.admit)
		return;
	io_wq_worker_shield(); /* a work that has started, but whose func isn't called yet */
	wq->data.admit(wq->data.ctx);
	io_wq_worker_unshield();
}

/* ---- create and free */

static void init_pool(struct io_wq *wq, unsigned index, unsigned max_workers)
{
	struct io_pool *pool = &wq->pools[index];
	unsigned node = index / IO_POOL_KINDS;
	enum io_pool_kind kind = index % IO_POOL_KINDS;

	pool->wq = wq;
	pool->node = node;
	pool->kind = kind;
	pool->max_workers = max_workers;
	pool->width = 1;
	list_init(&pool->run);
	list_init(&pool->workers);
	list_init(&pool->spares);
	list_init(&pool->blocks);
	list_init(&pool->idle);
	list_init(&pool->running);
}

static int init_mutex(pthread_mutex_t *mutex)
{
	pthread_mutexattr_t attr;
	int err;

	pthread_mutexattr_init(&attr);
#ifdef __GLIBC__ /* spins a little before it sleeps: the lock is held for 100 ns or so */
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
	err = pthread_mutex_init(mutex, &attr);
	pthread_mutexattr_destroy(&attr);
	return -err;
}

/* Whether somebody else can run while a thread spins. */
static bool has_other_processors(void)
{
	cpu_set_t set;

	/* an error: there are more than fit into the set */
	return sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) > 1;
}

static int init(struct io_wq *wq, unsigned concurrency, const struct io_wq_data *data)
{
	int ret;

	wq->fork_generation = io_wq_fork_generation();
	if (data)
		wq->data = *data;
	if (!wq->data.idle_timeout_ms)
		wq->data.idle_timeout_ms = IDLE_TIMEOUT_MS;
	if (!wq->data.cancel_grace_ms)
		wq->data.cancel_grace_ms = CANCEL_GRACE_MS;
	if (!wq->data.unbounded)
		wq->data.unbounded = IO_WQ_CONCURRENCY_MAX;
	if (!wq->data.max_pending)
		wq->data.max_pending = UINT_MAX;
	snprintf(wq->name, sizeof(wq->name), "%s", wq->data.name ? wq->data.name : "iowq");
	wq->data.name = wq->name;
	wq->may_spin = has_other_processors();
	list_init(&wq->flushers);
	for (unsigned node = 0; node < wq->nr_pools / IO_POOL_KINDS; node++) {
		init_pool(wq, io_pool_index(node, IO_POOL_BOUND), concurrency);
		init_pool(wq, io_pool_index(node, IO_POOL_UNBOUND), wq->data.unbounded);
	}
	init_pool(wq, wq->nr_pools, 0);
	ret = io_wq_signal_install(wq->data.cancel_signal);
	if (ret < 0)
		return ret;
	wq->signal = ret;
	ret = io_wq_affinity_init(wq);
	if (!ret)
		ret = io_wq_keys_init(&wq->keys);
	if (!ret)
		ret = io_wq_thread_attr_init(&wq->thread_attr, wq->data.stack_size);
	return ret ? ret : init_mutex(&wq->lock);
}

struct io_wq *io_wq_create(unsigned concurrency, const struct io_wq_data *data)
{
	struct io_wq_topology *topology;
	struct io_wq *wq;
	unsigned nr_pools;
	size_t size;
	int ret = -ENOMEM;

	if (!concurrency || concurrency > IO_WQ_CONCURRENCY_MAX ||
	    (data && data->unbounded > IO_WQ_CONCURRENCY_MAX)) {
		errno = EINVAL;
		return NULL;
	}
	topology = io_wq_topology_create();
	if (!topology)
		return NULL;
	nr_pools = io_wq_topology_nodes(topology) * IO_POOL_KINDS;
	size = sizeof(*wq) + (nr_pools + 1) * sizeof(wq->pools[0]);
	wq = aligned_alloc(CACHE_LINE, size);
	if (wq) {
		memset(wq, 0, size);
		wq->nr_pools = nr_pools;
		wq->topology = topology;
		ret = init(wq, concurrency, data);
	}
	if (ret) {
		if (wq) {
			io_wq_affinity_free(wq);
			io_wq_keys_free(&wq->keys);
		}
		io_wq_topology_destroy(topology);
		free(wq);
		errno = -ret;
		return NULL;
	}
	return wq;
}

void io_wq_free(struct io_wq *wq)
{
	pthread_mutex_destroy(&wq->lock);
	pthread_attr_destroy(&wq->thread_attr);
	for_each_pool(pool, wq)
		io_pool_free_workers(pool);
	io_wq_free_guests(wq);
	io_wq_keys_free(&wq->keys);
	io_wq_affinity_free(wq);
	io_wq_topology_destroy(wq->topology);
	free(wq);
}

/* The caller, one of wq->users, is none any more. Unlocks. */
void io_wq_unlock_and_leave(struct io_wq *wq)
{
	bool last = --wq->users == 0 && wq->orphan && !wq->nr_threads;

	io_wq_unlock(wq);
	if (last) {
		io_wq_join_threads(wq, WAIT_FOREVER);
		io_wq_free(wq);
	}
}

/* ---- enqueue */

static enum io_pool_kind kind_of(const struct io_wq_work *work)
{
	return work->flags & IO_WQ_WORK_UNBOUND ? IO_POOL_UNBOUND : IO_POOL_BOUND;
}

/* The index of the node that a work is for, or -EINVAL. */
static int node_of(const struct io_wq *wq, const struct io_wq_work *work)
{
	if (work->flags & FLAGS_OF_NODE)
		return io_wq_topology_find(wq->topology,
					   (int)(work->flags >> IO_WQ_WORK_NODE_SHIFT) - 1);
	return (int)io_wq_topology_current(wq->topology);
}

void io_wq_set_waiters(struct io_wq *wq, unsigned waiting)
{
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	wq->waiters = waiting;
	io_wq_unlock(wq);
}

/* Why the queue doesn't take this work from the caller, or 0. Locked. */
static int refusal(struct io_wq *wq, const struct io_wq_work *work)
{
	bool in_turn = !wq->waiters || (work->flags & IO_WQ_WORK_WAITED);

	if (wq->refusing)
		return -ESHUTDOWN;
	if ((wq->pending < wq->data.max_pending && in_turn) || io_wq_inside(wq))
		return 0;
	wq->refused_any = true;
	return -EBUSY;
}

static int enqueue(struct io_wq *wq, struct io_wq_work *work, unsigned hashed)
{
	int node = node_of(wq, work), ret;

	if (io_wq_forked(wq))
		return -ESHUTDOWN;
	if (node < 0)
		return node;
	io_wq_lock(wq);
	ret = refusal(wq, work);
	if (ret) {
		io_wq_unlock(wq);
		return ret;
	}
	work->flags = (work->flags & FLAGS_OF_OWNER) | hashed;
	work->error = 0;
	work->pool = io_pool_index(wq->affinities[node].home, kind_of(work));
	io_work_queue(wq, work);
	ret = io_pool_need_worker(&wq->pools[work->pool]);
	if (ret) /* the queue has no worker, and can't have one */
		io_wq_unlock_and_cancel_pending(wq, -ret);
	else
		io_wq_unlock(wq);
	return ret;
}

int io_wq_enqueue(struct io_wq *wq, struct io_wq_work *work)
{
	return enqueue(wq, work, 0);
}

int io_wq_enqueue_hashed(struct io_wq *wq, struct io_wq_work *work, void *key)
{
	work->key.id = key;
	return enqueue(wq, work, IO_WQ_WORK_HASHED);
}

/* ---- limits */

int io_wq_max_workers(struct io_wq *wq, unsigned values[2])
{
	unsigned former[IO_POOL_KINDS];

	if (values[IO_POOL_BOUND] > IO_WQ_CONCURRENCY_MAX ||
	    values[IO_POOL_UNBOUND] > IO_WQ_CONCURRENCY_MAX)
		return -EINVAL;
	if (io_wq_forked(wq))
		return -ESHUTDOWN;
	io_wq_lock(wq);
	for (unsigned kind = 0; kind < IO_POOL_KINDS; kind++)
		former[kind] = wq->pools[kind].max_workers; /* all nodes have the same */
	for_each_pool(pool, wq)
		if (values[pool->kind])
			io_pool_set_max_workers(pool, values[pool->kind]);
	io_wq_unlock(wq);
	memcpy(values, former, sizeof(former));
	return 0;
}

/* ---- stop */

/* From now on threads end that have nothing to do. Locked. */
void io_wq_let_threads_end(struct io_wq *wq)
{
	wq->exiting = true;
	for_each_worker(worker, wq)
		io_worker_wake(worker);
	io_wq_wake_canceller(wq);
}

void io_wq_exit_start(struct io_wq *wq)
{
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	wq->refusing = true;
	if (!wq->unfinished) /* else whoever finishes the last does it */
		io_wq_let_threads_end(wq);
	io_wq_unlock_and_tell(wq);
}

/* Refuses new work, cancels pending work, and lets idle threads end. */
static void begin_exit(struct io_wq *wq)
{
	io_wq_lock(wq);
	wq->refusing = true;
	io_wq_let_threads_end(wq);
	io_wq_unlock_and_cancel_pending(wq, ECANCELED);
}

int io_wq_stop(struct io_wq *wq, int timeout_ms)
{
	long long deadline = deadline_after_ms(timeout_ms);
	int ret;

	if (io_wq_forked(wq))
		return 0;
	if (io_wq_inside(wq))
		return -EDEADLK;
	begin_exit(wq);
	ret = io_wq_flush_until(wq, deadline); /* a thread of anybody's may complete some */
	return ret ? ret : io_wq_join_threads(wq, deadline);
}

void io_wq_put(struct io_wq *wq)
{
	bool orphan;

	if (io_wq_forked(wq))
		return;
	begin_exit(wq);
	io_wq_lock(wq);
	orphan = wq->orphan = wq->nr_threads || wq->users;
	io_wq_unlock(wq);
	if (!orphan) {
		io_wq_join_threads(wq, WAIT_FOREVER);
		io_wq_free(wq);
	}
}

void io_wq_destroy(struct io_wq *wq)
{
	int ret;

	do
		ret = io_wq_stop(wq, -1);
	while (ret == -EINTR);
	io_wq_put(wq);
}

/* ---- what one may ask */

static struct io_wq_worker_info info_of(const struct io_worker *worker)
{
	return (struct io_wq_worker_info){
		.work = worker->cur_work,
		.tid = worker->tid,
		.cancelled = io_worker_is_wanted(worker),
		.shielded = !!__atomic_load_n(&worker->shields, __ATOMIC_RELAXED),
		.needs_injection = (worker->needs_injection && io_worker_is_due(worker)) ||
				io_worker_awaits_notice(worker),
	};
}

void io_wq_visit_workers(struct io_wq *wq,
			 void (*visit)(const struct io_wq_worker_info *info, void *data), void *data)
{
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	for_each_worker(worker, wq) {
		const struct io_wq_worker_info info = info_of(worker);

		visit(&info, data);
	}
	io_wq_unlock(wq);
}

const struct io_wq_topology *io_wq_get_topology(const struct io_wq *wq)
{
	return wq->topology;
}

int io_wq_cancel_signal(const struct io_wq *wq)
{
	return wq->signal;
}
