/* What the watcher sees of one queue: see io_wq_page.h. */
#define _GNU_SOURCE
#include "core/watch.h"
#include "numa/topology.h"

#include <stdio.h>
#include <string.h>

_Static_assert((int)IO_WQ_PAGE_WAITS == (int)IO_WQ_WAITS, "the page has what the statistics have");

enum {
	SLICE = 512,           /* of the keys' table, with the queue locked once */
	BUCKETS_MAX = 1 << 16, /* of it, a look */
	COUNT_MAX = 1000,      /* works of a key, one by one */
};

/* ---- counts */

/* Locked. */
static void look_at_counts(struct io_wq *wq, struct io_wq_page_queue *queue)
{
	struct io_wq_stats stats = { 0 };

	io_wq_add_up(wq, &stats, NULL);
	queue->enqueued = stats.enqueued;
	queue->started = stats.started;
	queue->finished = stats.finished;
	queue->failed = stats.failed;
	queue->cancelled = stats.cancelled;
	queue->created = stats.created;
	queue->retired = stats.retired;
	queue->pending = stats.pending;
	queue->longest_pending = stats.longest;
	queue->running = stats.running;
	queue->blocked = stats.blocked;
	queue->workers = stats.workers;
	queue->idle = stats.idle;
	memcpy(queue->waits, stats.waits, sizeof(queue->waits));
	queue->max_workers = wq->pools[IO_POOL_BOUND].max_workers;
	queue->max_unbounded = wq->pools[IO_POOL_UNBOUND].max_workers;
	queue->nodes = wq->nr_pools / IO_POOL_KINDS;
	queue->keys = (uint32_t)wq->keys.count;
}

/* ---- workers */

static uint32_t flags_of(const struct io_worker *worker)
{
	bool unbound = worker->pool->kind == IO_POOL_UNBOUND;
	bool shielded = __atomic_load_n(&worker->shields, __ATOMIC_RELAXED);

	if (!worker->cur_work)
		return unbound ? IO_WQ_PAGE_UNBOUND : 0;
	return IO_WQ_PAGE_WORKING | (unbound ? IO_WQ_PAGE_UNBOUND : 0) |
	       (worker->state == IO_WORKER_BLOCKED ? IO_WQ_PAGE_WAITING : 0) |
	       (worker->cancelling ? IO_WQ_PAGE_CANCELLING : 0) |
	       (shielded ? IO_WQ_PAGE_SHIELDED : 0) | (worker->hashed ? IO_WQ_PAGE_HASHED : 0);
}

static void look_at_work(const struct io_worker *worker, struct io_wq_page_worker *slot,
			 const struct io_wq_watch_hooks *hooks)
{
	slot->seq = worker->seq;
	if (hooks->describe_work)
		slot->started_ns =
			hooks->describe_work(worker->cur_work, slot->work, sizeof(slot->work));
	if (worker->hashed && hooks->describe_key)
		hooks->describe_key(worker->cur_work, slot->key, sizeof(slot->key));
}

/* Locked. */
static void look_at_worker(const struct io_worker *worker, struct io_wq_page_worker *slot,
			   const struct io_wq_watch_hooks *hooks)
{
	const struct io_wq *wq = worker->pool->wq;

	*slot = (struct io_wq_page_worker){
		.queue = wq->watch_id,
		.tid = worker->tid,
		.node = io_wq_topology_node_id(wq->topology, worker->pool->node),
		.flags = flags_of(worker),
	};
	if (worker->cur_work && hooks)
		look_at_work(worker, slot, hooks);
}

static void add_worker(const struct io_worker *worker, struct io_look *look)
{
	struct io_wq_page_snapshot *snapshot = &look->snapshot;

	if (snapshot->nr_workers == IO_WQ_PAGE_WORKERS) {
		snapshot->workers_left_out++;
		return;
	}
	look->workers[snapshot->nr_workers] = worker;
	look_at_worker(worker, &snapshot->workers[snapshot->nr_workers++], NULL);
}

/* Those that have work, or those that don't. Locked. */
static void add_workers(struct io_wq *wq, bool working, struct io_look *look)
{
	for_each_pool(pool, wq)
		list_for_each(link, &pool->workers) {
			const struct io_worker *worker = container_of(link, struct io_worker, all);

			if (worker->tid && !!worker->cur_work == working)
				add_worker(worker, look);
		}
}

/* What they run is asked for with the queue locked anew for each: it takes 20 us or so. A worker may have
 * other work by then, or none, or its memory another thread: so all is looked at again. */
static void look_at_works(struct io_wq *wq, uint32_t first, struct io_look *look)
{
	for (uint32_t i = first; i < look->snapshot.nr_workers; i++) {
		struct io_wq_page_worker *slot = &look->snapshot.workers[i];

		if (!(slot->flags & IO_WQ_PAGE_WORKING))
			continue;
		io_wq_lock(wq);
		look_at_worker(look->workers[i], slot, look->hooks);
		io_wq_unlock(wq);
	}
}

/* The kernel says what they are blocked in; to read that takes longer than all the rest. */
void io_look_at_calls(struct io_wq_page_snapshot *snapshot)
{
	for (uint32_t i = 0; i < snapshot->nr_workers; i++) {
		struct io_wq_page_worker *slot = &snapshot->workers[i];

		if (slot->flags & IO_WQ_PAGE_WORKING)
			io_look_at_call(slot->tid, slot->call, sizeof(slot->call));
	}
}

/* ---- keys */

static unsigned count_works(const struct io_wq_key *key, const struct io_wq_watch_hooks *hooks)
{
	const struct io_wq_work *first = container_of(key->waiting.next, struct io_wq_work, list);
	unsigned count = hooks->count_key ? hooks->count_key(first) : 0;

	if (count)
		return count;
	count = 1; /* the holder */
	list_for_each(link, &key->waiting)
		if (++count == COUNT_MAX)
			break;
	return count;
}

/* A key that works wait for takes its place among the longest, if it is one of them. Locked. */
static void look_at_key(const struct io_wq_key *key, struct io_wq_page_queue *queue,
			const struct io_wq_watch_hooks *hooks)
{
	const struct io_wq_work *first = container_of(key->waiting.next, struct io_wq_work, list);
	struct io_wq_page_key found = { .works = count_works(key, hooks) };
	uint32_t place = queue->nr_longest;

	while (place && queue->longest[place - 1].works < found.works)
		place--;
	if (place == IO_WQ_PAGE_KEYS)
		return;
	if (hooks->describe_key)
		hooks->describe_key(first, found.text, sizeof(found.text));
	if (queue->nr_longest < IO_WQ_PAGE_KEYS)
		queue->nr_longest++;
	memmove(&queue->longest[place + 1], &queue->longest[place],
		(queue->nr_longest - place - 1) * sizeof(found));
	queue->longest[place] = found;
}

/* Returns whether there is more of the table to look at. Locked. */
static bool look_at_slice(struct io_wq *wq, size_t *left, struct io_wq_page_queue *queue,
			  const struct io_wq_watch_hooks *hooks)
{
	const struct io_wq_keys *keys = &wq->keys;
	size_t size = (size_t)1 << keys->bits;

	for (size_t i = 0; i < SLICE && *left; i++, --*left) {
		const struct io_wq_key *key = keys->buckets[wq->watch_cursor++ & (size - 1)];

		for (; key; key = key->next) {
			queue->keys_seen++;
			if (!list_empty(&key->waiting))
				look_at_key(key, queue, hooks);
		}
	}
	return *left;
}

/* Of a table that is too large for one look the next one sees what comes behind. One that has grown
 * meanwhile is looked at anew. */
static void look_at_keys(struct io_wq *wq, struct io_wq_page_queue *queue,
			 const struct io_wq_watch_hooks *hooks)
{
	unsigned bits = 0;
	size_t left = 0;
	bool more;

	do {
		io_wq_lock(wq);
		if (bits != wq->keys.bits) {
			bits = wq->keys.bits;
			left = (size_t)1 << bits < BUCKETS_MAX ? (size_t)1 << bits : BUCKETS_MAX;
			queue->nr_longest = queue->keys_seen = 0;
		}
		more = look_at_slice(wq, &left, queue, hooks);
		io_wq_unlock(wq);
	} while (more);
}

void io_look_at_queue(struct io_wq *wq, struct io_look *look)
{
	struct io_wq_page_snapshot *snapshot = &look->snapshot;
	uint32_t first = snapshot->nr_workers;
	struct io_wq_page_queue *queue;

	if (snapshot->nr_queues == IO_WQ_PAGE_QUEUES) {
		snapshot->queues_left_out++;
		return;
	}
	queue = &snapshot->queues[snapshot->nr_queues++];
	*queue = (struct io_wq_page_queue){ .id = wq->watch_id };
	snprintf(queue->name, sizeof(queue->name), "%s", wq->name);
	io_wq_lock(wq);
	look_at_counts(wq, queue);
	add_workers(wq, true, look);
	add_workers(wq, false, look);
	io_wq_unlock(wq);
	look_at_works(wq, first, look);
	look_at_keys(wq, queue, look->hooks);
}
