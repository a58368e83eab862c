/*
 * Cancel: pending work is taken off the queue and completed by the caller; running work is
 * flagged, and ended by canceller.c.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/internal.h"

#include <errno.h>

/* The queues whose cancelled work this thread completes: a work's func may cancel
 * work of another queue, and so on. */
struct completion {
	const struct io_wq *wq;
	const struct completion *outer;
};
static _Thread_local const struct completion *completions;

/* Whether the caller is a work of this queue: it would wait for itself. */
bool io_wq_inside(const struct io_wq *wq)
{
	const struct io_worker *worker = io_wq_current_worker;

	for (const struct completion *inner = completions; inner; inner = inner->outer)
		if (inner->wq == wq)
			return true;
	return worker && worker->pool->wq == wq;
}

/* Whether the caller completes cancelled work, which is not the work of its worker. */
bool io_wq_completing(void)
{
	return completions;
}

/* ---- completing */

static void complete(struct io_wq *wq, struct io_wq_work *work, int error)
{
	while (work) {
		struct io_wq_work *next;

		io_work_flag_cancel(work);
		work->error = error;
		next = io_work_call(work);
		io_work_free(wq, work);
		work = next;
	}
}

static void complete_all(struct io_wq *wq, struct io_wq_list *works, int error)
{
	while (!list_empty(works)) {
		struct io_wq_work *work = container_of(works->next, struct io_wq_work, list);
		uint64_t seq = work->seq;

		list_del(&work->list);
		complete(wq, work, error);
		if (io_wq_forked(wq))
			break; /* the work forked, and this is the child */
		io_wq_lock(wq);
		io_wq_finished(wq, seq);
		io_wq_unlock(wq);
	}
}

/* Unlocks, and completes works that were taken off the queue, and what depends on
 * them. The works may put the queue: then the last to leave it frees it. */
static void unlock_and_complete(struct io_wq *wq, struct io_wq_list *works, int error)
{
	const struct completion this = { .wq = wq, .outer = completions };

	wq->users++;
	completions = &this; /* for data.admit, too: the works wait for who calls it */
	io_wq_unlock_and_tell(wq);
	complete_all(wq, works, error);
	completions = this.outer;
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	io_wq_unlock_and_leave(wq);
}

/* ---- what to cancel */

struct selection {
	int (*match)(struct io_wq_work *work, void *data); /* NULL: everything */
	void *data;
	struct io_wq_work *only; /* or just this one, if not NULL */
	bool only_first;
	enum io_wq_cancel result;
	struct io_wq_list taken; /* works that were pending */
};

static bool selected(const struct selection *selection, struct io_wq_work *work)
{
	if (selection->only)
		return work == selection->only;
	if (selection->only_first && selection->result != IO_WQ_CANCEL_NOTFOUND)
		return false;
	return !selection->match || selection->match(work, selection->data);
}

static void select_pending(struct io_wq_work *work, void *selection_)
{
	struct selection *selection = selection_;

	if (!selected(selection, work))
		return;
	selection->result = IO_WQ_CANCEL_OK;
	io_work_take_off(work);
	list_add_tail(&work->list, &selection->taken);
}

static bool select_running(struct io_wq_work *work, void *selection_)
{
	struct selection *selection = selection_;

	if (!selected(selection, work))
		return false;
	if (selection->result == IO_WQ_CANCEL_NOTFOUND)
		selection->result = IO_WQ_CANCEL_RUNNING;
	return true;
}

static void visit_list(struct io_wq_list *works, void (*visit)(struct io_wq_work *, void *),
		       void *data)
{
	list_for_each_safe(link, works)
		visit(container_of(link, struct io_wq_work, list), data);
}

/* The visitor may take the work off the queue. Those who wait for a key come first: a runnable
 * work that is taken off later then makes none runnable behind our back. Locked. */
static void visit_pending(struct io_wq *wq, void (*visit)(struct io_wq_work *, void *), void *data)
{
	for (size_t i = 0; i < (size_t)1 << wq->keys.bits; i++)
		for (struct io_wq_key *key = wq->keys.buckets[i]; key; key = key->next)
			visit_list(&key->waiting, visit, data);
	for_each_pool(pool, wq)
		visit_list(&pool->run, visit, data);
}

/* A single work knows its queue: no list is searched for it. Locked. */
static void take_pending(struct io_wq *wq, struct selection *selection)
{
	list_init(&selection->taken);
	if (!selection->only)
		visit_pending(wq, select_pending, selection);
	else if (io_work_is_pending(wq, selection->only))
		select_pending(selection->only, selection);
}

/* Takes all pending work off the queue, unlocks, and completes it. */
void io_wq_unlock_and_cancel_pending(struct io_wq *wq, int error)
{
	struct selection everything = { .result = IO_WQ_CANCEL_NOTFOUND };

	take_pending(wq, &everything);
	unlock_and_complete(wq, &everything.taken, error);
}

/* ---- the interface */

void io_wq_visit_pending(struct io_wq *wq, void (*visit)(struct io_wq_work *work, void *data),
			 void *data)
{
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	visit_pending(wq, visit, data);
	io_wq_unlock(wq);
}

static enum io_wq_cancel cancel(struct io_wq *wq, struct selection *selection)
{
	if (io_wq_forked(wq))
		return IO_WQ_CANCEL_NOTFOUND;
	io_wq_prepare_to_interrupt(wq);
	io_wq_lock(wq);
	take_pending(wq, selection);
	io_wq_cancel_running(wq, select_running, selection);
	unlock_and_complete(wq, &selection->taken, ECANCELED);
	return selection->result;
}

void io_wq_cancel_all(struct io_wq *wq)
{
	struct selection everything = { .result = IO_WQ_CANCEL_NOTFOUND };

	cancel(wq, &everything);
}

void io_wq_cancel_pending(struct io_wq *wq)
{
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	io_wq_unlock_and_cancel_pending(wq, ECANCELED);
}

enum io_wq_cancel io_wq_cancel_cb(struct io_wq *wq, int (*match)(struct io_wq_work *, void *data),
				  void *data, int cancel_all)
{
	struct selection selection = {
		.match = match,
		.data = data,
		.only_first = !cancel_all,
		.result = IO_WQ_CANCEL_NOTFOUND,
	};

	return cancel(wq, &selection);
}

enum io_wq_cancel io_wq_cancel_work(struct io_wq *wq, struct io_wq_work *cwork)
{
	struct selection this = { .only = cwork, .result = IO_WQ_CANCEL_NOTFOUND };

	return cancel(wq, &this);
}
