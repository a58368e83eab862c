/* NUMA, as the queue sees it: which CPUs its workers run on, and where memory is. */
#ifndef IO_WQ_NUMA_H
#define IO_WQ_NUMA_H

#include "io_wq.h"

#include <stdbool.h>

struct io_worker;

/* A set of CPUs, as the kernel has it. */
struct io_cpus {
	unsigned size; /* bits */
	unsigned long *words;
};

static inline bool io_cpus_has(const struct io_cpus *cpus, unsigned cpu)
{
	enum { BITS = 8 * sizeof(unsigned long) };

	return cpu < cpus->size && (cpus->words[cpu / BITS] >> cpu % BITS) & 1;
}

/* The CPUs that a node's workers run on: see numa/affinity.c. */
struct io_node_affinity {
	struct io_cpus cpus;
	unsigned nr_cpus;    /* of these; at least 1 */
	unsigned home;       /* the node that its new works go to: itself, if it has CPUs */
	bool bound;          /* there are, or were, other CPUs than these */
};

/* ---- affinity.c */
int io_wq_affinity_init(struct io_wq *wq);
void io_wq_affinity_free(struct io_wq *wq);
void io_worker_bind(struct io_worker *worker);
void io_worker_rebind_if_moved(struct io_worker *worker);

/* ---- libnuma.c */
void io_libnuma_fork(bool before);

/* ---- topology.c */
unsigned io_wq_topology_current(struct io_wq_topology *topology);
int io_wq_topology_find(const struct io_wq_topology *topology, int id);
const struct io_cpus *io_wq_topology_cpus(const struct io_wq_topology *topology, unsigned index);

/* ---- memory.c */
void *io_wq_topology_alloc(const struct io_wq_topology *topology, unsigned index, size_t size);
void io_wq_topology_free(const struct io_wq_topology *topology, void *memory, size_t size);
void io_wq_topology_adopt_thread(const struct io_wq_topology *topology, unsigned index);

#endif
