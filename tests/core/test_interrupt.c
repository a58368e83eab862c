/* When running work is interrupted: deadlines, shields, claims, what no signal ends. */
#include "check.h"
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>

/* A work that reads from a pipe that stays empty, in the way that a test wants. */
struct sleeper {
	struct io_wq_work work;
	int fds[2];
	int64_t deadline;
	unsigned shielded_ms; /* how long it is shielded first */
	unsigned begun, ended;
	int error, late_error;
	long long interrupted_at;
};

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The errno of a read that is to end by an interruption alone. */
static int blocked_read(struct sleeper *sleeper)
{
	char byte;

	return read(sleeper->fds[0], &byte, 1) < 0 ? errno : 0;
}

static void sleeper_func(struct io_wq_work **work)
{
	struct sleeper *sleeper = (struct sleeper *)*work;
	const struct timespec pause = { .tv_nsec = sleeper->shielded_ms * 1000000L };

	if (sleeper->deadline)
		CHECK(io_wq_worker_set_deadline(now_ns() + sleeper->deadline) == 0);
	if (sleeper->shielded_ms)
		io_wq_worker_shield();
	ADD(sleeper->begun, 1);
	if (sleeper->shielded_ms) {
		CHECK(io_wq_worker_shielded());
		CHECK(nanosleep(&pause, NULL) == 0);
		io_wq_worker_unshield();
	}
	sleeper->error = blocked_read(sleeper);
	sleeper->interrupted_at = now_ns();
	io_wq_worker_set_deadline(0);
	sleeper->late_error = nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL) ? errno : 0;
	ADD(sleeper->ended, 1);
}

static struct sleeper *sleeper_init(struct sleeper *sleeper)
{
	memset(sleeper, 0, sizeof(*sleeper));
	CHECK(pipe(sleeper->fds) == 0);
	INIT_IO_WORK(&sleeper->work, sleeper_func);
	return sleeper;
}

static void sleeper_end(struct sleeper *sleeper)
{
	close(sleeper->fds[0]);
	close(sleeper->fds[1]);
}

static void a_deadline_interrupts(void)
{
	struct io_wq *wq = queue_new(4);
	struct sleeper sleepers[4];
	long long begun = now_ns();

	for (int i = 0; i < 4; i++) {
		sleeper_init(&sleepers[i])->deadline = (4 - i) * 20000000LL;
		io_wq_enqueue(wq, &sleepers[i].work);
	}
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	for (int i = 0; i < 4; i++) {
		CHECK(sleepers[i].error == EINTR);
		CHECK(sleepers[i].interrupted_at - begun >= sleepers[i].deadline);
		CHECK(!io_wq_work_cancelled(&sleepers[i].work));
		sleeper_end(&sleepers[i]);
	}
	io_wq_destroy(wq);
}

/* A deadline that is over leaves nothing behind, nor does one that was in time. */
static void in_time_func(struct io_wq_work **work)
{
	struct sleeper *sleeper = (struct sleeper *)*work;

	for (int i = 0; i < 300; i++) {
		const struct timespec pause = { .tv_nsec = 100000 };

		CHECK(io_wq_worker_set_deadline(now_ns() + 100000 + i * 100) == 0);
		sleeper->error |= nanosleep(&pause, NULL) && errno != EINTR;
		CHECK(io_wq_worker_set_deadline(0) == 0 && io_wq_worker_deadline() == 0);
		sleeper->late_error |= nanosleep(&pause, NULL) != 0;
	}
}

static void nothing_of_a_deadline_comes_late(void)
{
	struct io_wq *wq = queue_new(1);
	struct sleeper sleeper;

	sleeper_init(&sleeper)->work.func = in_time_func;
	io_wq_enqueue(wq, &sleeper.work);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(sleeper.error == 0 && sleeper.late_error == 0);
	sleeper_end(&sleeper);
	io_wq_destroy(wq);
}

static void deadlines_are_for_works(void)
{
	CHECK(io_wq_worker_set_deadline(1) == -EINVAL && io_wq_worker_deadline() == -1);
	CHECK(!io_wq_worker_cancelled() && !io_wq_worker_shielded());
	io_wq_worker_shield();
	io_wq_worker_unshield();
	CHECK(!io_wq_worker_shielded() && !io_wq_worker_is_due());
}

static void a_shield_holds_the_signal_back(void)
{
	struct io_wq *wq = queue_new(1);
	struct sleeper sleeper;

	sleeper_init(&sleeper)->shielded_ms = 50; /* its sleep fails if it is interrupted */
	io_wq_enqueue(wq, &sleeper.work);
	WAIT_UNTIL(LOAD(sleeper.begun));
	CHECK(io_wq_cancel_work(wq, &sleeper.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(sleeper.error == EINTR);
	sleeper_end(&sleeper);
	io_wq_destroy(wq);
}

static void uncancellable_work_is_not_interrupted(void)
{
	struct io_wq *wq = queue_new(1);
	struct sleeper sleeper;

	sleeper_init(&sleeper)->work.flags = IO_WQ_WORK_UNCANCELLABLE;
	io_wq_enqueue(wq, &sleeper.work);
	WAIT_UNTIL(LOAD(sleeper.begun));
	CHECK(io_wq_cancel_work(wq, &sleeper.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, 50) == -ETIMEDOUT);
	CHECK(write(sleeper.fds[1], "x", 1) == 1);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(sleeper.error == 0 && sleeper.late_error == 0);
	sleeper_end(&sleeper);
	io_wq_destroy(wq);
}

/* ---- claims, and work that the signal can't reach */

static unsigned interrupts;
static struct io_wq_work *needs_injection;

static void find_out_of_reach(const struct io_wq_worker_info *info, void *data)
{
	(void)data;
	if (info->needs_injection)
		__atomic_store_n(&needs_injection, info->work, __ATOMIC_SEQ_CST);
}

static void count_interrupt(void *ctx, struct io_wq *wq)
{
	(void)ctx;
	io_wq_visit_workers(wq, find_out_of_reach, NULL);
	ADD(interrupts, 1);
}

static unsigned let_go;

static void computing_func(struct io_wq_work **work)
{
	ADD(((struct sleeper *)*work)->begun, 1);
	while (!LOAD(let_go))
		;
}

static void what_computes_is_out_of_reach(void)
{
	struct io_wq_data data = { .cancel_error = ECANCELED,
				   .cancel_grace_ms = 1500,
				   .interrupt = count_interrupt };
	struct io_wq *wq = io_wq_create(1, &data);
	struct sleeper sleeper;
	unsigned before;

	CHECK(wq);
	sleeper_init(&sleeper)->work.func = computing_func;
	io_wq_enqueue(wq, &sleeper.work);
	WAIT_UNTIL(LOAD(sleeper.begun));
	CHECK(!io_wq_claim_work(wq, &sleeper.work)); /* nobody wants it to end */
	io_wq_cancel_work(wq, &sleeper.work);
	WAIT_UNTIL(LOAD(interrupts) > 3);
	CHECK(LOAD(needs_injection) == &sleeper.work);
	WAIT_UNTIL(io_wq_claim_work(wq, &sleeper.work)); /* not while a signal is on its way */
	CHECK(!io_wq_claim_work(wq, &sleeper.work)); /* it has its grace */
	before = LOAD(interrupts);
	usleep(50000);
	CHECK(LOAD(interrupts) <= before + 1);
	WAIT_UNTIL(LOAD(interrupts) > before + 1); /* which ends */
	WAIT_UNTIL(io_wq_claim_work(wq, &sleeper.work));
	ADD(let_go, 1);
	io_wq_destroy(wq);
	sleeper_end(&sleeper);
}

/* ---- sections */

/* Tries again on EINTR, as much code does. */
static void hiding_func(struct io_wq_work **work)
{
	struct sleeper *sleeper = (struct sleeper *)*work;
	enum io_wq_section before = io_wq_section_begin(IO_WQ_SECTION_HIDES_ERRORS), inner;

	ADD(sleeper->begun, 1);
	do
		sleeper->error = blocked_read(sleeper);
	while (sleeper->error == EINTR);
	inner = io_wq_section_begin(IO_WQ_SECTION_WAIT);
	CHECK(!io_wq_section_end(inner));
	sleeper->late_error = io_wq_section_end(before) ? 0 : EINVAL;
	CHECK(!io_wq_section_end(before));
}

static void polling_func(struct io_wq_work **work)
{
	struct sleeper *sleeper = (struct sleeper *)*work;
	enum io_wq_section before = io_wq_section_begin(IO_WQ_SECTION_HIDES_ERRORS);
	struct pollfd readable = { .fd = sleeper->fds[0], .events = POLLIN };
	int ready;

	ADD(sleeper->begun, 1);
	do
		ready = poll(&readable, 1, DEADLINE * 1000);
	while (ready < 0 && errno == EINTR);
	sleeper->error = ready;
	sleeper->late_error = io_wq_section_end(before) ? 0 : EINVAL;
}

static void cancel_sleeper(struct sleeper *sleeper, void (*func)(struct io_wq_work **))
{
	struct io_wq_data data = { .cancel_error = ECANCELED };
	struct io_wq *wq = io_wq_create(1, &data);

	CHECK(wq);
	sleeper_init(sleeper)->work.func = func;
	io_wq_enqueue(wq, &sleeper->work);
	WAIT_UNTIL(LOAD(sleeper->begun));
	io_wq_cancel_work(wq, &sleeper->work);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	sleeper_end(sleeper);
	io_wq_destroy(wq);
}

/* Whoever made the call: this program isn't trusted. */
static void calls_that_hide_errors_are_ended_and_told(void)
{
	struct sleeper sleeper;

	cancel_sleeper(&sleeper, hiding_func);
	CHECK(sleeper.error == ECANCELED && sleeper.late_error == 0);
	cancel_sleeper(&sleeper, polling_func);
	CHECK(sleeper.error == 0 && sleeper.late_error == 0);
	CHECK(!io_wq_section_end(io_wq_section_begin(IO_WQ_SECTION_HIDES_ERRORS))); /* no work */
}

/* A lock that nobody gives back. It never seems to be taken. */
static void waiting_func(struct io_wq_work **work)
{
	struct sleeper *sleeper = (struct sleeper *)*work;
	enum io_wq_section before = io_wq_section_begin(IO_WQ_SECTION_WAIT);
	struct timespec end;
	sem_t lock;

	sem_init(&lock, 0, 0);
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += DEADLINE;
	ADD(sleeper->begun, 1);
	do
		sleeper->error = sem_timedwait(&lock, &end) ? errno : 0;
	while (sleeper->error == EINTR);
	sleeper->late_error = io_wq_section_end(before);
	CHECK(io_wq_worker_is_due());
	CHECK(!io_wq_worker_interrupted() && io_wq_worker_claim() && !io_wq_worker_claim());
}

static void a_declared_wait_times_out(void)
{
	struct sleeper sleeper;
	long long begun = now_ns();

	cancel_sleeper(&sleeper, waiting_func);
	CHECK(sleeper.error == ETIMEDOUT && sleeper.late_error == 0);
	CHECK(now_ns() - begun < DEADLINE * 500000000LL && !io_wq_worker_is_due());
}

static void reading_func(struct io_wq_work **work)
{
	struct sleeper *sleeper = (struct sleeper *)*work;

	ADD(sleeper->begun, 1);
	sleeper->error = blocked_read(sleeper);
}

static void an_address_makes_its_object_trusted(void)
{
	struct sleeper sleeper;

	cancel_sleeper(&sleeper, reading_func);
	CHECK(sleeper.error == EINTR);
	CHECK(io_wq_trust_object((const void *)blocked_read) == 0);
	CHECK(io_wq_trust_object((const void *)blocked_read) == 0); /* once is enough */
	cancel_sleeper(&sleeper, reading_func);
	CHECK(sleeper.error == ECANCELED);
	CHECK(io_wq_judge_caller("test", IO_WQ_CALLER_UNKNOWN) == 0);
	cancel_sleeper(&sleeper, reading_func);
	CHECK(sleeper.error == EINTR);
}

/* ---- visits */

struct seen {
	unsigned workers, running, pending;
	int tid;
};

static void see_worker(const struct io_wq_worker_info *info, void *data)
{
	struct seen *seen = data;

	seen->workers++;
	seen->running += info->work != NULL;
	seen->tid = info->tid;
}

static void see_pending(struct io_wq_work *work, void *data)
{
	(void)work;
	((struct seen *)data)->pending++;
}

static void visitors_see_all(void)
{
	struct io_wq *wq = queue_new(1);
	struct task *tasks = tasks_new(100, NULL, NULL);
	struct io_wq_blocked_call call;
	struct seen seen = { 0 };
	struct sleeper sleeper;

	io_wq_enqueue(wq, &sleeper_init(&sleeper)->work);
	WAIT_UNTIL(LOAD(sleeper.begun));
	for (int i = 0; i < 100; i++)
		io_wq_enqueue_hashed(wq, &tasks[i].work, (void *)(uintptr_t)(i % 7));
	io_wq_visit_workers(wq, see_worker, &seen);
	io_wq_visit_pending(wq, see_pending, &seen);
	CHECK(seen.workers == 1 && seen.running == 1 && seen.pending == 100);
	WAIT_UNTIL(io_wq_get_blocked_call(seen.tid, &call) == 1);
	CHECK(call.name && !strcmp(call.name, "read"));
	CHECK(call.has_descriptor && (int)call.args[0] == sleeper.fds[0]);
	CHECK(io_wq_get_blocked_call(1 << 30, &call) < 0);
	CHECK(write(sleeper.fds[1], "x", 1) == 1);
	io_wq_destroy(wq);
	free(tasks);
	sleeper_end(&sleeper);
}

/* Runs a work, and cancels it once it has counted begun up. */
static void cancel_running(struct io_wq *wq, struct io_wq_work *work,
			   void (*func)(struct io_wq_work **), unsigned *begun)
{
	INIT_IO_WORK(work, func);
	CHECK(io_wq_enqueue(wq, work) == 0);
	WAIT_UNTIL(LOAD(*begun));
	CHECK(io_wq_cancel_work(wq, work) == IO_WQ_CANCEL_RUNNING);
}

static unsigned shielding, shielded_calls_ended;

static void shielding_func(struct io_wq_work **work)
{
	const struct timespec moment = { .tv_nsec = 20000 };
	long long end = check_now_ms() + 1000;

	(void)work;
	ADD(shielding, 1);
	while (check_now_ms() < end) {
		io_wq_worker_shield();
		shielded_calls_ended += nanosleep(&moment, NULL) != 0;
		io_wq_worker_unshield();
		for (volatile unsigned i = 0; i < 20000; i++)
			;
	}
}

/* A signal that was sent just before the shield was put up comes before, too. */
static void nothing_comes_through_a_shield(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	cancel_running(wq, &work, shielding_func, &shielding);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(shielded_calls_ended == 0);
	io_wq_destroy(wq);
}

static unsigned exposed, exposed_calls_ended, covered_calls_ended;

static void exposing_func(struct io_wq_work **work)
{
	const struct timespec moment = { .tv_nsec = 20000 };
	long long end = check_now_ms() + 1000;

	(void)work;
	ADD(exposed, 1);
	while (check_now_ms() < end) {
		unsigned shields = io_wq_worker_expose();

		CHECK(shields == 1 && !io_wq_worker_shielded());
		exposed_calls_ended += nanosleep(&moment, NULL) != 0;
		for (volatile unsigned i = 0; i < 20000; i++)
			;
		io_wq_worker_cover(shields);
		CHECK(io_wq_worker_shielded());
		covered_calls_ended += nanosleep(&moment, NULL) != 0;
	}
}

static void only_what_is_exposed_is_interrupted(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	INIT_IO_WORK(&work, exposing_func);
	work.flags = IO_WQ_WORK_UNCANCELLABLE;
	CHECK(io_wq_enqueue(wq, &work) == 0);
	WAIT_UNTIL(LOAD(exposed));
	CHECK(io_wq_cancel_work(wq, &work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(exposed_calls_ended > 0 && covered_calls_ended == 0);
	io_wq_destroy(wq);
}

static struct io_wq *wq_of_blocking;
static unsigned blocks_signal, may_shield, is_blocked_after;

static void signal_blocking_func(struct io_wq_work **work)
{
	sigset_t set;

	(void)work;
	sigemptyset(&set);
	sigaddset(&set, io_wq_cancel_signal(wq_of_blocking));
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	ADD(blocks_signal, 1);
	WAIT_UNTIL(LOAD(may_shield));
	io_wq_worker_shield();
	io_wq_worker_unshield();
	pthread_sigmask(SIG_BLOCK, NULL, &set);
	is_blocked_after = (unsigned)sigismember(&set, io_wq_cancel_signal(wq_of_blocking));
}

/* Though the shield waits for a signal that is on its way. */
static void a_shield_leaves_the_works_own_mask_alone(void)
{
	struct io_wq_work work;

	wq_of_blocking = queue_new(1);
	cancel_running(wq_of_blocking, &work, signal_blocking_func, &blocks_signal);
	ADD(may_shield, 1);
	CHECK(io_wq_flush(wq_of_blocking, DEADLINE * 1000) == 0);
	CHECK(is_blocked_after == 1);
	io_wq_destroy(wq_of_blocking);
}

enum { CALLS = 20, LATER_CALLS = 10 };
static long long called_at[CALLS]; /* now_ns() */
static unsigned nr_called;

static void note_time(void *ctx, struct io_wq *wq)
{
	(void)ctx, (void)wq;
	if (nr_called < CALLS)
		called_at[nr_called] = now_ns();
	ADD(nr_called, 1);
}

static void endless_func(struct io_wq_work **work)
{
	(void)work;
	ADD(shielding, 1);
	while (LOAD(nr_called) < CALLS)
		;
}

/* It asks again and again, at first after 50 us, but at growing intervals. */
static void what_no_signal_ends_is_asked_ever_more_rarely(void)
{
	struct io_wq_data data = { .cancel_error = ECANCELED, .interrupt = note_time };
	struct io_wq *wq = io_wq_create(1, &data);
	struct io_wq_work work;

	cancel_running(wq, &work, endless_func, &shielding);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	for (unsigned i = LATER_CALLS + 1; i < CALLS; i++)
		CHECK(called_at[i] - called_at[i - 1] >= 9000000);
	io_wq_destroy(wq);
}

static unsigned may_end;

static void long_shielded_func(struct io_wq_work **work)
{
	(void)work;
	io_wq_worker_shield();
	ADD(shielding, 1);
	WAIT_UNTIL(LOAD(may_end));
	io_wq_worker_unshield();
}

static void overdue_func(struct io_wq_work **work)
{
	(void)work;
	__atomic_store_n(&nr_called, 0, __ATOMIC_SEQ_CST);
	CHECK(io_wq_worker_set_deadline(now_ns() + 25000000) == 0);
	while (LOAD(nr_called) < 3)
		;
	io_wq_worker_set_deadline(0);
}

/* Else each time limit would be kept 10 ms late, while another work is shielded. */
static void what_is_new_is_asked_often_among_what_is_old(void)
{
	struct io_wq_data data = { .cancel_error = ECANCELED, .interrupt = note_time };
	struct io_wq *wq = io_wq_create(2, &data);
	struct io_wq_work shielded, overdue;
	bool was_quick = false;

	cancel_running(wq, &shielded, long_shielded_func, &shielding);
	usleep(50000); /* by now it is looked at every 10 ms */
	for (int i = 0; i < 100 && !was_quick; i++) { /* the machine may be busy */
		INIT_IO_WORK(&overdue, overdue_func);
		CHECK(io_wq_enqueue(wq, &overdue) == 0);
		WAIT_UNTIL(queue_stats(wq).finished == (unsigned)i + 1);
		was_quick = called_at[2] - called_at[0] < 9000000;
	}
	CHECK(was_quick);
	ADD(may_end, 1);
	io_wq_destroy(wq);
}

static void support_is_told(void)
{
	CHECK(io_wq_cancel_support() & IO_WQ_CAN_SEE_CALLS);
	CHECK(io_wq_cancel_support() & IO_WQ_CAN_END_CALLS);
	CHECK(io_wq_cancel_support() & IO_WQ_CAN_FIND_CALLERS);
}

TEST_MAIN(TEST(a_deadline_interrupts), TEST(nothing_of_a_deadline_comes_late),
	  TEST(deadlines_are_for_works), TEST(a_shield_holds_the_signal_back),
	  TEST(uncancellable_work_is_not_interrupted), TEST(what_computes_is_out_of_reach),
	  TEST(calls_that_hide_errors_are_ended_and_told), TEST(a_declared_wait_times_out),
	  TEST(an_address_makes_its_object_trusted),
	  TEST(a_shield_leaves_the_works_own_mask_alone),
	  TEST(what_is_new_is_asked_often_among_what_is_old),
	  TEST(nothing_comes_through_a_shield), TEST(only_what_is_exposed_is_interrupted),
	  TEST(what_no_signal_ends_is_asked_ever_more_rarely), TEST(visitors_see_all), TEST(support_is_told))
