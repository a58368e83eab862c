/* io_wq_get_stats: every work is counted once, by how it ended. */
#include "check.h"

static void outcome_func(struct io_wq_work **work)
{
	struct task *task = (struct task *)*work;

	if (task->counter) /* says which */
		io_wq_worker_set_outcome(*task->counter);
	ADD(task->ended, 1);
}

static void outcomes_are_counted(void)
{
	unsigned outcomes[] = { IO_WQ_FINISHED, IO_WQ_FAILED, IO_WQ_CANCELLED };
	struct io_wq *wq = queue_new(2);
	struct task *tasks = tasks_new(70, NULL, NULL);
	struct io_wq_stats stats;

	for (unsigned i = 0; i < 70; i++) {
		/* one that says nothing comes after each of those that do */
		tasks[i].counter = i % 7 < 6 && i % 2 ? &outcomes[i % 7 / 2] : NULL;
		tasks[i].work.func = outcome_func;
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	}
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	stats = queue_stats(wq);
	CHECK(stats.enqueued == 70 && stats.started == 70);
	CHECK(stats.finished == 60 && stats.failed == 10 && stats.cancelled == 10);
	CHECK(stats.pending == 0 && stats.running == 0 && stats.longest >= 1);
	io_wq_worker_set_outcome(IO_WQ_FAILED); /* not a work */
	io_wq_destroy(wq);
	free(tasks);
}

static void cancelled_before_they_started(void)
{
	struct io_wq *wq = queue_new(1);
	struct task *tasks = tasks_new(20, NULL, NULL);
	struct task first;
	struct io_wq_stats stats;
	sem_t gate;

	sem_init(&gate, 0, 0);
	CHECK(io_wq_enqueue(wq, &task_init(&first, &gate, NULL)->work) == 0);
	WAIT_UNTIL(LOAD(first.begun));
	for (unsigned i = 0; i < 20; i++)
		CHECK(io_wq_enqueue_hashed(wq, &tasks[i].work, (void *)(uintptr_t)(i % 2)) == 0);
	stats = queue_stats(wq);
	CHECK(stats.started == 1 && stats.running == 1 && stats.pending == 20);
	io_wq_cancel_pending(wq);
	stats = queue_stats(wq);
	CHECK(stats.cancelled == 20 && stats.longest == 20);
	sem_post(&gate);
	io_wq_destroy(wq);
	free(tasks);
}

/* Enqueued is what is pending, runs, has finished or was cancelled: whenever one looks. */
static void counts_add_up(void)
{
	enum { COUNT = 20000 };
	struct io_wq_data data = { .idle_timeout_ms = 1 };
	struct io_wq *wq = io_wq_create(3, &data);
	struct task *tasks = tasks_new(COUNT, NULL, NULL);
	struct io_wq_stats stats;
	uint64_t timed = 0;

	CHECK(wq);
	for (unsigned i = 0; i < COUNT; i++) {
		tasks[i].work.flags = i % 3 ? 0 : IO_WQ_WORK_UNBOUND;
		CHECK(io_wq_enqueue_hashed(wq, &tasks[i].work, (void *)(uintptr_t)(i % 5)) == 0);
		if (i % 11 == 0)
			io_wq_cancel_work(wq, &tasks[i / 2].work);
		stats = queue_stats(wq);
		CHECK(stats.enqueued == i + 1);
		CHECK(stats.enqueued == stats.pending + stats.running + stats.finished + stats.cancelled);
		CHECK(stats.created == stats.workers + stats.retired);
	}
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	stats = queue_stats(wq);
	CHECK(stats.finished + stats.cancelled == COUNT && stats.started == stats.finished);
	for (unsigned i = 0; i < IO_WQ_WAITS; i++)
		timed += stats.waits[i];
	CHECK(timed <= COUNT / 32 + 8 && timed + stats.cancelled >= COUNT / 32 - 8);
	io_wq_destroy(wq);
	free(tasks);
}

/* One work in 32 is timed. If it was each thirty-second, then of bursts of 32 always the
 * one that waits for none. */
static void works_are_timed_wherever_they_are_in_a_burst(void)
{
	enum { COUNT = 32 * 320 };
	struct io_wq *wq = queue_new(1);
	struct task *tasks = tasks_new(COUNT, NULL, NULL);
	unsigned timed[32] = { 0 };

	for (unsigned i = 0; i < COUNT; i++)
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	for (unsigned i = 0; i < COUNT; i++)
		timed[i % 32] += tasks[i].work.enqueued_ns != 0;
	for (unsigned i = 0; i < 32; i++)
		CHECK(timed[i] >= 5 && timed[i] <= 20);
	io_wq_destroy(wq);
	free(tasks);
}

static struct io_wq *wq_of_both;
static struct io_wq_work pending_work;

static void cancelled_func(struct io_wq_work **work)
{
	CHECK((*work)->error == ECANCELED);
	io_wq_worker_set_outcome(IO_WQ_CANCELLED);
}

static void cancelling_func(struct io_wq_work **work)
{
	(void)work;
	WAIT_UNTIL(queue_stats(wq_of_both).pending == 1);
	CHECK(io_wq_cancel_work(wq_of_both, &pending_work) == IO_WQ_CANCEL_OK);
}

/* What a cancelled work says is not said of the one that cancels it. */
static void outcomes_are_not_mixed_up(void)
{
	struct io_wq_work canceller;
	struct io_wq_stats stats;

	wq_of_both = queue_new(1);
	INIT_IO_WORK(&canceller, cancelling_func);
	INIT_IO_WORK(&pending_work, cancelled_func);
	CHECK(io_wq_enqueue(wq_of_both, &canceller) == 0);
	CHECK(io_wq_enqueue(wq_of_both, &pending_work) == 0);
	CHECK(io_wq_flush(wq_of_both, DEADLINE * 1000) == 0);
	stats = queue_stats(wq_of_both);
	CHECK(stats.finished == 1 && stats.cancelled == 1);
	io_wq_destroy(wq_of_both);
}

TEST_MAIN(TEST(outcomes_are_counted), TEST(cancelled_before_they_started), TEST(counts_add_up),
	  TEST(works_are_timed_wherever_they_are_in_a_burst), TEST(outcomes_are_not_mixed_up))
