/*
 * libnuma, loaded when it is first needed, so that neither its headers nor the library have
 * to be installed. The environment's IOWQ_LIBNUMA names another file to load.
 */
#define _GNU_SOURCE
#include "numa/libnuma.h"
#include "numa/numa.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	const char *name = secure_getenv("IOWQ_LIBNUMA");
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
void io_libnuma_fork(bool before)
{
	if (before)
		pthread_mutex_lock(&numa_lock);
	else
		pthread_mutex_unlock(&numa_lock);
}

/* libnuma, loaded at the first call. */
const struct libnuma *io_libnuma_get(void)
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

/* The node's CPUs that are online now: libnuma says what was online when it was first
 * asked, but for one call after each update. Fails for a number that no node has. */
int io_libnuma_node_to_cpus(const struct libnuma *numa, int id, struct bitmask *mask)
{
	int ret;

	pthread_mutex_lock(&numa_lock);
	if (numa->node_to_cpu_update)
		numa->node_to_cpu_update();
	ret = numa->node_to_cpus(id, mask);
	pthread_mutex_unlock(&numa_lock);
	return ret;
}
