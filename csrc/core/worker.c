/*
 * Workers: how many, and which of them runs.
 *
 * A node has two pools, one for bounded work and one for unbounded (as the later
 * kernels' io_wqe_acct). What follows holds in each by itself, so that work which
 * blocks for ever in one takes no worker from the other.
 *
 * The rule of Linux' first io-wq (2019) is that while a worker runs nobody else is woken, and that
 * when the last one blocks and work is pending another is woken or created. The
 * scheduler told it who blocks; here a worker tells by itself
 * (io_wq_worker_sleeping), or another one has to notice. That other one is the
 * pool's standby, of which there is at most one, and one only while work is
 * pending (or was a moment ago):
 *
 *   - nobody runs: it takes work at once.
 *   - somebody runs: it wakes up again after a tick. If no work was begun in that
 *     time, whoever runs is taken for blocked, and it takes work itself. If
 *     several were, work flows without it; the ticks get longer.
 *
 * That is right where an interpreter's lock has works take turns. Where works run in parallel
 * (data.parallel), as many may run at once as the node has CPUs that the workers may use: the pool's
 * width. Wherever "somebody runs", or "others run", is said here, it means that so many do. But to
 * share works that are shorter than what it takes to hand one over makes them slower: as long as the
 * ticks see such ones, the width is one. And a tick takes for blocked only who had no processor
 * for half of it; after TURN_NS without any work begun, all.
 *
 * Where works slept lately, those that follow are taken for blocked as they begin: see
 * will_sleep. To the rest of this file that is as if they said so, first thing.
 *
 * A worker that takes work while more is pending calls the next standby, so
 * that works that block get their workers one tick apart, and works that don't
 * keep to one worker. A worker whose work was blocked to its end takes another one,
 * which is likely to block as well. Any other falls idle if others run, which brings
 * their number back: also one that was taken for blocked but computed.
 *
 * No work is left behind, because whenever work is runnable and the queue is
 * unlocked, the pool has a standby, or has `max_workers` workers, or more, of
 * which none is idle. Each event that could break this (work becomes runnable,
 * the standby takes work, a worker falls idle or ends, the limit is raised) ends
 * with io_pool_need_worker. At the limit without a standby every worker has work,
 * and takes more when that ends, unless another one runs, which then does.
 *
 * A worker whose work waits for another pending work of its queue (io_wq_worker_await)
 * doesn't count against the limit: else works that wait so on all workers would keep the
 * awaited ones from running. To the rest of this file that is a change of the limit, by
 * one and back. (As ForkJoinPool compensates for joins.)
 *
 * When the limit is lowered, a pool may be crowded: it has more workers than it
 * may have. Then whoever is without work ends, the standby too, until it is not
 * crowded any more. As many as the limit, which is at least one, are left for the
 * work that is runnable.
 *
 * Nobody sleeps for ever while work is runnable that may run:
 *
 *   - Nobody waits with the lock held (wait_unlocked; hooks and funcs are called
 *     unlocked), and it is the only one here. So whoever wants it gets it. The hooks
 *     that a standby calls, worker_start and worker_busy, end: it is none meanwhile.
 *     free_work may wait as a work may that doesn't say so.
 *   - No wake-up is lost. A worker reads the queue's state and sets asleep in one section of
 *     the lock. What happens before, it sees; whoever does something after finds
 *     asleep set and clears it: then FUTEX_WAIT returns at once, or FUTEX_WAKE,
 *     which comes later, ends it. One that comes too late makes its worker, or the
 *     next that has its memory, do so once more.
 *   - If there is a standby, it sleeps only while others run. Each of them begins
 *     another work, or ceases to run: it says that it blocks, falls idle, or is
 *     taken for blocked, after a tick or as it begins a work. The last who runs takes
 *     more work when its own ends; if it ceases otherwise, the standby is woken.
 *   - If there is none, every worker that the limit allows has work, or frees one, and
 *     what is runnable waits for these works alone. The first to end it sees to the rest.
 *
 * So a tick is needed for works that block and don't say so, and for nothing else;
 * one that comes early costs a worker. The time-out of the idle only ends threads.
 * The wait of a node's last worker needs none, since whatever makes work runnable, or
 * ends the queue, wakes it.
 *
 * Where a thread can't be made, the workers there are count as the limit until one
 * is needed again: with the next work, or when one of theirs blocks or ends. Nothing
 * tries in between, so works that wait for each other may then wait for that.
 *
 * tests/model is this protocol for a model checker, which looks at every run of a few
 * workers and works. A step that changes here changes there.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"
#include "core/watch.h"
#include "numa/numa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* How soon blocking that nobody announced is noticed. The lower bound is about
 * what it takes to wake a thread; the upper is what a pool that is busy with
 * short works pays: 2,500 wake-ups a second of a thread that does nothing. */
#define TICK_MIN (50 * NSEC_PER_USEC)
#define TIMER_SLACK (1 * NSEC_PER_USEC) /* the usual 50 us would double a tick */
#define TICK_MAX (8 * TICK_MIN)
#define FIRST_TICK 0 /* as long as TICK_MIN */

/* Works that take less are done sooner by one worker than by two, who would wait for each other, and for
 * whoever enqueues, at the queue's lock. */
#define WIDE_NS (5 * NSEC_PER_USEC)
/* For how long works that compute on all processors keep others from beginning. */
#define TURN_NS (10 * NSEC_PER_MSEC)

/* Of the prediction, see will_sleep. A sample costs 1 us or so. */
enum { SLEEPY_MAX = 16, SAMPLES_PER_TICK = 4, OFTEN_US = 1000 };

enum { WORKERS_PER_BLOCK = 8 };

uint32_t io_wq_wake_ns = 2 * WAKE_NS_MIN;

static void *worker_main(void *arg);

/* ---- called on any thread, locked */

/* Lets the worker read the queue's state, once the queue is unlocked. */
void io_worker_wake(struct io_worker *worker)
{
	struct io_wq *wq = worker->pool->wq;

	if (!__atomic_exchange_n(&worker->asleep, 0, __ATOMIC_RELAXED))
		return;
	worker->woken_at = monotonic_ns();
	if (wq->wake)
		futex_wake(wq->wake, 1);
	wq->wake = &worker->asleep;
}

static void set_state(struct io_worker *worker, enum io_worker_state state)
{
	struct io_pool *pool = worker->pool;

	list_del(&worker->list);
	pool->nr_running += (state == IO_WORKER_RUNNING) - (worker->state == IO_WORKER_RUNNING);
	worker->state = state;
	if (state == IO_WORKER_IDLE)
		list_add(&worker->list, &pool->idle);
	else if (state == IO_WORKER_RUNNING)
		list_add(&worker->list, &pool->running);
}

/* Whether fewer run than may run at once. Locked. */
static bool has_room(const struct io_pool *pool)
{
	return pool->nr_running < pool->width;
}

static long long length_of(long long tick)
{
	return tick == FIRST_TICK ? TICK_MIN : tick;
}

static void begin_tick(struct io_pool *pool, long long tick)
{
	pool->tick = tick;
	pool->tick_end = monotonic_ns() + length_of(tick);
	pool->tick_started = pool->started;
	if (!pool->wq->data.parallel)
		return;
	list_for_each(link, &pool->running) {
		struct io_worker *worker = container_of(link, struct io_worker, list);

		worker->computed = clock_ns(worker->cpu_clock);
	}
}

/* Its first tick begins, while the thread wakes up or is made: a burst's workers come
 * a tick apart, new or not. */
static void set_standby(struct io_pool *pool, struct io_worker *worker)
{
	set_state(worker, IO_WORKER_STANDBY);
	pool->standby = worker;
	begin_tick(pool, FIRST_TICK);
}

/* Memory for workers, on their node. */
struct block {
	struct io_wq_list list; /* in pool->blocks */
	struct io_worker workers[WORKERS_PER_BLOCK];
};

static void add_block(struct io_pool *pool)
{
	struct block *block = io_wq_topology_alloc(pool->wq->topology, pool->node, sizeof(*block));

	if (!block)
		return;
	list_add(&block->list, &pool->blocks);
	for (unsigned i = 0; i < WORKERS_PER_BLOCK; i++)
		list_add_tail(&block->workers[i].all, &pool->spares);
}

/* Workers' memory is kept until the queue's end, so that a wake-up that comes
 * after its worker's end does no harm. Returns NULL without memory. */
static struct io_worker *new_worker(struct io_pool *pool)
{
	struct io_worker *worker;

	if (list_empty(&pool->spares))
		add_block(pool);
	if (list_empty(&pool->spares))
		return NULL;
	worker = container_of(pool->spares.next, struct io_worker, all);
	list_del(&worker->all);
	memset(worker, 0, sizeof(*worker));
	worker->pool = pool;
	worker->call_fd = -1;
	list_init(&worker->list);
	return worker;
}

void io_pool_free_workers(struct io_pool *pool)
{
	list_for_each_safe(link, &pool->blocks)
		io_wq_topology_free(pool->wq->topology, container_of(link, struct block, list),
				    sizeof(struct block));
}

/* Makes a worker, as the pool's standby. Returns 0 or a negative errno. */
static int create_worker(struct io_pool *pool)
{
	struct io_wq *wq = pool->wq;
	struct io_worker *worker = new_worker(pool);
	int ret;

	if (!worker)
		return -ENOMEM;
	snprintf(worker->name, sizeof(worker->name), "%s-%u/%s%u", wq->name, pool->node,
		 pool->kind == IO_POOL_UNBOUND ? "u" : "", pool->next_name++);
	set_standby(pool, worker);
	ret = io_wq_thread_create(wq, worker_main, worker);
	if (ret) {
		pool->standby = NULL;
		pool->next_name--;
		list_add(&worker->all, &pool->spares);
		return ret;
	}
	pool->nr_workers++;
	list_add_tail(&worker->all, &pool->workers);
	return 0;
}

/* No worker of this pool is alive and none can be made: another pool that has
 * workers takes its works over. If there is one, it is of the same kind; else
 * one of the other kind does, since with one worker alive in the queue, a thread
 * that can't be made is no error. Returns that pool, or NULL. */
static struct io_pool *give_works_away(struct io_pool *pool)
{
	struct io_pool *heir = NULL;

	for_each_pool(other, pool->wq)
		if (other->nr_workers && (!heir || other->kind == pool->kind))
			heir = other;
	if (!heir)
		return NULL;
	list_for_each(link, &pool->run) {
		container_of(link, struct io_wq_work, list)->pool = (unsigned)(heir - pool->wq->pools);
		pool->enqueued--;
		heir->enqueued++;
	}
	list_splice_tail(&pool->run, &heir->run);
	return heir;
}

/* Those that count against the limit. */
static unsigned counted_workers(const struct io_pool *pool)
{
	return pool->nr_workers - pool->nr_awaiting;
}

/* Makes sure that the pool's runnable work has a standby, if it can have one.
 * Returns 0, or a negative errno if there is no worker at all to run it. */
int io_pool_need_worker(struct io_pool *pool)
{
	int ret = 0;

	if (list_empty(&pool->run))
		return 0;
	if (pool->standby) {
		if (has_room(pool))
			io_worker_wake(pool->standby); /* needn't watch any longer */
		return 0;
	}
	if (!list_empty(&pool->idle)) {
		struct io_worker *worker = container_of(pool->idle.next, struct io_worker, list);

		set_standby(pool, worker);
		io_worker_wake(worker);
	} else if (counted_workers(pool) < pool->max_workers) {
		ret = create_worker(pool);
	}
	if (!ret || pool->nr_workers)
		return 0;
	pool = give_works_away(pool);
	return pool ? io_pool_need_worker(pool) : ret;
}

/* Whether the pool has more workers than it may have. Locked. */
static bool is_crowded(const struct io_pool *pool)
{
	return counted_workers(pool) > pool->max_workers;
}

/* Runnable work gets its workers, or those without work that are too many end.
 * Locked. */
static void follow_limit(struct io_pool *pool)
{
	if (is_crowded(pool))
		list_for_each(link, &pool->idle)
			io_worker_wake(container_of(link, struct io_worker, list));
	io_pool_need_worker(pool); /* can't fail: what is runnable has a worker */
}

void io_pool_set_max_workers(struct io_pool *pool, unsigned max_workers)
{
	pool->max_workers = max_workers;
	follow_limit(pool);
}

/* ---- called on the worker itself */

/* The thread's slack is another one meanwhile only: programs that works start inherit it. */
static int wait_for_tick(struct io_worker *worker, long long ns)
{
	int ret;

	prctl(PR_SET_TIMERSLACK, TIMER_SLACK);
	ret = futex_wait(&worker->asleep, 1, ns);
	prctl(PR_SET_TIMERSLACK, 0); /* as it was */
	return ret;
}

/* Waits to be woken, at most ns if ns >= 0. Locked; unlocks meanwhile. */
static int wait_unlocked(struct io_worker *worker, long long ns, bool spin)
{
	struct io_wq *wq = worker->pool->wq;
	long long awake_at = 0;
	bool sleeps;
	int ret;

	worker->woken_at = 0;
	__atomic_store_n(&worker->asleep, 1, __ATOMIC_RELAXED);
	io_wq_unlock(wq);
	if (spin)
		spin_until_zero(&worker->pool->spin, &worker->asleep);
	sleeps = __atomic_load_n(&worker->asleep, __ATOMIC_RELAXED);
	if (ns >= 0 && ns <= TICK_MAX)
		ret = wait_for_tick(worker, ns);
	else
		ret = futex_wait(&worker->asleep, 1, ns);
	if (sleeps)
		awake_at = monotonic_ns();
	io_wq_lock(wq);
	__atomic_store_n(&worker->asleep, 0, __ATOMIC_RELAXED);
	if (sleeps && worker->woken_at)
		spin_note_wake(awake_at - worker->woken_at);
	return ret;
}

/* Whether an idle worker stays, however long: a node's last one for bounded work.
 * Unbounded work is rarer, and may be over for good, as is that of a node whose works
 * go to another. */
static bool stays(const struct io_pool *pool)
{
	return pool->kind == IO_POOL_BOUND && pool->nr_workers == 1 &&
	       pool->wq->affinities[pool->node].home == pool->node;
}

/* Falls idle until it is the standby. Returns false if the thread is to end: idle
 * for too long and not one that stays, or one too many, or the queue stops. Locked. */
static bool stay_idle(struct io_worker *worker)
{
	struct io_pool *pool = worker->pool;
	long long timeout = pool->wq->data.idle_timeout_ms * NSEC_PER_MSEC;
	bool spin = pool->wq->may_spin;

	while (worker->state == IO_WORKER_IDLE) {
		int ret;

		if (pool->wq->exiting || is_crowded(pool))
			return false;
		ret = wait_unlocked(worker, stays(pool) ? WAIT_FOREVER : timeout, spin);
		spin = false;
		if (ret == -ETIMEDOUT && worker->state == IO_WORKER_IDLE && !stays(pool))
			return false;
	}
	return true;
}

/* Whoever runs has not begun a work for a tick, of ns, so it has said nothing but must
 * be waiting for something. (Or computes at length: help is right then, too, where works
 * take turns. Where they run in parallel, it runs, if it had a processor half of the time;
 * but after a while it is as if they took turns, since it may compute until another work has run.) */
static void take_for_blocked(struct io_pool *pool, long long ns)
{
	bool takes_all = !pool->wq->data.parallel || pool->quiet_ns >= TURN_NS;

	list_for_each_safe(link, &pool->running) {
		struct io_worker *worker = container_of(link, struct io_worker, list);

		if (takes_all || clock_ns(worker->cpu_clock) - worker->computed < ns / 2)
			set_state(worker, IO_WORKER_BLOCKED);
	}
}

/* How many are to run at once from now on: all that can, or, if works are short, one. So many works
 * were begun in a tick, of ns. */
static void set_width(struct io_pool *pool, long long ns, uint64_t begun)
{
	bool are_long = ns * pool->nr_running >= WIDE_NS * (long long)begun;

	pool->width = pool->wq->data.parallel && are_long ? pool->wq->affinities[pool->node].nr_cpus : 1;
}

/* The tick after one of that length in which so many works were begun. Those of the first
 * tick may precede the one that blocks: they are no flow. Nor is a single one: it may be
 * that of a worker who was blocked, and now blocks again. But who computes gets on. */
static long long next_tick(const struct io_pool *pool, uint64_t begun)
{
	long long tick = pool->tick;

	if (tick == FIRST_TICK || (begun == 0 && has_room(pool)))
		return TICK_MIN;
	if (begun == 1)
		return tick > TICK_MIN ? tick / 2 : tick;
	return tick < TICK_MAX ? tick * 2 : tick;
}

/* The standby's tick has ended, and the next one begins. Returns whether no work was begun in it. */
static bool end_tick(struct io_pool *pool)
{
	uint64_t begun = pool->started - pool->tick_started;
	long long ns = monotonic_ns() - pool->tick_end + length_of(pool->tick);

	pool->samples = SAMPLES_PER_TICK;
	pool->quiet_ns = begun || pool->quiet_ns >= TURN_NS ? 0 : pool->quiet_ns + ns;
	set_width(pool, ns, begun);
	if (!begun && !list_empty(&pool->run))
		take_for_blocked(pool, ns);
	begin_tick(pool, next_tick(pool, begun));
	return !begun;
}

/* The standby's watch, until it is to take work. Returns false if there is no
 * more use for it. Locked. */
static bool watch(struct io_worker *worker)
{
	struct io_pool *pool = worker->pool;
	bool quiet = false;

	while (list_empty(&pool->run) || !has_room(pool)) {
		long long left;

		if (list_empty(&pool->run) && (quiet || pool->wq->exiting))
			return false;
		left = pool->tick_end - monotonic_ns();
		if (left <= 0 || wait_unlocked(worker, left, false) == -ETIMEDOUT)
			quiet = end_tick(pool);
		/* else woken: somebody said that it blocks */
	}
	return true;
}

/* Whether the calling thread, the worker's, has waited for something since it was asked
 * last. (To be kept from a processor is no waiting.) */
static bool has_slept(struct io_worker *worker)
{
	long before = worker->sleeps;
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	worker->sleeps = usage.ru_nvcsw;
	return worker->sleeps != before;
}

/*
 * The prediction. Works that block for less than a tick or so, as reads of a fast disk do,
 * end before anybody has noticed. So some works of each tick are sampled: whether their
 * threads slept. If most did, the pool's next works are taken for blocked as they begin, as
 * if they had said so, until most don't. (A saturating counter, as a branch predictor's.)
 *
 * A thread that only computes sleeps, too, when the interpreter has it give way; but not
 * often, for what it computes: once in 5 ms.
 */
static bool will_sleep(const struct io_pool *pool)
{
	return pool->sleepy > SLEEPY_MAX / 2;
}

/* Locked. */
static void learn(struct io_pool *pool, bool slept_often)
{
	if (slept_often && pool->sleepy < SLEEPY_MAX)
		pool->sleepy++;
	else if (!slept_often && pool->sleepy)
		pool->sleepy--;
}

static long long computed_us(const struct rusage *usage)
{
	return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000LL +
	       usage->ru_utime.tv_usec + usage->ru_stime.tv_usec;
}

/* Calls func, and no more: to wait for the queue's lock, say, is none of its. Not locked. */
static struct io_wq_work *call_sampled(struct io_worker *worker)
{
	struct rusage before, after;
	struct io_wq_work *next;

	getrusage(RUSAGE_THREAD, &before);
	next = io_work_call(worker->cur_work);
	getrusage(RUSAGE_THREAD, &after);
	worker->sleeps = after.ru_nvcsw;
	worker->slept = after.ru_nvcsw != before.ru_nvcsw;
	worker->slept_often = worker->slept &&
			      computed_us(&after) - computed_us(&before) < OFTEN_US;
	return next;
}

/* The pool's next work starts on this worker, which runs. Locked; followed by
 * io_pool_need_worker, as whatever makes a worker blocked. */
static void start_work(struct io_worker *worker)
{
	struct io_pool *pool = worker->pool;

	io_work_start(worker);
	worker->sampled = pool->samples || will_sleep(pool);
	if (pool->samples)
		pool->samples--;
	if (will_sleep(pool))
		set_state(worker, IO_WORKER_BLOCKED);
}

/* The standby becomes a worker that runs its pool's next work. Between watch and
 * here it may have waited long for worker_busy; if works were begun meanwhile,
 * it isn't needed yet; if the limit was lowered, it is one too many. Returns
 * whether it has work now. Locked. */
static bool take_work(struct io_worker *worker, uint64_t begun)
{
	struct io_pool *pool = worker->pool;

	if (is_crowded(pool) || list_empty(&pool->run) || (!has_room(pool) && pool->started != begun))
		return false;
	pool->standby = NULL;
	set_state(worker, IO_WORKER_RUNNING);
	has_slept(worker); /* from here on it counts */
	if (pool->wq->data.parallel)
		worker->computed = clock_ns(worker->cpu_clock);
	start_work(worker);
	return true;
}

static void call_hook(struct io_wq *wq, void (*hook)(void *))
{
	if (hook)
		hook(wq->data.ctx);
}

/* Watches until it has work, or until nobody needs it: then it is idle. Locked
 * before; after, if it returns true, and busy. */
static bool stand_by(struct io_worker *worker)
{
	struct io_wq *wq = worker->pool->wq;

	while (!is_crowded(worker->pool) && watch(worker)) {
		uint64_t begun = worker->pool->started;
		bool taken;

		io_wq_unlock(wq);
		call_hook(wq, wq->data.worker_busy);
		io_wq_lock(wq);
		taken = take_work(worker, begun);
		if (taken)
			return true;
		io_wq_unlock(wq);
		call_hook(wq, wq->data.worker_idle);
		io_wq_lock(wq);
	}
	worker->pool->standby = NULL;
	set_state(worker, IO_WORKER_IDLE); /* no work is runnable, or it leaves at once */
	return false;
}

/* Whether the worker takes another work: not if it is one too many, or others run, unless
 * it was blocked: its next work is likely to block as well, and others who are said to
 * run may be blocked, too, but not noticed yet. Locked. */
static bool takes_more(const struct io_worker *worker, bool was_blocked)
{
	const struct io_pool *pool = worker->pool;

	return !list_empty(&pool->run) && (was_blocked || pool->nr_running <= pool->width) &&
	       !is_crowded(pool);
}

/* What a worker does after a work. Who was taken for blocked, but has computed all the
 * time, is as one that ran: else works that compute would get more and more workers.
 * Locked. */
static void next_work(struct io_worker *worker)
{
	bool was_blocked = worker->state == IO_WORKER_BLOCKED &&
			(worker->sampled ? worker->slept : has_slept(worker));

	if (worker->sampled)
		learn(worker->pool, worker->slept_often);
	if (worker->state == IO_WORKER_BLOCKED)
		set_state(worker, IO_WORKER_RUNNING);
	if (takes_more(worker, was_blocked))
		start_work(worker);
	else
		set_state(worker, IO_WORKER_IDLE);
	io_pool_need_worker(worker->pool);
}

/* Foreign code that has returned may have forked. If this is the child, only this thread
 * came along. The queue can't be used; but the hook gives back what worker_busy took, for
 * threads that the child makes. */
static void end_if_forked(struct io_wq *wq)
{
	if (!io_wq_forked(wq))
		return;
	call_hook(wq, wq->data.worker_idle);
	pthread_exit(NULL);
}

/* The worker's work has returned, and left next. free_work may run foreign code, which may
 * wait: so the worker has no work that could run elsewhere while it gives this one back,
 * unless it is said to be quick. (But admit may run foreign code, too.) Not locked. */
static void end_work(struct io_worker *worker, struct io_wq_work *next)
{
	struct io_wq *wq = worker->pool->wq;
	struct io_wq_work *work = worker->cur_work;
	bool is_quick = worker->frees_quickly;

	worker->frees_quickly = false;
	io_wq_lock(wq);
	io_work_done(worker, next);
	is_quick = is_quick && !wq->refused_any;
	if (wq->data.free_work && !is_quick) {
		io_wq_unlock_and_tell(wq);
		io_work_free(wq, work);
		end_if_forked(wq);
		io_wq_lock(wq);
	}
	if (!next)
		next_work(worker);
	io_wq_unlock_and_tell(wq);
	if (is_quick)
		io_work_free(wq, work);
}

/* Runs works from cur_work on until it is idle. Locked before, not after. */
static void run_works(struct io_worker *worker)
{
	struct io_wq *wq = worker->pool->wq;

	io_pool_need_worker(worker->pool);
	io_wq_unlock_and_tell(wq);
	while (worker->cur_work) {
		struct io_wq_work *next;

		io_worker_settle_signals(worker);
		next = worker->sampled ? call_sampled(worker) : io_work_call(worker->cur_work);
		end_if_forked(wq);
		end_work(worker, next);
	}
	io_worker_settle_signals(worker);
}

static void enter_thread(struct io_worker *worker)
{
	struct io_wq *wq = worker->pool->wq;
	size_t length = strlen(worker->name);

	/* the kernel keeps 15 characters, of which the last tell the most */
	pthread_setname_np(pthread_self(), worker->name + (length > 15 ? length - 15 : 0));
	io_wq_lock(wq);
	worker->tid = (pid_t)syscall(SYS_gettid);
	pthread_getcpuclockid(pthread_self(), &worker->cpu_clock);
	io_worker_bind(worker);
	io_wq_unlock(wq);
	io_wq_topology_adopt_thread(wq->topology, worker->pool->node);
	io_wq_signal_unblock(wq->signal);
	io_wq_current_worker = worker;
	if (wq->data.worker_start)
		wq->data.worker_start(wq->data.ctx, worker->name);
}

/* Whether the worker is the standby, be it after a while; else it is to end. Locked. */
static bool goes_on(struct io_worker *worker)
{
	if (is_crowded(worker->pool))
		return false;
	return worker->state == IO_WORKER_STANDBY || stay_idle(worker);
}

/* The worker is none of its pool's any more. Locked. */
static void leave_pool(struct io_worker *worker)
{
	struct io_pool *pool = worker->pool;

	if (pool->standby == worker)
		pool->standby = NULL;
	list_del(&worker->list);
	list_del(&worker->all);
	list_add(&worker->all, &pool->spares);
	pool->nr_workers--;
	io_pool_need_worker(pool); /* can't fail: if work is runnable, others are left */
}

static void *worker_main(void *arg)
{
	struct io_worker *worker = arg;
	struct io_wq *wq = worker->pool->wq;

	enter_thread(worker);
	io_watch_enter(wq);
	io_wq_lock(wq);
	while (goes_on(worker)) {
		if (stand_by(worker)) {
			run_works(worker);
			call_hook(wq, wq->data.worker_idle);
			io_wq_lock(wq);
		}
	}
	io_worker_close_call(worker);
	io_wq_current_worker = NULL;
	leave_pool(worker);
	io_wq_unlock(wq);
	call_hook(wq, wq->data.worker_stop);
	io_watch_leave(wq);
	io_wq_thread_exit(wq);
	return NULL;
}

/* ---- called by works */

static void announce(enum io_worker_state from, enum io_worker_state to)
{
	struct io_worker *worker = io_wq_current_worker;

	if (!worker || io_wq_forked(worker->pool->wq))
		return;
	io_wq_lock(worker->pool->wq);
	if (worker->state == from && worker->cur_work) {
		set_state(worker, to);
		io_pool_need_worker(worker->pool);
	}
	io_wq_unlock(worker->pool->wq);
}

void io_wq_worker_sleeping(void)
{
	struct io_worker *worker = io_wq_current_worker;

	if (!worker || worker->announced++)
		return;
	announce(IO_WORKER_RUNNING, IO_WORKER_BLOCKED);
}

void io_wq_worker_running(void)
{
	struct io_worker *worker = io_wq_current_worker;

	if (!worker || (worker->announced && --worker->announced))
		return;
	announce(IO_WORKER_BLOCKED, IO_WORKER_RUNNING);
}

void io_wq_worker_frees_quickly(void)
{
	if (io_wq_current_worker && !io_wq_completing())
		io_wq_current_worker->frees_quickly = true;
}

/* ---- works that wait for works */

/* Each call is undone once, be it by the work's end. Locked. */
void io_worker_stop_awaiting(struct io_worker *worker)
{
	if (!worker->awaiting)
		return;
	worker->pool->nr_awaiting -= worker->awaiting;
	worker->awaiting = 0;
	follow_limit(worker->pool);
}

/* Whether the work can't run before the worker's own has ended. Locked. */
static bool waits_for_itself(const struct io_worker *worker, const struct io_wq_work *work)
{
	return worker->hashed && (work->flags & IO_WQ_WORK_HASHED) &&
	       work->key.id == worker->key.id;
}

/* Whether nobody is left to run what is runnable, and nobody comes. Locked. */
static bool is_stuck(const struct io_pool *pool)
{
	return !list_empty(&pool->run) && !pool->standby && !counted_workers(pool);
}

static int await(struct io_worker *worker, const struct io_wq_work *work)
{
	struct io_pool *pool = worker->pool;

	/* one that runs may in its turn wait for others: so its waiter counts as little */
	if (work && io_work_is_pending(pool->wq, work) && waits_for_itself(worker, work))
		return -EDEADLK;
	worker->awaiting++;
	pool->nr_awaiting++;
	if (worker->state == IO_WORKER_RUNNING)
		set_state(worker, IO_WORKER_BLOCKED);
	io_pool_need_worker(pool);
	if (!is_stuck(pool))
		return 1;
	worker->awaiting--;
	pool->nr_awaiting--;
	return -EAGAIN;
}

int io_wq_worker_await(struct io_wq *wq, const struct io_wq_work *work)
{
	struct io_worker *worker = io_wq_current_worker;
	int ret = 0;

	if (!worker || worker->pool->wq != wq || io_wq_forked(wq) || io_wq_completing())
		return 0;
	io_wq_lock(wq);
	if (worker->cur_work)
		ret = await(worker, work);
	io_wq_unlock(wq);
	return ret;
}

void io_wq_worker_await_end(void)
{
	struct io_worker *worker = io_wq_current_worker;

	if (!worker || io_wq_forked(worker->pool->wq))
		return;
	io_wq_lock(worker->pool->wq);
	if (worker->awaiting) {
		worker->awaiting--;
		worker->pool->nr_awaiting--;
		if (!worker->awaiting && !worker->announced && worker->state == IO_WORKER_BLOCKED)
			set_state(worker, IO_WORKER_RUNNING);
		follow_limit(worker->pool);
	}
	io_wq_unlock(worker->pool->wq);
}
