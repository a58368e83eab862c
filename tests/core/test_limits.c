/* How many workers a node may have, changed while the queue runs. */
#include "check.h"

static const unsigned flags_of[] = { 0, IO_WQ_WORK_UNBOUND };

static struct io_wq *queue_with_limits(unsigned bounded, unsigned unbounded)
{
	struct io_wq_data data = { .unbounded = unbounded, .idle_timeout_ms = 1000000 };
	struct io_wq *wq = io_wq_create(bounded, &data);

	CHECK(wq);
	return wq;
}

/* Sets the limit of one kind. Returns the former one. */
static unsigned set_limit(struct io_wq *wq, int kind, unsigned limit)
{
	unsigned values[2] = { 0 };

	values[kind] = limit;
	CHECK(io_wq_max_workers(wq, values) == 0);
	return values[kind];
}

static void enqueue_all(struct io_wq *wq, struct task *tasks, unsigned count, int kind)
{
	for (unsigned i = 0; i < count; i++) {
		tasks[i].work.flags = flags_of[kind];
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	}
}

static void post(sem_t *gate, int count)
{
	while (count--)
		sem_post(gate);
}

static void are_told_and_set(void)
{
	struct io_wq *wq = queue_with_limits(3, 0);
	unsigned values[2] = { 0, 0 };

	CHECK(io_wq_max_workers(wq, values) == 0 && values[0] == 3 && values[1] == IO_WQ_CONCURRENCY_MAX);
	values[0] = 5;
	values[1] = 0;
	CHECK(io_wq_max_workers(wq, values) == 0 && values[0] == 3 && values[1] == IO_WQ_CONCURRENCY_MAX);
	CHECK(set_limit(wq, 1, 7) == IO_WQ_CONCURRENCY_MAX);
	values[0] = 1;
	values[1] = IO_WQ_CONCURRENCY_MAX + 1;
	CHECK(io_wq_max_workers(wq, values) == -EINVAL);
	values[0] = IO_WQ_CONCURRENCY_MAX + 1;
	values[1] = 1;
	CHECK(io_wq_max_workers(wq, values) == -EINVAL);
	CHECK(set_limit(wq, 0, 0) == 5 && set_limit(wq, 1, 0) == 7);
	io_wq_destroy(wq);
}

static void raised_pending_work_gets_workers_at_once(void)
{
	for (int kind = 0; kind < 2; kind++) {
		struct io_wq *wq = queue_with_limits(2, 2);
		struct task *tasks;
		sem_t gate;

		sem_init(&gate, 0, 0);
		tasks = tasks_new(20, &gate, NULL);
		enqueue_all(wq, tasks, 20, kind);
		WAIT_UNTIL(queue_stats(wq).running == 2);
		set_limit(wq, 1 - kind, 12); /* means nothing to this kind */
		CHECK(queue_stats(wq).workers == 2);
		set_limit(wq, kind, 6);
		WAIT_UNTIL(queue_stats(wq).running == 6);
		CHECK(queue_stats(wq).workers == 6 && queue_stats(wq).pending == 14);
		post(&gate, 20);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		CHECK(queue_stats(wq).workers == 6);
		io_wq_destroy(wq);
		free(tasks);
	}
}

static void lowered_workers_end_after_their_work(void)
{
	for (int kind = 0; kind < 2; kind++) {
		struct io_wq *wq = queue_with_limits(6, 6);
		struct task *tasks;
		sem_t gate;

		sem_init(&gate, 0, 0);
		tasks = tasks_new(10, &gate, NULL);
		enqueue_all(wq, tasks, 6, kind);
		WAIT_UNTIL(queue_stats(wq).running == 6);
		set_limit(wq, kind, 2);
		enqueue_all(wq, tasks + 6, 4, kind);
		CHECK(queue_stats(wq).running == 6 && queue_stats(wq).pending == 4);
		post(&gate, 4);
		WAIT_UNTIL(queue_stats(wq).workers == 2);
		CHECK(queue_stats(wq).running == 2 && queue_stats(wq).pending == 4);
		post(&gate, 2); /* from here on work is started again */
		WAIT_UNTIL(queue_stats(wq).running == 2 && queue_stats(wq).pending == 2);
		post(&gate, 4);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		CHECK(queue_stats(wq).workers == 2);
		for (int i = 0; i < 10; i++)
			CHECK(tasks[i].ended == 1 && !tasks[i].cancelled);
		io_wq_destroy(wq);
		free(tasks);
	}
}

static void lowered_idle_workers_end_at_once(void)
{
	struct io_wq *wq = queue_with_limits(8, 8);
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = tasks_new(16, &gate, NULL);
	enqueue_all(wq, tasks, 8, 0);
	enqueue_all(wq, tasks + 8, 8, 1);
	WAIT_UNTIL(queue_stats(wq).running == 16);
	post(&gate, 16);
	WAIT_UNTIL(queue_stats(wq).idle == 16);
	set_limit(wq, 0, 3);
	WAIT_UNTIL(queue_stats(wq).workers == 11 && queue_stats(wq).idle == 11);
	set_limit(wq, 1, 1);
	WAIT_UNTIL(queue_stats(wq).workers == 4 && queue_stats(wq).idle == 4);
	io_wq_destroy(wq);
	free(tasks);
}

/* Whoever is called for the work may be one too many by then: another one is. */
static void work_enqueued_while_workers_end_is_run(void)
{
	struct io_wq *wq = queue_with_limits(4, 1);
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	for (int round = 0; round < 50; round++) {
		tasks = tasks_new(5, &gate, NULL);
		set_limit(wq, 0, 4);
		enqueue_all(wq, tasks, 4, 0);
		WAIT_UNTIL(queue_stats(wq).running == 4);
		post(&gate, 5);
		WAIT_UNTIL(queue_stats(wq).idle == 4);
		set_limit(wq, 0, 1);
		enqueue_all(wq, tasks + 4, 1, 0);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		WAIT_UNTIL(queue_stats(wq).workers == 1);
		free(tasks);
	}
	io_wq_destroy(wq);
}

/* ---- under load */

enum { PRODUCERS = 3, BURST = 16, HIGHEST = 6 };

static struct io_wq *stressed;
static unsigned bursts_left, inside[2];

static void counted_func(struct io_wq_work **work)
{
	struct task *task = (struct task *)*work;
	unsigned *mine = &inside[task->work.flags & IO_WQ_WORK_UNBOUND ? 1 : 0];
	struct timespec pause = { .tv_nsec = 20000 };

	CHECK(ADD(*mine, 1) <= HIGHEST);
	if (task->begun % 4 == 0) {
		io_wq_worker_sleeping();
		nanosleep(&pause, NULL);
		io_wq_worker_running();
	}
	__atomic_sub_fetch(mine, 1, __ATOMIC_SEQ_CST);
	ADD(task->ended, 1);
}

static void *produce(void *arg)
{
	struct task tasks[BURST];

	while (__atomic_fetch_sub(&bursts_left, 1, __ATOMIC_SEQ_CST) > PRODUCERS) {
		for (unsigned i = 0; i < BURST; i++) {
			task_init(&tasks[i], NULL, NULL);
			INIT_IO_WORK(&tasks[i].work, counted_func);
			tasks[i].begun = i;
			tasks[i].work.flags = flags_of[i % 3 == 0];
			CHECK(io_wq_enqueue(stressed, &tasks[i].work) == 0);
		}
		CHECK(io_wq_flush(stressed, DEADLINE * 1000) == 0);
		for (unsigned i = 0; i < BURST; i++)
			CHECK(LOAD(tasks[i].ended) == 1);
	}
	return arg;
}

static void nothing_is_lost_while_limits_change(void)
{
	pthread_t threads[PRODUCERS];
	unsigned seed = 1;

	bursts_left = 2000;
	stressed = queue_with_limits(HIGHEST, HIGHEST);
	for (int i = 0; i < PRODUCERS; i++)
		pthread_create(&threads[i], NULL, produce, NULL);
	while (LOAD(bursts_left) > PRODUCERS) {
		seed = seed * 1103515245 + 12345;
		set_limit(stressed, seed >> 16 & 1, 1 + (seed >> 20) % HIGHEST);
		usleep((seed >> 24) % 128);
	}
	for (int i = 0; i < PRODUCERS; i++)
		pthread_join(threads[i], NULL);
	CHECK(queue_stats(stressed).pending == 0 && queue_stats(stressed).running == 0);
	io_wq_destroy(stressed);
}

TEST_MAIN(TEST(are_told_and_set), TEST(raised_pending_work_gets_workers_at_once),
	  TEST(lowered_workers_end_after_their_work), TEST(lowered_idle_workers_end_at_once),
	  TEST(work_enqueued_while_workers_end_is_run), TEST(nothing_is_lost_while_limits_change))
