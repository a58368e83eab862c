/* Statistics: counted by pool, under the lock that is held anyway. What can be derived
 * from other counts is not counted. */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"

#include <string.h>

/* One of the works that are timed has started. Locked. */
void io_pool_note_wait(struct io_pool *pool, long long ns)
{
	unsigned long long us = (unsigned long long)ns / NSEC_PER_USEC;
	unsigned digits = us ? 64 - (unsigned)__builtin_clzll(us) : 0;

	pool->waits[digits < IO_WQ_WAITS ? digits : IO_WQ_WAITS - 1]++;
}

void io_wq_worker_set_outcome(enum io_wq_outcome outcome)
{
	if (io_wq_current_worker && !io_wq_completing())
		io_wq_current_worker->outcome = outcome;
}

/* A work has said how it ended. Locked. */
void io_worker_note_outcome(struct io_worker *worker)
{
	if (worker->outcome == IO_WQ_FAILED)
		worker->pool->failed++;
	else
		worker->pool->cancelled++;
	worker->outcome = IO_WQ_FINISHED;
}

static void add_pool(struct io_wq_stats *stats, const struct io_pool *pool)
{
	stats->enqueued += pool->enqueued;
	stats->started += pool->started;
	stats->finished += pool->started - pool->cancelled; /* and those that run: see add_worker */
	stats->failed += pool->failed;
	stats->cancelled += pool->cancelled + pool->dropped;
	stats->pending += (unsigned)(pool->enqueued - pool->started - pool->dropped);
	stats->workers += pool->nr_workers;
	stats->created += pool->next_name;
	stats->retired += pool->next_name - pool->nr_workers;
	for (unsigned i = 0; i < IO_WQ_WAITS; i++)
		stats->waits[i] += pool->waits[i];
}

static void add_worker(struct io_wq_stats *stats, const struct io_worker *worker)
{
	stats->running += worker->cur_work != NULL;
	stats->finished -= worker->cur_work != NULL;
	stats->blocked += worker->cur_work && worker->state == IO_WORKER_BLOCKED;
	stats->idle += worker->state == IO_WORKER_IDLE;
}

static void add(struct io_wq_stats *stats, const struct io_pool *pool)
{
	add_pool(stats, pool);
	list_for_each(link, &pool->workers)
		add_worker(stats, container_of(link, struct io_worker, all));
	stats->longest = pool->wq->longest;
}

/* Both are zeroed. Locked. */
void io_wq_add_up(struct io_wq *wq, struct io_wq_stats *stats, struct io_wq_stats *nodes)
{
	for_each_pool(pool, wq) {
		add(stats, pool);
		if (nodes)
			add(&nodes[pool->node], pool);
	}
}

void io_wq_get_node_stats(struct io_wq *wq, struct io_wq_stats *stats, struct io_wq_stats *nodes)
{
	memset(stats, 0, sizeof(*stats));
	if (nodes)
		memset(nodes, 0, io_wq_topology_nodes(wq->topology) * sizeof(*nodes));
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	io_wq_add_up(wq, stats, nodes);
	io_wq_unlock(wq);
}

void io_wq_get_stats(struct io_wq *wq, struct io_wq_stats *stats)
{
	io_wq_get_node_stats(wq, stats, NULL);
}
