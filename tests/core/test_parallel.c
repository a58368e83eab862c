/* Queues whose works run on all processors at once. */
#include "check.h"

static int processors(void)
{
	cpu_set_t set;

	CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
	return CPU_COUNT(&set);
}

static struct io_wq *parallel_queue(unsigned concurrency)
{
	struct io_wq_data data = { .parallel = 1 };
	struct io_wq *wq = io_wq_create(concurrency, &data);

	CHECK(wq);
	return wq;
}

static unsigned begun, released;

static void meet_func(struct io_wq_work **work)
{
	(void)work;
	ADD(begun, 1);
	while (LOAD(begun) < 2)
		sched_yield();
}

/* Each computes until the other has begun. */
static void two_run_at_once(void)
{
	struct io_wq_work works[2];
	struct io_wq *wq = parallel_queue(2);

	for (int i = 0; i < 2; i++) {
		INIT_IO_WORK(&works[i], meet_func);
		CHECK(io_wq_enqueue(wq, &works[i]) == 0);
	}
	io_wq_flush(wq, -1);
	io_wq_destroy(wq);
}

static void await_release_func(struct io_wq_work **work)
{
	(void)work;
	while (!LOAD(released))
		sched_yield();
}

static void release_func(struct io_wq_work **work)
{
	(void)work;
	ADD(released, 1);
}

/* All processors compute until a work has run that is behind those which do. */
static void who_computes_at_length_holds_up_no_others(void)
{
	unsigned count = (unsigned)processors() + 1;
	struct io_wq_work *works = calloc(count + 1, sizeof(*works));
	struct io_wq *wq = parallel_queue(count + 1);

	for (unsigned i = 0; i <= count; i++) {
		INIT_IO_WORK(&works[i], i < count ? await_release_func : release_func);
		CHECK(io_wq_enqueue(wq, &works[i]) == 0);
	}
	io_wq_flush(wq, -1);
	io_wq_destroy(wq);
	free(works);
}

/* As any other queue's. */
static void works_that_block_get_more_workers(void)
{
	enum { COUNT = 16 };
	struct io_wq *wq = parallel_queue(COUNT);
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = tasks_new(COUNT, &gate, NULL);
	for (int i = 0; i < COUNT; i++)
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	WAIT_UNTIL(queue_stats(wq).running == COUNT);
	for (int i = 0; i < COUNT; i++)
		sem_post(&gate);
	io_wq_destroy(wq);
	free(tasks);
}

static unsigned turns;

static void count_turn(void *ctx)
{
	(void)ctx;
	ADD(turns, 1);
}

static void compute_shortly_func(struct io_wq_work **work)
{
	(void)work;
	compute(300);
}

/* How often a worker had to be called, for so many works. */
static unsigned turns_for(unsigned count)
{
	struct io_wq_data data = { .parallel = 1, .worker_busy = count_turn };
	struct io_wq *wq = io_wq_create(2, &data);
	struct io_wq_work *works = calloc(count, sizeof(*works));
	unsigned before = LOAD(turns);

	CHECK(wq);
	for (unsigned i = 0; i < count; i++) {
		INIT_IO_WORK(&works[i], compute_shortly_func);
		CHECK(io_wq_enqueue(wq, &works[i]) == 0);
	}
	io_wq_flush(wq, -1);
	io_wq_destroy(wq);
	free(works);
	return LOAD(turns) - before;
}

/* Else one of the two would fall idle after each work. */
static void who_runs_beside_others_takes_more(void)
{
	enum { COUNT = 400, FEW = COUNT / 20 };
	unsigned least = ~0u;

	for (int tries = 0; tries < 50 && least > FEW && processors() > 1; tries++) {
		unsigned turns_now = turns_for(COUNT);

		if (turns_now < least)
			least = turns_now;
	}
	CHECK(least <= FEW || processors() == 1);
}

TEST_MAIN(TEST(two_run_at_once), TEST(who_computes_at_length_holds_up_no_others), TEST(works_that_block_get_more_workers),
	  TEST(who_runs_beside_others_takes_more))
