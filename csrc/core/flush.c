/*
 * Flush: all work enqueued before has finished.
 *
 * Works are numbered as they are enqueued. A flush notes the last number and
 * how many works were unfinished; each work that finishes counts down those
 * flushes that are not older than it. So a flush is exact, any number of them
 * run at once, and a work costs nothing more while there is none.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"

/* A work has finished. Locked. */
void io_wq_finished(struct io_wq *wq, uint64_t seq)
{
	if (--wq->unfinished == 0 && wq->refusing)
		io_wq_let_threads_end(wq);
	list_for_each(node, &wq->flushers) {
		struct io_wq_flush *flush = container_of(node, struct io_wq_flush, list);

		if (seq <= flush->seq &&
		    __atomic_sub_fetch(&flush->remaining, 1, __ATOMIC_RELEASE) == 0)
			futex_wake(&flush->remaining, INT_MAX);
	}
}

int io_wq_flush_start(struct io_wq *wq, struct io_wq_flush *flush)
{
	flush->wq = NULL; /* nothing to wait for, nothing to end */
	flush->remaining = 0;
	if (io_wq_forked(wq))
		return 0;
	if (io_wq_inside(wq))
		return -EDEADLK;
	flush->wq = wq;
	io_wq_lock(wq);
	flush->seq = wq->seq;
	flush->remaining = wq->unfinished;
	list_add_tail(&flush->list, &wq->flushers);
	wq->users++;
	io_wq_unlock(wq);
	return 0;
}

static int wait_until(struct io_wq_flush *flush, long long deadline)
{
	if (!flush->wq || io_wq_forked(flush->wq))
		return 0; /* the work stayed in the parent */
	if (deadline && flush->wq->may_spin)
		spin_until_zero(&flush->wq->flush_spin, &flush->remaining);
	return futex_wait_zero(&flush->remaining, deadline);
}

int io_wq_flush_wait(struct io_wq_flush *flush, int timeout_ms)
{
	return wait_until(flush, deadline_after_ms(timeout_ms));
}

void io_wq_flush_end(struct io_wq_flush *flush)
{
	if (!flush->wq || io_wq_forked(flush->wq))
		return;
	io_wq_lock(flush->wq);
	list_del(&flush->list);
	io_wq_unlock_and_leave(flush->wq);
	flush->wq = NULL;
}

/* io_wq_flush until monotonic_ns() is deadline, or WAIT_FOREVER. */
int io_wq_flush_until(struct io_wq *wq, long long deadline)
{
	struct io_wq_flush flush;
	int ret = io_wq_flush_start(wq, &flush);

	if (!ret) {
		ret = wait_until(&flush, deadline);
		io_wq_flush_end(&flush);
	}
	return ret;
}

int io_wq_flush(struct io_wq *wq, int timeout_ms)
{
	return io_wq_flush_until(wq, deadline_after_ms(timeout_ms));
}
