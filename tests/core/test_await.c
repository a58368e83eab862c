/* Works that wait for other works of their queue: no limit keeps the awaited ones from running. */
#include "check.h"

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static unsigned no_threads;

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*func)(void *),
			  void *arg)
{
	return LOAD(no_threads) ? EAGAIN : __real_pthread_create(thread, attr, func, arg);
}

/* A work that enqueues another one, waits for it, and says what io_wq_worker_await said. */
struct outer {
	struct io_wq_work work;
	struct io_wq *wq;
	void *key;          /* of the inner work, or NULL */
	unsigned depth;     /* so many works are nested in it */
	int answer;
	bool keeps_it_open; /* it doesn't call io_wq_worker_await_end */
	sem_t ended;
};

static struct outer *left_over; /* by a work that must not wait; freed by the test */

static void outer_func(struct io_wq_work **work);

static struct outer *outer_init(struct outer *outer, struct io_wq *wq, unsigned depth)
{
	memset(outer, 0, sizeof(*outer));
	INIT_IO_WORK(&outer->work, outer_func);
	sem_init(&outer->ended, 0, 0);
	outer->wq = wq;
	outer->depth = depth;
	return outer;
}

static void await_inner(struct outer *outer, struct outer *inner)
{
	outer->answer = io_wq_worker_await(outer->wq, &inner->work);
	if (outer->answer >= 0)
		while (sem_wait(&inner->ended))
			;
	if (outer->answer > 0 && !outer->keeps_it_open)
		io_wq_worker_await_end();
}

static void outer_func(struct io_wq_work **work)
{
	struct outer *outer = (struct outer *)*work, *inner;

	if (outer->depth) {
		inner = calloc(1, sizeof(*inner));
		CHECK(inner);
		outer_init(inner, outer->wq, outer->depth - 1);
		inner->keeps_it_open = outer->keeps_it_open;
		if (outer->key)
			CHECK(io_wq_enqueue_hashed(outer->wq, &inner->work, outer->key) == 0);
		else
			CHECK(io_wq_enqueue(outer->wq, &inner->work) == 0);
		await_inner(outer, inner);
		if (outer->answer >= 0)
			free(inner);
		else
			left_over = inner; /* it runs after this work */
	}
	sem_post(&outer->ended);
}

static void works_wait_on_all_workers(void)
{
	struct io_wq *wq = queue_new(2);
	struct outer outer[8];

	for (int i = 0; i < 8; i++)
		CHECK(io_wq_enqueue(wq, &outer_init(&outer[i], wq, 3)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
}

static void nesting_may_be_deep(void)
{
	struct io_wq *wq = queue_new(1);
	struct outer outer;

	CHECK(io_wq_enqueue(wq, &outer_init(&outer, wq, 100)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(outer.answer == 1);
	io_wq_destroy(wq);
}

/* Afterwards there are no more at a time than the limit says. */
static void the_limit_holds_again(bool keeps_it_open)
{
	struct io_wq *wq = queue_new(2);
	unsigned inside = 0;
	struct outer outer;
	struct task *tasks;
	sem_t gate;

	outer_init(&outer, wq, 20)->keeps_it_open = keeps_it_open;
	CHECK(io_wq_enqueue(wq, &outer.work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	sem_init(&gate, 0, 0);
	tasks = tasks_new(10, &gate, &inside);
	for (int i = 0; i < 10; i++)
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	WAIT_UNTIL(queue_stats(wq).running == 2);
	usleep(10000); /* long enough for a third one that would be wrong */
	CHECK(LOAD(inside) == 2);
	WAIT_UNTIL(queue_stats(wq).workers == 2);
	for (int i = 0; i < 10; i++)
		sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
	free(tasks);
}

static void the_limit_holds_again_after_waits(void)
{
	the_limit_holds_again(false);
}

static void the_limit_holds_again_after_works_that_end_within_a_wait(void)
{
	the_limit_holds_again(true);
}

static void to_wait_for_the_own_key_is_an_error(void)
{
	struct io_wq *wq = queue_new(4);
	struct outer own, other;
	int key, other_key;

	outer_init(&own, wq, 1)->key = &key;
	outer_init(&other, wq, 1)->key = &other_key;
	CHECK(io_wq_enqueue_hashed(wq, &own.work, &key) == 0);
	CHECK(io_wq_enqueue_hashed(wq, &other.work, &key) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(own.answer == -EDEADLK && other.answer >= 0);
	io_wq_destroy(wq);
	free(left_over);
}

static int answer_there;

static void ask_func(struct io_wq_work **work)
{
	struct outer *outer = (struct outer *)*work;

	answer_there = io_wq_worker_await(outer->wq, NULL);
	if (answer_there > 0)
		io_wq_worker_await_end();
	io_wq_worker_await_end(); /* one too many does nothing */
}

static void who_is_no_work_of_the_queue_need_not(void)
{
	struct io_wq *wq = queue_new(1), *other = queue_new(1);
	struct outer outer;

	CHECK(io_wq_worker_await(wq, NULL) == 0);
	io_wq_worker_await_end();
	outer_init(&outer, other, 0);
	INIT_IO_WORK(&outer.work, ask_func);
	CHECK(io_wq_enqueue(wq, &outer.work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(answer_there == 0);
	outer_init(&outer, wq, 0);
	INIT_IO_WORK(&outer.work, ask_func);
	CHECK(io_wq_enqueue(wq, &outer.work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(answer_there == 1);
	io_wq_destroy(wq);
	io_wq_destroy(other);
}

static struct outer first, second;
static sem_t second_runs, second_may_go_on;

static void second_func(struct io_wq_work **work)
{
	sem_post(&second_runs);
	sem_wait(&second_may_go_on);
	outer_func(work); /* waits for a third one */
}

static void first_func(struct io_wq_work **work)
{
	(void)work;
	CHECK(io_wq_enqueue(first.wq, &second.work) == 0);
	CHECK(io_wq_worker_await(first.wq, &second.work) == 1);
	sem_wait(&second_runs);
	io_wq_worker_await_end();
	first.answer = io_wq_worker_await(first.wq, &second.work);
	sem_post(&second_may_go_on);
	sem_wait(&second.ended);
	io_wq_worker_await_end();
}

/* Else its waiter would keep what it waits for itself from running. */
static void the_awaited_work_may_run_already(void)
{
	struct io_wq *wq = queue_new(1);

	outer_init(&first, wq, 0);
	outer_init(&second, wq, 1);
	INIT_IO_WORK(&first.work, first_func);
	INIT_IO_WORK(&second.work, second_func);
	sem_init(&second_runs, 0, 0);
	sem_init(&second_may_go_on, 0, 0);
	CHECK(io_wq_enqueue(wq, &first.work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(first.answer == 1 && second.answer == 1);
	io_wq_destroy(wq);
}

static void without_threads_the_waiter_is_told(void)
{
	struct io_wq *wq = queue_new(1);
	struct outer outer;
	struct task first;

	CHECK(io_wq_enqueue(wq, &task_init(&first, NULL, NULL)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	ADD(no_threads, 1);
	CHECK(io_wq_enqueue(wq, &outer_init(&outer, wq, 1)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(outer.answer == -EAGAIN);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0); /* the inner one, which it has enqueued meanwhile */
	free(left_over);
	__atomic_store_n(&no_threads, 0, __ATOMIC_SEQ_CST);
	CHECK(io_wq_enqueue(wq, &outer_init(&outer, wq, 5)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(outer.answer == 1);
	io_wq_destroy(wq);
}

TEST_MAIN(TEST(works_wait_on_all_workers), TEST(nesting_may_be_deep),
	  TEST(the_limit_holds_again_after_waits),
	  TEST(the_limit_holds_again_after_works_that_end_within_a_wait),
	  TEST(to_wait_for_the_own_key_is_an_error), TEST(who_is_no_work_of_the_queue_need_not),
	  TEST(the_awaited_work_may_run_already), TEST(without_threads_the_waiter_is_told))
