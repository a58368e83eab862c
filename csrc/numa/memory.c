/* Memory on a node: for workers, and for what their threads have already. */
#define _GNU_SOURCE
#include "numa/topology.h"

#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	WORD_BITS = 8 * sizeof(unsigned long),
	ADOPTED_PAGES = 16, /* of a new thread's stack, at most */
};

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
