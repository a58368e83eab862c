/*
 * Cancel: pending work is taken off the queue and completed by the caller;
 * running work is flagged, and its worker signalled until the work has ended.
 *
 * The first signal is sent by whoever cancels. The repeats, which a signal that
 * came just before its system call makes necessary, are the canceller's: a
 * thread that lives while there is something to repeat, or a deadline to watch,
 * and an idle timeout longer.
 */
#define _GNU_SOURCE
#include "futex.h"
#include "internal.h"

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

/* ---- pending work */

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
	completions = &this; /* for data.room, too: the works wait for who calls it */
	io_wq_unlock_and_tell(wq);
	complete_all(wq, works, error);
	completions = this.outer;
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	io_wq_unlock_and_leave(wq);
}

/* What to cancel; match NULL: everything. */
struct selection {
	int (*match)(struct io_wq_work *work, void *data);
	void *data;
	struct io_wq_work *only; /* or just this one, if not NULL */
	bool only_first;
	enum io_wq_cancel result;
};

static bool selected(const struct selection *selection, struct io_wq_work *work)
{
	if (selection->only)
		return work == selection->only;
	if (selection->only_first && selection->result != IO_WQ_CANCEL_NOTFOUND)
		return false;
	return !selection->match || selection->match(work, selection->data);
}

static void take(struct io_wq_work *work, struct selection *selection, struct io_wq_list *works)
{
	selection->result = IO_WQ_CANCEL_OK;
	io_work_take_off(work);
	list_add_tail(&work->list, works);
}

static void take_selected(struct io_wq_list *from, struct selection *selection,
			  struct io_wq_list *works)
{
	list_for_each_safe(link, from) {
		struct io_wq_work *work = container_of(link, struct io_wq_work, list);

		if (selected(selection, work))
			take(work, selection, works);
	}
}

/* A single work knows its queue: no list is searched for it. Of many, those who
 * wait for a value go first: a runnable work that is taken off later then makes
 * no selected one runnable behind our back. Locked. */
static void take_pending(struct io_wq *wq, struct selection *selection, struct io_wq_list *works)
{
	if (selection->only) {
		if (io_work_is_pending(wq, selection->only))
			take(selection->only, selection, works);
		return;
	}
	for (size_t i = 0; i < (size_t)1 << wq->values.bits; i++)
		for (struct io_wq_value *value = wq->values.buckets[i]; value; value = value->next)
			take_selected(&value->waiting, selection, works);
	for_each_pool(pool, wq)
		take_selected(&pool->run, selection, works);
}

static void visit_list(struct io_wq_list *works, void (*visit)(struct io_wq_work *, void *),
		       void *data)
{
	list_for_each(link, works)
		visit(container_of(link, struct io_wq_work, list), data);
}

void io_wq_visit_pending(struct io_wq *wq, void (*visit)(struct io_wq_work *work, void *data),
			 void *data)
{
	if (io_wq_forked(wq))
		return;
	io_wq_lock(wq);
	for (size_t i = 0; i < (size_t)1 << wq->values.bits; i++)
		for (struct io_wq_value *value = wq->values.buckets[i]; value; value = value->next)
			visit_list(&value->waiting, visit, data);
	for_each_pool(pool, wq)
		visit_list(&pool->run, visit, data);
	io_wq_unlock(wq);
}

/* Takes all pending work off the queue, unlocks, and completes it. */
void io_wq_unlock_and_cancel_pending(struct io_wq *wq, int error)
{
	struct selection everything = { .result = IO_WQ_CANCEL_NOTFOUND };
	struct io_wq_list works;

	list_init(&works);
	take_pending(wq, &everything, &works);
	unlock_and_complete(wq, &works, error);
}

/* ---- running work */

/* What can't be done in a handler. Not locked: it waits for whoever loads a
 * library. */
static void prepare(struct io_wq *wq)
{
	if (wq->data.cancel_error)
		io_call_sites_refresh();
}

/* What the canceller found in one look around. */
struct round {
	bool any;               /* there is work to be ended */
	bool new;               /* some that wasn't in the round before */
	bool out_of_reach;      /* for some, it takes more than a signal */
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
		worker->out_of_reach |= monotonic_ns() - worker->wanted_since > OVERDUE;
		round->naps |= naps > 0 && naps < NAPS_MAX;
	}
	round->any = true;
	round->new |= new;
	round->out_of_reach |= worker->out_of_reach || io_worker_awaits_notice(worker);
	worker->wanted_lately = worker->seq;
}

static void look_at(struct io_worker *worker, struct round *round)
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
static struct round look_around(struct io_wq *wq)
{
	struct round round = { .ending = count_ending(wq) };

	for_each_worker(worker, wq)
		look_at(worker, &round);
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
		round = look_around(wq);
		if (!round.any && !round.deadline && (wq->exiting || ret == -ETIMEDOUT))
			break;
		if (round.new || round.naps)
			delay = REPEAT_MIN;
		if (round.held_back)
			delay = PACE;
		pause = pause_after(wq, &round, delay);
		io_wq_unlock(wq);
		if (round.out_of_reach && wq->data.interrupt)
			wq->data.interrupt(wq->data.ctx, wq);
		ret = futex_wait(&wq->canceller_asleep, 1, pause);
		prepare(wq);
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

/* Lets the canceller look around, once the queue is unlocked. Locked. */
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

/* Has the canceller look around at ns, if not before. Most deadlines are later than
 * one that it knows, so that it needn't be woken. Locked. */
int io_wq_watch_deadline(struct io_wq *wq, long long ns)
{
	return wq->has_canceller && wq->canceller_wakes <= ns ? 0 : call_canceller(wq);
}

static void cancel_running(struct io_worker *worker, struct round *round)
{
	io_work_flag_cancel(worker->cur_work);
	worker->cancelling = true;
	if (io_worker_is_due(worker))
		signal_in_turn(worker, round);
}

/* Locked. */
static void cancel_selected_running(struct io_wq *wq, struct selection *selection)
{
	struct round round = { .ending = count_ending(wq) };
	bool any = false;

	for_each_worker(worker, wq) {
		if (!worker->cur_work || !selected(selection, worker->cur_work))
			continue;
		cancel_running(worker, &round);
		any = true;
		if (selection->result == IO_WQ_CANCEL_NOTFOUND)
			selection->result = IO_WQ_CANCEL_RUNNING;
	}
	if (any)
		call_canceller(wq);
}

/* ---- the interface */

static enum io_wq_cancel cancel(struct io_wq *wq, struct selection *selection)
{
	struct io_wq_list works;

	if (io_wq_forked(wq))
		return IO_WQ_CANCEL_NOTFOUND;
	list_init(&works);
	prepare(wq);
	io_wq_lock(wq);
	take_pending(wq, selection, &works);
	cancel_selected_running(wq, selection);
	unlock_and_complete(wq, &works, ECANCELED);
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
