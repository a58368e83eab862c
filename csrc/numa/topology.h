/* The machine, as a queue was made on it: topology.c. */
#ifndef IO_WQ_TOPOLOGY_H
#define IO_WQ_TOPOLOGY_H

#include "numa/libnuma.h"
#include "numa/numa.h"

enum { NODES_MAX = 1 << 10 }; /* the kernel's */

struct io_node {
	int id; /* the kernel's number, or -1: all of the machine */
	struct io_cpus cpus;
};

struct io_wq_topology {
	const struct libnuma *numa; /* NULL: there is none that serves */
	unsigned nr_cpus;
	struct io_cpus allowed;  /* the CPUs that the process may run on */
	uint16_t *node_of; /* atomic: index of each CPU's node, or the nearest; NODE_UNKNOWN */
	unsigned nr_nodes;
	struct io_node *nodes;
};

#endif
