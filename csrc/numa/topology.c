/*
 * The topology: the nodes that the process may run on, their CPUs, and how far they are from
 * each other. Without libnuma there is one node, to which nothing is bound, and
 * io_wq_topology_problem says why.
 */
#define _GNU_SOURCE
#include "numa/topology.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	WORD_BITS = 8 * sizeof(unsigned long),
	CPUS_MAX = 1 << 16,
	NODE_UNKNOWN = 0xffff, /* more than any index, or kernel's number */
	LOCAL = 10,           /* the least */
	FAR = 255,            /* the greatest distance there is */
};

/* ---- sets of CPUs */

static int cpus_alloc(struct io_cpus *cpus, unsigned nr_cpus)
{
	cpus->size = nr_cpus;
	cpus->words = calloc(nr_cpus / WORD_BITS, sizeof(*cpus->words));
	return cpus->words ? 0 : -ENOMEM;
}

static void cpus_add(struct io_cpus *cpus, unsigned cpu)
{
	cpus->words[cpu / WORD_BITS] |= 1ul << cpu % WORD_BITS;
}

/* The kernel says EINVAL to a set that is smaller than its own. */
static int get_allowed(struct io_wq_topology *topology)
{
	for (unsigned size = 1024; size <= CPUS_MAX; size *= 2) {
		if (cpus_alloc(&topology->allowed, size))
			return -ENOMEM;
		if (sched_getaffinity(0, size / 8, (cpu_set_t *)topology->allowed.words) == 0) {
			topology->nr_cpus = size;
			return 0;
		}
		free(topology->allowed.words);
		topology->allowed.words = NULL;
	}
	return -errno;
}

/* ---- the topology */

/* libnuma says 0 if it doesn't know: a node that came later isn't near to itself, either. */
static int distance(const struct io_wq_topology *topology, int from, int to)
{
	int known = from == to ? LOCAL : topology->numa->distance(from, to);

	return known > 0 ? known : FAR;
}

/* Index of the node of this number, or the nearest that the process may run on. */
static uint16_t nearest(const struct io_wq_topology *topology, int id)
{
	unsigned best = 0;

	for (unsigned i = 1; i < topology->nr_nodes; i++)
		if (distance(topology, id, topology->nodes[i].id) <
		    distance(topology, id, topology->nodes[best].id))
			best = i;
	return (uint16_t)best;
}

/* Appends a node with those allowed CPUs that are in mask too (NULL: all of
 * them); leaves it out if there are none. Notes its number for all that are in mask. */
static int add_node(struct io_wq_topology *topology, int id, const struct bitmask *mask)
{
	struct io_node *node = &topology->nodes[topology->nr_nodes];
	bool any = false;

	if (cpus_alloc(&node->cpus, topology->nr_cpus))
		return -ENOMEM;
	node->id = id;
	for (unsigned cpu = 0; cpu < topology->nr_cpus; cpu++) {
		if (mask && (cpu >= mask->size || !topology->numa->bitmask_isbitset(mask, cpu)))
			continue;
		topology->node_of[cpu] = (uint16_t)(id < 0 ? 0 : id);
		if (!io_cpus_has(&topology->allowed, cpu))
			continue;
		cpus_add(&node->cpus, cpu);
		any = true;
	}
	if (any)
		topology->nr_nodes++;
	else
		free(node->cpus.words);
	return 0;
}

static int add_numa_nodes(struct io_wq_topology *topology)
{
	const struct libnuma *numa = topology->numa;
	struct bitmask *mask = numa->allocate_cpumask();
	int ret = mask ? 0 : -ENOMEM;

	for (int id = 0; !ret && id <= numa->max_node() && id < NODES_MAX; id++)
		if (io_libnuma_node_to_cpus(numa, id, mask) == 0)
			ret = add_node(topology, id, mask);
	if (mask)
		numa->bitmask_free(mask);
	for (unsigned cpu = 0; cpu < topology->nr_cpus; cpu++)
		if (topology->node_of[cpu] != NODE_UNKNOWN)
			topology->node_of[cpu] = nearest(topology, topology->node_of[cpu]);
	return ret;
}

static int describe(struct io_wq_topology *topology)
{
	const struct libnuma *numa = topology->numa;
	int ret = get_allowed(topology);

	if (ret)
		return ret;
	topology->node_of = malloc(topology->nr_cpus * sizeof(*topology->node_of));
	topology->nodes = calloc(numa ? (size_t)numa->max_node() + 1 : 1, sizeof(*topology->nodes));
	if (!topology->node_of || !topology->nodes)
		return -ENOMEM;
	memset(topology->node_of, NODE_UNKNOWN & 0xff,
	       topology->nr_cpus * sizeof(*topology->node_of));
	if (numa)
		ret = add_numa_nodes(topology);
	if (!ret && !topology->nr_nodes)
		ret = add_node(topology, -1, NULL);
	return ret;
}

struct io_wq_topology *io_wq_topology_create(void)
{
	struct io_wq_topology *topology = calloc(1, sizeof(*topology));
	const struct libnuma *numa = io_libnuma_get();
	int ret;

	if (!topology)
		return NULL;
	topology->numa = *numa->problem ? NULL : numa;
	ret = describe(topology);
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
		free(topology->nodes[i].cpus.words);
	free(topology->nodes);
	free(topology->node_of);
	free(topology->allowed.words);
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

unsigned io_wq_topology_nr_cpus(const struct io_wq_topology *topology)
{
	return topology->nr_cpus;
}

int io_wq_topology_node_has_cpu(const struct io_wq_topology *topology, unsigned index, unsigned cpu)
{
	return io_cpus_has(&topology->nodes[index].cpus, cpu);
}

int64_t io_wq_topology_node_memory(const struct io_wq_topology *topology, unsigned index)
{
	int id = topology->nodes[index].id;

	return id < 0 ? -1 : topology->numa->node_size64(id, NULL);
}

int io_wq_topology_distance(const struct io_wq_topology *topology, unsigned from, unsigned to)
{
	return distance(topology, topology->nodes[from].id, topology->nodes[to].id);
}

const char *io_wq_topology_problem(const struct io_wq_topology *topology)
{
	return topology->numa ? NULL : io_libnuma_get()->problem;
}

const char *io_wq_topology_library(const struct io_wq_topology *topology)
{
	return topology->numa ? topology->numa->library : NULL;
}

const struct io_cpus *io_wq_topology_cpus(const struct io_wq_topology *topology, unsigned index)
{
	return &topology->nodes[index].cpus;
}

/* Index of the node that has this number, or -EINVAL. */
int io_wq_topology_find(const struct io_wq_topology *topology, int id)
{
	for (unsigned i = 0; i < topology->nr_nodes; i++)
		if (topology->nodes[i].id == id)
			return (int)i;
	return -EINVAL;
}

/* ---- where the caller is */

/* The caller's CPU was offline when the topology was made: the kernel knows its node. (By
 * now it may be another CPU: then that one's node is noted.) */
static unsigned learn_node(struct io_wq_topology *topology)
{
	unsigned cpu = 0, id = 0;
	uint16_t index;

	syscall(SYS_getcpu, &cpu, &id, NULL);
	index = nearest(topology, (int)id);
	if (cpu < topology->nr_cpus)
		__atomic_store_n(&topology->node_of[cpu], index, __ATOMIC_RELAXED);
	return index;
}

/* Index of the node of the CPU that the caller runs on, or the nearest. */
unsigned io_wq_topology_current(struct io_wq_topology *topology)
{
	unsigned index;
	int cpu;

	if (topology->nr_nodes == 1)
		return 0;
	cpu = sched_getcpu();
	if (cpu < 0 || (unsigned)cpu >= topology->nr_cpus)
		return 0;
	index = __atomic_load_n(&topology->node_of[cpu], __ATOMIC_RELAXED);
	return index == NODE_UNKNOWN ? learn_node(topology) : index;
}
