/*
 * NUMA: the nodes that the process may run on, and binding a worker to one.
 *
 * libnuma is loaded when it is first needed, so that neither its headers nor
 * the library have to be installed: without it there is one node, to which
 * nothing is bound, and io_wq_topology_problem says why. The environment's
 * IOWQ_LIBNUMA names another file to load.
 *
 * Of libnuma those functions are used that report errors by what they return: its others
 * print them.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	WORD_BITS = 8 * sizeof(unsigned long),
	CPUS_MAX = 1 << 16,
	NODES_MAX = 1 << 10,  /* the kernel's */
	NODE_UNKNOWN = 0xffff, /* more than any index, or kernel's number */
	LOCAL = 10,           /* the least */
	FAR = 255,            /* the greatest distance there is */
	ADOPTED_PAGES = 16,   /* of a new thread's stack, at most */
};

/* libnuma's own, part of its ABI */
struct bitmask {
	unsigned long size; /* bits */
	unsigned long *maskp;
};

struct libnuma {
	int (*available)(void);
	int (*max_node)(void);
	struct bitmask *(*allocate_cpumask)(void);
	void (*bitmask_free)(struct bitmask *);
	int (*bitmask_isbitset)(const struct bitmask *, unsigned);
	int (*node_to_cpus)(int node, struct bitmask *);
	long long (*node_size64)(int node, long long *free_bytes);
	int (*distance)(int from, int to);
	long (*get_mempolicy)(int *mode, unsigned long *nodes, unsigned long bits, void *, unsigned);
	long (*set_mempolicy)(int mode, const unsigned long *nodes, unsigned long bits);
	long (*mbind)(void *, unsigned long size, int mode, const unsigned long *nodes,
		      unsigned long bits, unsigned flags);
	long (*move_pages)(int pid, unsigned long count, void **, const int *nodes, int *status,
			   int flags);
	void (*node_to_cpu_update)(void); /* NULL before 2.0.12 */
	char library[256];
	char problem[160]; /* empty: all of the above can be called */
};

struct node {
	int id; /* the kernel's number, or -1: all of the machine */
	struct io_cpus cpus;
};

struct io_wq_topology {
	const struct libnuma *numa; /* NULL: there is none that serves */
	unsigned nr_cpus;
	struct io_cpus allowed;  /* the CPUs that the process may run on */
	uint16_t *node_of; /* atomic: index of each CPU's node, or the nearest; NODE_UNKNOWN */
	unsigned nr_nodes;
	struct node *nodes;
};

/* ---- libnuma */

static void note_library(struct libnuma *numa, void *symbol)
{
	Dl_info info;

	if (dladdr(symbol, &info) && info.dli_fname)
		snprintf(numa->library, sizeof(numa->library), "%s", info.dli_fname);
}

/* What is nice to have, too. */
static void load_rest(struct libnuma *numa, void *library)
{
	void *symbol = dlsym(library, "numa_node_to_cpu_update");

	memcpy(&numa->node_to_cpu_update, &symbol, sizeof(symbol));
	note_library(numa, dlsym(library, "numa_available"));
}

static bool load_symbol(struct libnuma *numa, void *library, const char *name, void *function)
{
	void *symbol = dlsym(library, name);

	if (!symbol)
		snprintf(numa->problem, sizeof(numa->problem), "libnuma has no %s", name);
	memcpy(function, &symbol, sizeof(symbol)); /* ISO C has no cast for this */
	return symbol;
}

static bool load_symbols(struct libnuma *numa, void *library)
{
	return load_symbol(numa, library, "numa_available", &numa->available) &&
	       load_symbol(numa, library, "numa_max_node", &numa->max_node) &&
	       load_symbol(numa, library, "numa_allocate_cpumask", &numa->allocate_cpumask) &&
	       load_symbol(numa, library, "numa_bitmask_free", &numa->bitmask_free) &&
	       load_symbol(numa, library, "numa_bitmask_isbitset", &numa->bitmask_isbitset) &&
	       load_symbol(numa, library, "numa_node_to_cpus", &numa->node_to_cpus) &&
	       load_symbol(numa, library, "numa_node_size64", &numa->node_size64) &&
	       load_symbol(numa, library, "numa_distance", &numa->distance) &&
	       load_symbol(numa, library, "get_mempolicy", &numa->get_mempolicy) &&
	       load_symbol(numa, library, "set_mempolicy", &numa->set_mempolicy) &&
	       load_symbol(numa, library, "mbind", &numa->mbind) &&
	       load_symbol(numa, library, "move_pages", &numa->move_pages);
}

static void load_numa(struct libnuma *numa)
{
	const char *name = getenv("IOWQ_LIBNUMA");
	void *library = dlopen(name && *name ? name : "libnuma.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		snprintf(numa->problem, sizeof(numa->problem), "%s", dlerror());
	else if (load_symbols(numa, library) && numa->available() < 0)
		snprintf(numa->problem, sizeof(numa->problem),
			 "the kernel has no NUMA support, or doesn't let this process use it");
	if (!*numa->problem)
		load_rest(numa, library);
}

/* Guards the loading of libnuma, and what it keeps of its last answer. */
static pthread_mutex_t numa_lock = PTHREAD_MUTEX_INITIALIZER;

/* A fork by another thread waits: in the child the lock would stay locked, and a library
 * that is half loaded stay so. (Nor can it be a pthread_once, for the same reason.) */
void io_wq_topology_fork(bool before)
{
	if (before)
		pthread_mutex_lock(&numa_lock);
	else
		pthread_mutex_unlock(&numa_lock);
}

/* libnuma, loaded at the first call. */
static const struct libnuma *get_numa(void)
{
	static struct libnuma numa;
	static bool loaded;

	pthread_mutex_lock(&numa_lock);
	if (!loaded)
		load_numa(&numa);
	loaded = true;
	pthread_mutex_unlock(&numa_lock);
	return &numa;
}

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
	struct node *node = &topology->nodes[topology->nr_nodes];
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

/* The node's CPUs that are online now: libnuma says what was online when it was first
 * asked, but for one call after each update. Fails for a number that no node has. */
static int ask_for_cpus(const struct libnuma *numa, int id, struct bitmask *mask)
{
	int ret;

	pthread_mutex_lock(&numa_lock);
	if (numa->node_to_cpu_update)
		numa->node_to_cpu_update();
	ret = numa->node_to_cpus(id, mask);
	pthread_mutex_unlock(&numa_lock);
	return ret;
}

static int add_numa_nodes(struct io_wq_topology *topology)
{
	const struct libnuma *numa = topology->numa;
	struct bitmask *mask = numa->allocate_cpumask();
	int ret = mask ? 0 : -ENOMEM;

	for (int id = 0; !ret && id <= numa->max_node() && id < NODES_MAX; id++)
		if (ask_for_cpus(numa, id, mask) == 0)
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
	const struct libnuma *numa = get_numa();
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
	return topology->numa ? NULL : get_numa()->problem;
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

/* ---- memory */

/* Memory on the node, if it has some, whoever touches it first. For long-lived, large
 * pieces: each is a mapping of its own, which no huge page shares with its neighbours. */
void *io_wq_topology_alloc(const struct io_wq_topology *topology, unsigned index, size_t size)
{
	unsigned long nodes[NODES_MAX / WORD_BITS] = { 0 };
	unsigned id = (unsigned)topology->nodes[index].id;
	void *memory;

	if (topology->nr_nodes == 1)
		return malloc(size);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	nodes[id / WORD_BITS] |= 1ul << id % WORD_BITS;
	topology->numa->mbind(memory, size, MPOL_PREFERRED, nodes, NODES_MAX, 0);
	return memory;
}

void io_wq_topology_free(const struct io_wq_topology *topology, void *memory, size_t size)
{
	if (topology->nr_nodes == 1)
		free(memory);
	else
		munmap(memory, size);
}

/* The calling thread's stack as far as it is in use, with the thread's own variables:
 * its creator has touched it, maybe on another node. */
static void move_stack(const struct libnuma *numa, int id)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), size;
	void *pages[ADOPTED_PAGES], *lowest;
	int nodes[ADOPTED_PAGES], status[ADOPTED_PAGES];
	unsigned count = 0;
	pthread_attr_t attr;

	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (!pthread_attr_getstack(&attr, &lowest, &size))
		for (char *p = (char *)((uintptr_t)&attr & -page);
		     p < (char *)lowest + size && count < ADOPTED_PAGES; p += page) {
			nodes[count] = id;
			pages[count++] = p;
		}
	pthread_attr_destroy(&attr);
	if (count)
		numa->move_pages(0, count, pages, nodes, status, MPOL_MF_MOVE);
}

/* A worker's thread takes its memory from where it runs, unless the process is bound to
 * other memory (numactl --membind), and has what it has on its node. */
void io_wq_topology_adopt_thread(const struct io_wq_topology *topology, unsigned index)
{
	const struct libnuma *numa = topology->numa;
	int mode;

	if (topology->nr_nodes == 1 || numa->get_mempolicy(&mode, NULL, 0, NULL, 0) ||
	    (mode & ~MPOL_MODE_FLAGS) == MPOL_BIND)
		return;
	numa->set_mempolicy(MPOL_LOCAL, NULL, 0);
	move_stack(numa, topology->nodes[index].id);
}
