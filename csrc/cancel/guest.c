/*
 * Guests: threads that are no workers, and are lent a worker's part.
 *
 * All that cancel knows of a worker is in struct io_worker: which thread it is, what is to be ended
 * on it, and until when. A guest has one for as long as it wants to be interrupted. It is in none of
 * the pools that works run in, but in one that the canceller looks at, too; and its thread knows
 * it by a name of its own, so that a worker can be a guest meanwhile and stay what it is.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct io_worker *new_guest(struct io_wq *wq, struct io_wq_work *work)
{
	struct io_worker *guest = calloc(1, sizeof(*guest));

	if (!guest)
		return NULL;
	guest->pool = io_wq_guests(wq);
	guest->state = IO_WORKER_BLOCKED;
	guest->call_fd = -1;
	guest->seq = 1;
	guest->tid = (pid_t)syscall(SYS_gettid);
	guest->cur_work = work;
	list_init(&guest->list);
	return guest;
}

/* Locked. Returns 0, or why it can't be one. */
static int join(struct io_wq *wq, struct io_worker *guest)
{
	if (wq->refusing)
		return -ESHUTDOWN;
	io_worker_begin(guest);
	list_add_tail(&guest->all, &io_wq_guests(wq)->workers);
	wq->users++;
	return 0;
}

/* The calling thread is it no more, and nobody signals it. */
static void forget(struct io_worker *guest)
{
	int signal = guest->pool->wq->signal;

	io_worker_settle_signals_within_work(guest);
	io_wq_current_guest = NULL;
	if (guest->was_deaf)
		io_wq_signal_accept(signal, false);
	free(guest);
}

int io_wq_guest_begin(struct io_wq *wq, struct io_wq_work *work)
{
	struct io_worker *former = io_wq_current_guest, *guest;
	int ret;

	if (io_wq_forked(wq))
		return -ESHUTDOWN;
	if (former && !io_wq_forked(former->pool->wq))
		return -EBUSY;
	guest = new_guest(wq, work);
	if (!guest)
		return -ENOMEM;
	__atomic_store_n(&work->wq, wq, __ATOMIC_RELAXED);
	guest->was_deaf = !io_wq_signal_accept(wq->signal, true);
	io_wq_current_guest = guest;
	io_wq_lock(wq);
	ret = join(wq, guest);
	io_wq_unlock(wq);
	if (ret)
		forget(guest);
	return ret;
}

/* Locked. */
static struct io_worker *find(struct io_wq *wq, const struct io_wq_work *work)
{
	struct io_worker *own = io_wq_current_guest;

	if (own && own->cur_work == work)
		return own;
	list_for_each(link, &io_wq_guests(wq)->workers) {
		struct io_worker *guest = container_of(link, struct io_worker, all);

		if (guest->cur_work == work)
			return guest;
	}
	return NULL;
}

/* Takes the guest off, so that nobody signals it any more. Returns it, or NULL. */
static struct io_worker *leave(struct io_wq *wq, struct io_wq_work *work)
{
	struct io_worker *guest;

	io_wq_lock(wq);
	guest = find(wq, work);
	if (guest) {
		list_del(&guest->all);
		io_worker_close_call(guest);
	}
	io_wq_unlock(wq);
	return guest;
}

void io_wq_guest_end(struct io_wq *wq, struct io_wq_work *work)
{
	struct io_worker *guest;
	bool is_own;

	if (io_wq_forked(wq))
		return;
	guest = leave(wq, work);
	if (!guest)
		return;
	is_own = guest == io_wq_current_guest;
	if (is_own)
		forget(guest);
	io_wq_lock(wq);
	if (!is_own) /* a signal may be on its way to its thread, which knows it still */
		list_add(&guest->all, &io_wq_guests(wq)->spares);
	io_wq_unlock_and_leave(wq);
}

void io_wq_free_guests(struct io_wq *wq)
{
	list_for_each_safe(link, &io_wq_guests(wq)->spares)
		free(container_of(link, struct io_worker, all));
}
