/*
 * The Works and workers of a queue at one instant.
 *
 * They are read under the queue's lock, where the interpreter may be asked for
 * nothing: any allocation of it can run a collection, and that any code. So
 * references are taken into plain memory first. The queue's own reference to a work is given
 * back after the work has left the queue, which takes the lock, so they are valid.
 */
#include "snapshot.h"
#include "work.h"

#include <stdlib.h>

static void add(struct iowq_snapshot *snapshot, struct io_wq_work *work,
		const struct io_wq_worker_info *info)
{
	struct iowq_snapshot_entry *entry;

	if (snapshot->count == snapshot->capacity) {
		size_t capacity = snapshot->capacity ? 2 * snapshot->capacity : 64;

		entry = realloc(snapshot->entries, capacity * sizeof(*entry));
		if (!entry) {
			snapshot->no_memory = 1;
			return;
		}
		snapshot->entries = entry;
		snapshot->capacity = capacity;
	}
	entry = &snapshot->entries[snapshot->count++];
	entry->object = work ? (PyObject *)iowq_work_of(work) : NULL;
	Py_XINCREF(entry->object);
	entry->info = info ? *info : (struct io_wq_worker_info){ 0 };
}

static void visit_worker(const struct io_wq_worker_info *info, void *data)
{
	add(data, info->work, info);
}

static void visit_pending(struct io_wq_work *work, void *data)
{
	add(data, work, NULL);
}

static void visit_needing_injection(const struct io_wq_worker_info *info, void *data)
{
	if (info->needs_injection)
		add(data, info->work, info);
}

void iowq_take_needing_injection(struct io_wq *wq, struct iowq_snapshot *snapshot)
{
	*snapshot = (struct iowq_snapshot){ 0 };
	io_wq_visit_workers(wq, visit_needing_injection, snapshot);
}

void iowq_free_snapshot(struct iowq_snapshot *snapshot)
{
	for (size_t i = 0; i < snapshot->count; i++)
		Py_XDECREF(snapshot->entries[i].object);
	free(snapshot->entries);
}

/* Returns (thread, work or None, cancelled, shielded) of an entry. */
static PyObject *as_tuple(const struct iowq_snapshot_entry *entry)
{
	return Py_BuildValue("(iOii)", entry->info.tid, entry->object ? entry->object : Py_None,
			     entry->info.cancelled, entry->info.shielded);
}

static int append_all(struct iowq_snapshot *snapshot, PyObject *list)
{
	int failed = snapshot->no_memory;

	for (size_t i = 0; i < snapshot->count && !failed; i++) {
		PyObject *item = as_tuple(&snapshot->entries[i]);

		failed = !item || PyList_Append(list, item);
		Py_XDECREF(item);
	}
	iowq_free_snapshot(snapshot);
	PyErr_Clear();
	return failed ? -1 : 0;
}

int iowq_get_workers(struct io_wq *wq, uintptr_t list)
{
	struct iowq_snapshot snapshot = { 0 };

	io_wq_visit_workers(wq, visit_worker, &snapshot);
	return append_all(&snapshot, (PyObject *)list);
}

int iowq_get_pending(struct io_wq *wq, uintptr_t list)
{
	struct iowq_snapshot snapshot = { 0 };

	io_wq_visit_pending(wq, visit_pending, &snapshot);
	return append_all(&snapshot, (PyObject *)list);
}
