/*
 * Which CPUs the workers of each node run on.
 *
 * A node's workers may run on those of its CPUs that the process may use, or on fewer
 * (io_wq_cpu_affinity). If that leaves a node none, its new works go to the nearest node
 * that has some, and its workers finish there what they have.
 *
 * When a node's last CPU goes offline, the kernel lets its threads run anywhere, and
 * it doesn't take them back. So a worker that begins a work asks where it is, which is cheap,
 * and goes back if it can. It doesn't if somebody else has bound it to other CPUs.
 */
#define _GNU_SOURCE
#include "core/futex.h"
#include "core/internal.h"
#include "numa/numa.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define REBIND_PAUSE (10 * NSEC_PER_MSEC) /* between two attempts to go back */

enum { WORD_BITS = 8 * sizeof(unsigned long), WORDS_MAX = (1 << 16) / WORD_BITS };

static unsigned words_of(const struct io_cpus *cpus)
{
	return cpus->size / WORD_BITS;
}

static unsigned nr_nodes(const struct io_wq *wq)
{
	return wq->nr_pools / IO_POOL_KINDS;
}

/* Whether the mask, all CPUs if it is NULL, has any of the set's. */
static bool intersect(const struct io_cpus *cpus, const unsigned long *mask, unsigned words)
{
	for (unsigned i = 0; i < words_of(cpus); i++)
		if (cpus->words[i] & (mask ? (i < words ? mask[i] : 0) : ~0ul))
			return true;
	return false;
}

/* Leaves in it those of the node's CPUs that are in the mask. */
static void restrict_affinity(struct io_node_affinity *affinity, const struct io_cpus *all,
			   const unsigned long *mask, unsigned words)
{
	affinity->nr_cpus = 0;
	for (unsigned i = 0; i < words_of(all); i++) {
		affinity->cpus.words[i] = all->words[i] & (mask ? (i < words ? mask[i] : 0) : ~0ul);
		affinity->nr_cpus += (unsigned)__builtin_popcountl(affinity->cpus.words[i]);
	}
	if (memcmp(affinity->cpus.words, all->words, all->size / 8))
		affinity->bound = true; /* for good: its threads' masks are not undone otherwise */
}

/* The nearest node that has CPUs in the mask. There is one. */
static unsigned find_home(struct io_wq *wq, unsigned node, const unsigned long *mask, unsigned words)
{
	unsigned best = nr_nodes(wq);

	for (unsigned i = 0; i < nr_nodes(wq); i++)
		if (intersect(io_wq_topology_cpus(wq->topology, i), mask, words) &&
		    (best == nr_nodes(wq) || io_wq_topology_distance(wq->topology, node, i) <
						     io_wq_topology_distance(wq->topology, node, best)))
			best = i;
	return best;
}

static void set_affinities(struct io_wq *wq, const unsigned long *mask, unsigned words)
{
	for (unsigned node = 0; node < nr_nodes(wq); node++) {
		struct io_node_affinity *affinity = &wq->affinities[node];

		affinity->home = find_home(wq, node, mask, words);
		restrict_affinity(affinity, io_wq_topology_cpus(wq->topology, affinity->home), mask,
				  words);
	}
}

int io_wq_affinity_init(struct io_wq *wq)
{
	wq->affinities = calloc(nr_nodes(wq), sizeof(*wq->affinities));
	for (unsigned node = 0; wq->affinities && node < nr_nodes(wq); node++) {
		struct io_node_affinity *affinity = &wq->affinities[node];

		affinity->bound = nr_nodes(wq) > 1;
		affinity->cpus.size = io_wq_topology_cpus(wq->topology, node)->size;
		affinity->cpus.words = calloc(words_of(&affinity->cpus), sizeof(*affinity->cpus.words));
		if (!affinity->cpus.words)
			return -ENOMEM;
	}
	if (!wq->affinities)
		return -ENOMEM;
	set_affinities(wq, NULL, 0);
	return 0;
}

void io_wq_affinity_free(struct io_wq *wq)
{
	for (unsigned node = 0; wq->affinities && node < nr_nodes(wq); node++)
		free(wq->affinities[node].cpus.words);
	free(wq->affinities);
}

/* An error means that all of these CPUs are offline: the thread runs anywhere. Locked. */
static void bind_thread(const struct io_worker *worker, pid_t tid)
{
	const struct io_node_affinity *affinity = &worker->pool->wq->affinities[worker->pool->node];

	if (affinity->bound)
		sched_setaffinity(tid, affinity->cpus.size / 8, (cpu_set_t *)affinity->cpus.words);
}

/* The worker's thread, which has just begun, goes where it belongs. Locked. */
void io_worker_bind(struct io_worker *worker)
{
	bind_thread(worker, 0);
}

/* Whether it may run on of these CPUs. */
static bool may_rebind(const struct io_node_affinity *affinity)
{
	unsigned long now[WORDS_MAX];

	return sched_getaffinity(0, affinity->cpus.size / 8, (cpu_set_t *)now) == 0 &&
	       intersect(&affinity->cpus, now, words_of(&affinity->cpus));
}

/* Called by a worker that begins a work. Locked. */
void io_worker_rebind_if_moved(struct io_worker *worker)
{
	const struct io_node_affinity *affinity = &worker->pool->wq->affinities[worker->pool->node];
	long long now;
	int cpu;

	if (!affinity->bound)
		return;
	cpu = sched_getcpu();
	if (cpu < 0 || io_cpus_has(&affinity->cpus, (unsigned)cpu))
		return;
	now = monotonic_ns();
	if (now - worker->rebind_tried < REBIND_PAUSE)
		return;
	worker->rebind_tried = now;
	if (may_rebind(affinity))
		bind_thread(worker, 0);
}

int io_wq_cpu_affinity(struct io_wq *wq, const unsigned long *mask, unsigned words)
{
	bool any = false;

	for (unsigned node = 0; node < nr_nodes(wq); node++)
		any |= intersect(io_wq_topology_cpus(wq->topology, node), mask, words);
	if (!any)
		return -EINVAL;
	if (io_wq_forked(wq))
		return -ESHUTDOWN;
	io_wq_lock(wq);
	set_affinities(wq, mask, words);
	for_each_pool(pool, wq)
		list_for_each(link, &pool->workers) {
			struct io_worker *worker = container_of(link, struct io_worker, all);

			if (worker->tid) /* else its thread hasn't begun: see io_worker_settle */
				bind_thread(worker, worker->tid);
			io_worker_wake(worker); /* it may have no business to stay any more */
		}
	io_wq_unlock(wq);
	return 0;
}
