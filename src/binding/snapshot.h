/* See snapshot.c. All functions hold the GIL. */
#ifndef IOWQ_SNAPSHOT_H
#define IOWQ_SNAPSHOT_H

#include <Python.h>

#include "io_wq.h"

struct iowq_snapshot_entry {
	PyObject *object; /* a Work; NULL: a worker without one */
	struct io_wq_worker_info info;
};

struct iowq_snapshot {
	struct iowq_snapshot_entry *entries;
	size_t count, capacity;
	int no_memory;
};

void iowq_take_needing_injection(struct io_wq *wq, struct iowq_snapshot *snapshot);
void iowq_free_snapshot(struct iowq_snapshot *snapshot);

#endif
