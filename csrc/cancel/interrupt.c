/*
 * When a running work is to be interrupted, and when it is left in peace.
 *
 * It is due if cancel was asked for, or its deadline has passed, and no shield is
 * up. It is interrupted in one way at a time, either by the signal, which ends
 * the system call that it is blocked in (signal.c), or by whoever claims it
 * (io_wq_claim_work), which an interpreter does to raise an exception in it. After
 * either it has the grace period for itself: its clean-up may block, and
 * compute, too.
 *
 * All of a worker's fields here are guarded by wq->lock, but for the atomics that
 * the handler, which runs on the worker's thread, and the sender share.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"

static bool is_shielded(const struct io_worker *worker)
{
	return __atomic_load_n(&worker->shields, __ATOMIC_RELAXED);
}

static bool is_past(long long deadline)
{
	return deadline && monotonic_ns() >= deadline;
}

/* Whether somebody wants the worker's work to end, shielded or not. Locked. */
bool io_worker_is_wanted(const struct io_worker *worker)
{
	return worker->cur_work && (worker->cancelling || is_past(worker->deadline));
}

static bool wants_notice(const struct io_worker *worker)
{
	return __atomic_load_n(&worker->wants_notice, __ATOMIC_RELAXED);
}

/* Whether it must have had notice before it is interrupted: once is enough, or a work that
 * goes on would never be. */
static bool is_held_by_notice(const struct io_worker *worker)
{
	return wants_notice(worker) && !__atomic_load_n(&worker->noticed, __ATOMIC_RELAXED);
}

/* Whether the worker's work is to end now. Locked. */
bool io_worker_is_due(const struct io_worker *worker)
{
	return !is_shielded(worker) && !is_held_by_notice(worker) && io_worker_is_wanted(worker);
}

/* Whether somebody must give its work notice, since it is to end. Locked. */
bool io_worker_awaits_notice(const struct io_worker *worker)
{
	return !is_shielded(worker) && wants_notice(worker) && io_worker_is_wanted(worker);
}

static void begin_grace(struct io_worker *worker, long long now)
{
	worker->grace_until = now + worker->pool->wq->data.cancel_grace_ms * NSEC_PER_MSEC;
	worker->grace_of_cancel = worker->cancelling;
}

/* Whether the work was interrupted and is left in peace for now. Locked. */
bool io_worker_is_in_grace(struct io_worker *worker)
{
	long long now = monotonic_ns();

	if (__atomic_exchange_n(&worker->interrupted_lately, false, __ATOMIC_ACQUIRE))
		begin_grace(worker, now);
	return now < worker->grace_until;
}

/* Nothing that interrupted the work counts any longer. Locked. */
static void forget_interrupts(struct io_worker *worker)
{
	worker->grace_until = 0;
	worker->grace_of_cancel = false;
	worker->needs_injection = false;
	__atomic_store_n(&worker->call_armed, false, __ATOMIC_RELAXED);
	__atomic_store_n(&worker->interrupted_lately, false, __ATOMIC_RELAXED);
	__atomic_store_n(&worker->interrupted, false, __ATOMIC_RELAXED);
	__atomic_store_n(&worker->noticed, false, __ATOMIC_RELAXED);
}

/* cur_work is about to start. Locked. */
void io_worker_begin(struct io_worker *worker)
{
	worker->cancelling = false;
	worker->announced = 0;
	worker->deadline = 0;
	__atomic_store_n(&worker->shields, !!(worker->cur_work->flags & IO_WQ_WORK_UNCANCELLABLE),
			 __ATOMIC_RELAXED);
	__atomic_store_n(&worker->wants_notice, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&worker->naps, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&worker->section, IO_WQ_SECTION_NONE, __ATOMIC_RELAXED);
	worker->section_ended = false;
	worker->signalled_at = 0;
	forget_interrupts(worker);
}

/* What runs a work on the calling thread, or NULL. */
static struct io_worker *current(void)
{
	struct io_worker *guest = io_wq_current_guest, *worker = io_wq_current_worker;

	if (guest && !io_wq_forked(guest->pool->wq))
		return guest;
	return worker && worker->cur_work && !io_wq_forked(worker->pool->wq) ? worker : NULL;
}

/* A signal that is still on its way could end a call of the work's clean-up: the
 * worker itself disarms it; others try again later. Locked. */
static bool claim(struct io_worker *worker)
{
	bool own = worker == current();

	if (!io_worker_is_due(worker) || io_worker_is_in_grace(worker) ||
	    (!own && io_worker_has_signal_on_its_way(worker)))
		return false;
	__atomic_store_n(&worker->call_armed, false, __ATOMIC_RELAXED);
	worker->needs_injection = false;
	__atomic_store_n(&worker->interrupted, true, __ATOMIC_RELAXED);
	begin_grace(worker, monotonic_ns());
	return true;
}

int io_wq_claim_work(struct io_wq *wq, struct io_wq_work *work)
{
	struct io_worker *own = current();
	bool claimed = false;

	if (io_wq_forked(wq))
		return 0;
	io_wq_lock(wq);
	if (own && own->cur_work == work) /* most are; there may be thousands of others */
		claimed = claim(own);
	else
		for_each_worker(worker, wq)
			if (worker->cur_work == work)
				claimed = claim(worker);
	io_wq_unlock(wq);
	return claimed;
}

/* ---- called by works */

int io_wq_worker_claim(void)
{
	struct io_worker *worker = current();
	bool claimed;

	if (!worker || !(worker->deadline || io_wq_work_cancelled(worker->cur_work)))
		return 0;
	io_wq_lock(worker->pool->wq);
	claimed = claim(worker);
	io_wq_unlock(worker->pool->wq);
	return claimed;
}

void io_wq_worker_shield(void)
{
	struct io_worker *worker = current();

	if (!worker)
		return;
	__atomic_add_fetch(&worker->shields, 1, __ATOMIC_SEQ_CST);
	io_worker_settle_signals_within_work(worker); /* sent before the shield was up */
}

void io_wq_worker_unshield(void)
{
	struct io_worker *worker = current();

	if (worker && is_shielded(worker))
		__atomic_sub_fetch(&worker->shields, 1, __ATOMIC_RELAXED);
}

unsigned io_wq_worker_expose(void)
{
	struct io_worker *worker = current();

	return worker ? __atomic_exchange_n(&worker->shields, 0, __ATOMIC_RELAXED) : 0;
}

void io_wq_worker_cover(unsigned shields)
{
	struct io_worker *worker = current();

	if (!worker)
		return;
	__atomic_store_n(&worker->shields, shields, __ATOMIC_SEQ_CST);
	if (shields)
		io_worker_settle_signals_within_work(worker);
}

void io_wq_worker_want_notice(int want)
{
	struct io_worker *worker = current();

	if (!worker)
		return;
	__atomic_store_n(&worker->wants_notice, want, __ATOMIC_SEQ_CST);
	if (want)
		io_worker_settle_signals_within_work(worker); /* sent before */
}

void io_wq_give_notice(struct io_wq *wq, struct io_wq_work *work, int given)
{
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	for_each_worker(worker, wq) {
		if (worker->cur_work != work || !io_worker_awaits_notice(worker))
			continue;
		__atomic_store_n(&worker->interrupted, true, __ATOMIC_RELAXED);
		if (!given)
			continue;
		__atomic_store_n(&worker->wants_notice, 0, __ATOMIC_RELAXED);
		if (!__atomic_exchange_n(&worker->noticed, true, __ATOMIC_RELAXED))
			begin_grace(worker, monotonic_ns());
	}
	io_wq_unlock(wq);
}

int io_wq_worker_shielded(void)
{
	struct io_worker *worker = current();

	return worker && is_shielded(worker);
}

int io_wq_worker_set_deadline(int64_t ns)
{
	struct io_worker *worker = current();
	struct io_wq *wq;
	bool over;
	int ret;

	if (!worker)
		return -EINVAL;
	wq = worker->pool->wq;
	io_wq_lock(wq);
	over = is_past(worker->deadline) && !is_past(ns);
	worker->deadline = ns;
	ret = ns ? io_wq_watch_deadline(wq, ns) : 0;
	io_wq_unlock(wq);
	if (!over)
		return ret;
	io_worker_settle_signals(worker);
	io_wq_lock(wq);
	if (!worker->cancelling)
		forget_interrupts(worker);
	else if (!worker->grace_of_cancel &&
		 !__atomic_load_n(&worker->interrupted_lately, __ATOMIC_RELAXED))
		worker->grace_until = 0; /* that was for the deadline alone */
	io_wq_unlock(wq);
	return ret;
}

int io_wq_set_deadline(struct io_wq *wq, struct io_wq_work *work, int64_t ns)
{
	int ret = -ESRCH;

	if (io_wq_forked(wq))
		return ret;
	io_wq_lock(wq);
	for_each_worker(worker, wq)
		if (worker->cur_work == work) {
			worker->deadline = ns;
			ret = ns ? io_wq_watch_deadline(wq, ns) : 0;
		}
	io_wq_unlock(wq);
	return ret;
}

int64_t io_wq_worker_deadline(void)
{
	struct io_worker *worker = current();

	return worker ? worker->deadline : -1;
}

int io_wq_worker_cancelled(void)
{
	struct io_worker *worker = current();

	return worker && io_wq_work_cancelled(worker->cur_work);
}

int io_wq_worker_interrupted(void)
{
	struct io_worker *worker = current();

	return worker && __atomic_load_n(&worker->interrupted, __ATOMIC_RELAXED);
}

int io_wq_worker_is_due(void)
{
	struct io_worker *worker = current();

	return worker && !is_shielded(worker) && !is_held_by_notice(worker) &&
	       (io_wq_work_cancelled(worker->cur_work) || is_past(worker->deadline));
}

enum io_wq_section io_wq_section_begin(enum io_wq_section section)
{
	struct io_worker *worker = current();

	return worker ? __atomic_exchange_n(&worker->section, section, __ATOMIC_RELAXED)
		      : IO_WQ_SECTION_NONE;
}

int io_wq_section_end(enum io_wq_section before)
{
	struct io_worker *worker = current();
	enum io_wq_section section;

	if (!worker)
		return 0;
	section = __atomic_exchange_n(&worker->section, before, __ATOMIC_RELAXED);
	return section == IO_WQ_SECTION_HIDES_ERRORS &&
	       __atomic_exchange_n(&worker->section_ended, false, __ATOMIC_RELAXED);
}
