/* Everything at once, at random: no work is lost, no waiter forgotten, whatever
 * the order of events. IOWQ_STRESS is the number of works (default 20,000). */
#include "check.h"

enum { PRODUCERS = 3, KEYS = 4, BURST = 24 };

static struct io_wq *wq;
static unsigned long budget;
static unsigned inside[KEYS];

struct item {
	struct io_wq_work work, dependent;
	unsigned kind, key;
	unsigned ended; /* funcs that have run: 1, or 2 with dependent work */
};

static void dependent_func(struct io_wq_work **work)
{
	struct item *item = (struct item *)((char *)*work - offsetof(struct item, dependent));

	ADD(item->ended, 1);
}

static void item_func(struct io_wq_work **work)
{
	struct item *item = (struct item *)*work;
	struct timespec pause = { .tv_nsec = 30000 };
	bool serial = item->key < KEYS && !item->work.error;

	CHECK(!serial || ADD(inside[item->key], 1) == 1);
	if (item->kind == 0)
		nanosleep(&pause, NULL);
	if (item->kind == 1) {
		io_wq_worker_sleeping();
		nanosleep(&pause, NULL);
		io_wq_worker_running();
	}
	CHECK(!serial || __atomic_sub_fetch(&inside[item->key], 1, __ATOMIC_SEQ_CST) == 0);
	if (item->kind == 2) {
		INIT_IO_WORK(&item->dependent, dependent_func);
		*work = &item->dependent;
	}
	ADD(item->ended, 1);
}

static unsigned next_random(unsigned *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 16;
}

static void *produce(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	struct item items[BURST];

	while (LOAD(budget) > BURST) {
		unsigned count = 1 + next_random(&seed) % BURST;

		__atomic_sub_fetch(&budget, count, __ATOMIC_SEQ_CST);
		for (unsigned i = 0; i < count; i++) {
			struct item *item = &items[i];

			INIT_IO_WORK(&item->work, item_func);
			item->kind = next_random(&seed) % 16;
			item->key = next_random(&seed) % (2 * KEYS);
			item->ended = 0;
			item->work.flags = next_random(&seed) % 4 ? 0 : IO_WQ_WORK_UNBOUND;
			if (item->key < KEYS)
				io_wq_enqueue_hashed(wq, &item->work, &inside[item->key]);
			else
				io_wq_enqueue(wq, &item->work);
		}
		if (next_random(&seed) % 4 == 0)
			io_wq_cancel_work(wq, &items[next_random(&seed) % count].work);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		for (unsigned i = 0; i < count; i++)
			CHECK(LOAD(items[i].ended) == (items[i].kind == 2 ? 2 : 1));
		if (next_random(&seed) % 32 == 0)
			usleep(2000); /* workers retire meanwhile */
	}
	return NULL;
}

static void *disturb_now_and_then(void *arg)
{
	unsigned seed = 1;

	(void)arg;
	while (LOAD(budget) > BURST) {
		unsigned limits[2] = { next_random(&seed) % 4, next_random(&seed) % 4 };

		usleep(3000);
		io_wq_cancel_all(wq);
		CHECK(io_wq_max_workers(wq, limits) == 0);
		usleep(3000);
		CHECK(io_wq_max_workers(wq, limits) == 0);
	}
	return NULL;
}

static void run_with(unsigned concurrency)
{
	struct io_wq_data data = { .idle_timeout_ms = 1, .unbounded = concurrency };
	pthread_t threads[PRODUCERS + 1];
	const char *works = getenv("IOWQ_STRESS");

	budget = works ? strtoul(works, NULL, 10) : 20000;
	wq = io_wq_create(concurrency, &data);
	for (uintptr_t i = 0; i < PRODUCERS; i++)
		pthread_create(&threads[i], NULL, produce, (void *)(i + concurrency));
	pthread_create(&threads[PRODUCERS], NULL, disturb_now_and_then, NULL);
	for (int i = 0; i <= PRODUCERS; i++)
		pthread_join(threads[i], NULL);
	CHECK(queue_stats(wq).pending == 0 && queue_stats(wq).running == 0);
	io_wq_destroy(wq);
}

static void one_worker(void)
{
	run_with(1);
}

static void few_workers(void)
{
	run_with(3);
}

static void many_workers_of_two_nodes(void)
{
	run_with(16);
}

static void queues_that_come_and_go(void)
{
	for (int i = 0; i < 200; i++) {
		struct io_wq *queue = queue_new(1 + i % 4);
		struct task tasks[10];

		for (int t = 0; t < 10; t++)
			io_wq_enqueue_hashed(queue, &task_init(&tasks[t], NULL, NULL)->work,
					     t % 3 ? queue : NULL);
		if (i % 2)
			CHECK(io_wq_flush(queue, DEADLINE * 1000) == 0);
		io_wq_destroy(queue);
		for (int t = 0; t < 10; t++)
			CHECK(tasks[t].ended == 1);
	}
}

TEST_MAIN(TEST(one_worker), TEST(few_workers), TEST(many_workers_of_two_nodes),
	  TEST(queues_that_come_and_go))
