/* A libnuma for a machine with two nodes, CPU 0 on one and all others on the
 * second, so that what is particular to several nodes runs on any machine. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

struct bitmask {
	unsigned long size;
	unsigned long *maskp;
};

int numa_available(void) { return 0; }
int numa_max_node(void) { return 3; } /* 1 and 2 don't exist */

struct bitmask *numa_allocate_cpumask(void)
{
	struct bitmask *mask = calloc(1, sizeof(*mask));

	mask->size = 64;
	mask->maskp = calloc(1, sizeof(*mask->maskp));
	return mask;
}

void numa_bitmask_free(struct bitmask *mask)
{
	free(mask->maskp);
	free(mask);
}

int numa_bitmask_isbitset(const struct bitmask *mask, unsigned bit)
{
	return mask->maskp[0] >> bit & 1;
}

/* As of the real one, what it says is old, but for one call after each update. */
static _Thread_local int updated;

void numa_node_to_cpu_update(void) { updated = 1; }

int numa_node_to_cpus(int node, struct bitmask *mask)
{
	if (node == 1 || node == 2)
		return -1;
	mask->maskp[0] = !updated ? 0 : node == 0 ? 1ul : ~1ul;
	updated = 0;
	return 0;
}

/* The last node came later: the real one never learns its distances. */
int numa_distance(int from, int to) { return from == 3 || to == 3 ? 0 : from == to ? 10 : 20; }
long get_mempolicy(int *mode) { return *mode = 0; }
long set_mempolicy(int mode) { return mode * 0; }
long mbind(void *memory) { return (long)memory * 0; }
long move_pages(int pid) { return pid * 0; }

long long numa_node_size64(int node, long long *free_bytes)
{
	(void)free_bytes;
	return (node + 1) * 1024ll;
}

/* Beside that: a library that makes system calls, for test_callers.c. */
int read_elsewhere(int fd, void *byte)
{
	int result = (int)read(fd, byte, 1);

	return result;
}
