/*
 * NUMA: the nodes that the process may run on, and binding a worker to one.
 *
 * libnuma is loaded when it is first needed, so that neither its headers nor
 * the library have to be installed: without it there is one node, to which
 * nothing is bound, and io_wq_topology_problem says why. The environment's
 * IOWQ_LIBNUMA names another file to load.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_BITS = 8 * sizeof(unsigned long), CPUS_MAX = 1 << 16 };

/* libnuma's own, part of its ABI */
struct bitmask {
	unsigned long size; /* bits */
	unsigned long *maskp;
};

static struct {
	int (*available)(void);
	int (*max_node)(void);
	struct bitmask *(*allocate_cpumask)(void);
	void (*bitmask_free)(struct bitmask *);
	int (*bitmask_isbitset)(const struct bitmask *, unsigned);
	int (*node_to_cpus)(int node, struct bitmask *);
	int (*sched_setaffinity)(pid_t, struct bitmask *);
	void (*set_localalloc)(void);
	long long (*node_size64)(int node, long long *free_bytes);
	char problem[160]; /* empty: all of the above can be called */
} numa;

struct node {
	int id; /* the kernel's number, or -1: all of the machine */
	struct bitmask cpus;
};

struct io_wq_topology {
	unsigned nr_cpus;
	struct bitmask allowed;  /* the CPUs that the process may run on */
	unsigned short *node_of; /* index of each CPU's node */
	unsigned nr_nodes;
	struct node *nodes;
};

/* ---- libnuma */

static bool load_symbol(void *library, const char *name, void *function)
{
	void *symbol = dlsym(library, name);

	if (!symbol)
		snprintf(numa.problem, sizeof(numa.problem), "libnuma has no %s", name);
	memcpy(function, &symbol, sizeof(symbol)); /* ISO C has no cast for this */
	return symbol;
}

static void load_numa(void)
{
	const char *name = getenv("IOWQ_LIBNUMA");
	void *library = dlopen(name && *name ? name : "libnuma.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		snprintf(numa.problem, sizeof(numa.problem), "%s", dlerror());
		return;
	}
	if (load_symbol(library, "numa_available", &numa.available) &&
	    load_symbol(library, "numa_max_node", &numa.max_node) &&
	    load_symbol(library, "numa_allocate_cpumask", &numa.allocate_cpumask) &&
	    load_symbol(library, "numa_bitmask_free", &numa.bitmask_free) &&
	    load_symbol(library, "numa_bitmask_isbitset", &numa.bitmask_isbitset) &&
	    load_symbol(library, "numa_node_to_cpus", &numa.node_to_cpus) &&
	    load_symbol(library, "numa_sched_setaffinity", &numa.sched_setaffinity) &&
	    load_symbol(library, "numa_set_localalloc", &numa.set_localalloc) &&
	    load_symbol(library, "numa_node_size64", &numa.node_size64) && numa.available() < 0)
		snprintf(numa.problem, sizeof(numa.problem), "the kernel has no NUMA support");
}

static bool have_numa(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load_numa);
	return !*numa.problem;
}

/* ---- sets of CPUs */

static int cpus_alloc(struct bitmask *cpus, unsigned nr_cpus)
{
	cpus->size = nr_cpus;
	cpus->maskp = calloc(nr_cpus / WORD_BITS, sizeof(*cpus->maskp));
	return cpus->maskp ? 0 : -ENOMEM;
}

static bool cpus_has(const struct bitmask *cpus, unsigned cpu)
{
	return cpu < cpus->size && (cpus->maskp[cpu / WORD_BITS] >> cpu % WORD_BITS) & 1;
}

static void cpus_add(struct bitmask *cpus, unsigned cpu)
{
	cpus->maskp[cpu / WORD_BITS] |= 1ul << cpu % WORD_BITS;
}

/* The kernel says EINVAL to a set that is smaller than its own. */
static int get_allowed(struct io_wq_topology *topology)
{
	for (unsigned size = 1024; size <= CPUS_MAX; size *= 2) {
		if (cpus_alloc(&topology->allowed, size))
			return -ENOMEM;
		if (sched_getaffinity(0, size / 8, (cpu_set_t *)topology->allowed.maskp) == 0) {
			topology->nr_cpus = size;
			return 0;
		}
		free(topology->allowed.maskp);
		topology->allowed.maskp = NULL;
	}
	return -errno;
}

/* ---- the topology */

/* Appends a node with those allowed CPUs that are in mask too (NULL: all of
 * them); leaves it out if there are none. */
static int add_node(struct io_wq_topology *topology, int id, const struct bitmask *mask)
{
	struct node *node = &topology->nodes[topology->nr_nodes];
	bool any = false;

	if (cpus_alloc(&node->cpus, topology->nr_cpus))
		return -ENOMEM;
	node->id = id;
	for (unsigned cpu = 0; cpu < topology->nr_cpus; cpu++) {
		if (!cpus_has(&topology->allowed, cpu) ||
		    (mask && (cpu >= mask->size || !numa.bitmask_isbitset(mask, cpu))))
			continue;
		cpus_add(&node->cpus, cpu);
		topology->node_of[cpu] = (unsigned short)topology->nr_nodes;
		any = true;
	}
	if (any)
		topology->nr_nodes++;
	else
		free(node->cpus.maskp);
	return 0;
}

static int add_numa_nodes(struct io_wq_topology *topology)
{
	struct bitmask *mask = numa.allocate_cpumask();
	int ret = mask ? 0 : -ENOMEM;

	/* node numbers may have holes: node_to_cpus fails there */
	for (int id = 0; !ret && id <= numa.max_node(); id++)
		if (numa.node_to_cpus(id, mask) == 0)
			ret = add_node(topology, id, mask);
	if (mask)
		numa.bitmask_free(mask);
	return ret;
}

struct io_wq_topology *io_wq_topology_create(void)
{
	struct io_wq_topology *topology = calloc(1, sizeof(*topology));
	int ret;

	if (!topology)
		return NULL;
	ret = get_allowed(topology);
	if (!ret) {
		topology->node_of = calloc(topology->nr_cpus, sizeof(*topology->node_of));
		topology->nodes = calloc(have_numa() ? (size_t)numa.max_node() + 1 : 1,
					 sizeof(*topology->nodes));
		if (!topology->node_of || !topology->nodes)
			ret = -ENOMEM;
	}
	if (!ret && have_numa())
		ret = add_numa_nodes(topology);
	if (!ret && !topology->nr_nodes)
		ret = add_node(topology, -1, NULL);
	if (ret) {
		io_wq_topology_destroy(topology);
		errno = -ret;
		return NULL;
	}
	return topology;
}

void io_wq_topology_destroy(struct io_wq_topology *topology)
{
	for (unsigned i = 0; i < topology->nr_nodes; i++)
		free(topology->nodes[i].cpus.maskp);
	free(topology->nodes);
	free(topology->node_of);
	free(topology->allowed.maskp);
	free(topology);
}

unsigned io_wq_topology_nodes(const struct io_wq_topology *topology)
{
	return topology->nr_nodes;
}

int io_wq_topology_node_id(const struct io_wq_topology *topology, unsigned index)
{
	return topology->nodes[index].id;
}

int io_wq_topology_node_has_cpu(const struct io_wq_topology *topology, unsigned index, unsigned cpu)
{
	return cpus_has(&topology->nodes[index].cpus, cpu);
}

int64_t io_wq_topology_node_memory(const struct io_wq_topology *topology, unsigned index)
{
	int id = topology->nodes[index].id;

	return id < 0 ? -1 : numa.node_size64(id, NULL);
}

const char *io_wq_topology_problem(const struct io_wq_topology *topology)
{
	(void)topology;
	return have_numa() ? NULL : numa.problem;
}

/* Index of the node of the CPU that the caller runs on. */
unsigned io_wq_topology_current(const struct io_wq_topology *topology)
{
	int cpu;

	if (topology->nr_nodes == 1)
		return 0;
	cpu = sched_getcpu();
	return cpu >= 0 && (unsigned)cpu < topology->nr_cpus ? topology->node_of[cpu] : 0;
}

/* Binds the calling thread to the node's CPUs, and its memory to wherever it
 * runs. With one node there is nothing to bind to. A CPU that went offline, or
 * an affinity that changed, can make it fail: the thread then runs anywhere. */
void io_wq_topology_bind(const struct io_wq_topology *topology, unsigned index)
{
	struct bitmask cpus = topology->nodes[index].cpus;

	if (topology->nr_nodes == 1)
		return;
	numa.sched_setaffinity(0, &cpus);
	numa.set_localalloc();
}
