/*
 * The canceller: running work that is to end is signalled until it has ended.
 *
 * The first signal is sent by whoever cancels. The repeats, which a signal that
 * came just before its system call makes necessary, are the canceller's: a
 * thread that lives while there is something to repeat, or a deadline to watch,
 * and an idle timeout longer.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"

#define REPEAT_MIN (50 * NSEC_PER_USEC)
#define REPEAT_MAX (10 * NSEC_PER_MSEC)
/* After that long a signal that seems to be enough is not. */
#define OVERDUE (1000 * NSEC_PER_MSEC)
/*
 * Of thousands of works that are to end, so many at a time. All at once would be woken to
 * wait for one another (for an interpreter's lock, say), which takes time with the square of
 * their number. A work counts until it has ended, or for a moment.
 */
#define ENDING_MAX 64
#define ENDING (10 * NSEC_PER_MSEC)
#define PACE (500 * NSEC_PER_USEC)
/* So many naps of one work are cut short as fast as that can be done. */
#define NAPS_MAX 5000

/* What can't be done in a handler. Not locked: it waits for whoever loads a
 * library. */
void io_wq_prepare_to_interrupt(struct io_wq *wq)
{
	if (wq->data.cancel_error)
		io_callers_refresh();
}

/* What one scan of the workers has found. */
struct round {
	bool any;               /* there is work to be ended */
	bool new;               /* some that wasn't in the round before */
	bool needs_injection;   /* for some, a signal isn't enough */
	bool naps;              /* some nap, again and again */
	unsigned ending;        /* have been signalled lately */
	bool held_back;         /* some were not, since so many were */
	long long deadline;     /* the next work's, or 0 */
};

static bool is_ending(const struct io_worker *worker)
{
	return worker->cur_work && worker->signalled_at &&
	       monotonic_ns() - worker->signalled_at < ENDING;
}

/* Has the worker signalled, if not too many others are ending. */
static void signal_in_turn(struct io_worker *worker, struct round *round)
{
	if (!worker->signalled_at && round->ending >= ENDING_MAX) {
		round->held_back = true;
		return;
	}
	round->ending += !worker->signalled_at;
	io_worker_signal(worker);
}

static void end_wanted(struct io_worker *worker, struct round *round)
{
	bool new = worker->wanted_lately != worker->seq;

	if (new)
		worker->wanted_since = monotonic_ns();
	if (io_worker_is_due(worker)) { /* else it is shielded, for now */
		unsigned naps = __atomic_load_n(&worker->naps, __ATOMIC_RELAXED);

		signal_in_turn(worker, round);
		worker->needs_injection |= monotonic_ns() - worker->wanted_since > OVERDUE;
		round->naps |= naps > 0 && naps < NAPS_MAX;
	}
	round->any = true;
	round->new |= new;
	round->needs_injection |= worker->needs_injection || io_worker_awaits_notice(worker);
	worker->wanted_lately = worker->seq;
}

static void scan_worker(struct io_worker *worker, struct round *round)
{
	if (io_worker_is_wanted(worker)) {
		end_wanted(worker, round);
		return;
	}
	worker->wanted_lately = 0;
	if (worker->deadline && (!round->deadline || worker->deadline < round->deadline))
		round->deadline = worker->deadline;
}

static unsigned count_ending(struct io_wq *wq)
{
	unsigned count = 0;

	for_each_worker(worker, wq)
		count += is_ending(worker);
	return count;
}

/* Locked. */
static struct round scan_workers(struct io_wq *wq)
{
	struct round round = { .ending = count_ending(wq) };

	for_each_worker(worker, wq)
		scan_worker(worker, &round);
	return round;
}

/* How long the canceller may sleep. */
static long long pause_after(struct io_wq *wq, const struct round *round, long long delay)
{
	long long linger = wq->data.idle_timeout_ms * NSEC_PER_MSEC, now = monotonic_ns();
	long long pause = round->any ? delay : linger;

	if (round->deadline && round->deadline < now + pause)
		pause = round->deadline > now ? round->deadline - now : 1;
	if (wq->exiting && pause > REPEAT_MAX)
		pause = REPEAT_MAX; /* not to keep those waiting who join it */
	wq->canceller_wakes = now + pause;
	return pause;
}

static void *canceller_main(void *arg)
{
	struct io_wq *wq = arg;
	long long delay = REPEAT_MIN, pause;
	int ret = 0;

	pthread_setname_np(pthread_self(), "iowq-cancel");
	io_wq_lock(wq);
	for (;;) {
		struct round round;

		__atomic_store_n(&wq->canceller_asleep, 1, __ATOMIC_RELAXED);
		round = scan_workers(wq);
		if (!round.any && !round.deadline && (wq->exiting || ret == -ETIMEDOUT))
			break;
		if (round.new || round.naps)
			delay = REPEAT_MIN;
		if (round.held_back)
			delay = PACE;
		pause = pause_after(wq, &round, delay);
		io_wq_unlock(wq);
		if (round.needs_injection && wq->data.interrupt)
			wq->data.interrupt(wq->data.ctx, wq);
		ret = futex_wait(&wq->canceller_asleep, 1, pause);
		io_wq_prepare_to_interrupt(wq);
		io_wq_lock(wq);
		delay = ret == -ETIMEDOUT ? 2 * delay : REPEAT_MIN;
		if (delay > REPEAT_MAX)
			delay = REPEAT_MAX;
	}
	wq->has_canceller = false;
	io_wq_unlock(wq);
	io_wq_thread_exit(wq);
	return NULL;
}

/* Lets the canceller scan the workers, once the queue is unlocked. Locked. */
void io_wq_wake_canceller(struct io_wq *wq)
{
	__atomic_store_n(&wq->canceller_asleep, 0, __ATOMIC_RELAXED);
	futex_wake(&wq->canceller_asleep, 1);
}

/* Returns 0, or why there is no thread for it. Without one, cancelled work has had
 * its one signal. Locked. */
static int call_canceller(struct io_wq *wq)
{
	int ret = 0;

	if (wq->has_canceller)
		io_wq_wake_canceller(wq);
	else
		ret = io_wq_thread_create(wq, canceller_main, wq);
	wq->has_canceller = ret == 0;
	return ret;
}

/* Has the canceller scan the workers at ns, if not before. Most deadlines are later than
 * one that it knows, so that it needn't be woken. Locked. */
int io_wq_watch_deadline(struct io_wq *wq, long long ns)
{
	return wq->has_canceller && wq->canceller_wakes <= ns ? 0 : call_canceller(wq);
}

static void cancel_worker(struct io_worker *worker, struct round *round)
{
	io_work_flag_cancel(worker->cur_work);
	worker->cancelling = true;
	if (io_worker_is_due(worker))
		signal_in_turn(worker, round);
}

/* Cancels the running works that selects says yes to. Locked. */
void io_wq_cancel_running(struct io_wq *wq, bool (*selects)(struct io_wq_work *work, void *data),
			  void *data)
{
	struct round round = { .ending = count_ending(wq) };
	bool any = false;

	for_each_worker(worker, wq) {
		if (!worker->cur_work || !selects(worker->cur_work, data))
			continue;
		cancel_worker(worker, &round);
		any = true;
	}
	if (any)
		call_canceller(wq);
}
