/*
 * Fork: the child has one thread, and none of the queues' workers.
 *
 * A queue of the parent is dead in the child: its lock may be held by a thread that isn't
 * there. So every call asks io_wq_forked first. Locks that belong to no queue are taken
 * before a fork and released after it, on both sides.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/internal.h"
#include "core/watch.h"
#include "numa/numa.h"

static unsigned generation; /* written in a new child only, while it has one thread */

static void before_fork(void)
{
	io_watch_before_fork();
	io_callers_fork(true);
	io_wq_signal_fork(true);
	io_libnuma_fork(true);
}

static void after_fork(bool in_child)
{
	io_libnuma_fork(false);
	io_wq_signal_fork(false);
	io_callers_fork(false);
	io_watch_after_fork(in_child);
}

static void after_fork_in_parent(void)
{
	after_fork(false);
}

static void after_fork_in_child(void)
{
	after_fork(true);
	generation++;
}

/* When the library is loaded: a pthread_once, at the first use of what a fork could leave
 * locked, could itself be left half-done in a child (musl's is). */
__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

unsigned io_wq_fork_generation(void)
{
	return generation;
}

/* Whether this process is a fork of the one that made the queue. */
bool io_wq_forked(const struct io_wq *wq)
{
	return wq->fork_generation != generation;
}
