/* What is used of libnuma: functions that report errors by what they return. (Its others
 * print them.) */
#ifndef IO_WQ_LIBNUMA_H
#define IO_WQ_LIBNUMA_H

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

const struct libnuma *io_libnuma_get(void);
int io_libnuma_node_to_cpus(const struct libnuma *numa, int id, struct bitmask *mask);

#endif
