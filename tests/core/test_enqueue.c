/* create, enqueue, dependent work, stop, destroy */
#include "check.h"

static void runs_every_work_once(void)
{
	struct io_wq *wq = queue_new(4);
	struct task *tasks = tasks_new(10000, NULL, NULL);

	for (int i = 0; i < 10000; i++)
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	CHECK(io_wq_flush(wq, -1) == 0);
	for (int i = 0; i < 10000; i++)
		CHECK(tasks[i].ended == 1 && !tasks[i].cancelled);
	io_wq_destroy(wq);
	free(tasks);
}

static void starts_in_order(void)
{
	struct io_wq *wq = queue_new(1);
	unsigned counter = 0;
	struct task *tasks = tasks_new(1000, NULL, &counter);

	for (int i = 0; i < 1000; i++)
		io_wq_enqueue(wq, &tasks[i].work);
	io_wq_flush(wq, -1);
	for (unsigned i = 0; i < 1000; i++)
		CHECK(tasks[i].begun == i + 1);
	io_wq_destroy(wq);
	free(tasks);
}

static void create_checks_its_arguments(void)
{
	struct io_wq_data data = { .cancel_signal = 9 };

	errno = 0;
	CHECK(!io_wq_create(0, NULL) && errno == EINVAL);
	CHECK(!io_wq_create(IO_WQ_CONCURRENCY_MAX + 1, NULL) && errno == EINVAL);
	CHECK(!io_wq_create(1, &data) && errno == EINVAL);
	data.cancel_signal = -1;
	CHECK(!io_wq_create(1, &data) && errno == EINVAL);
	data.cancel_signal = 1000;
	CHECK(!io_wq_create(1, &data) && errno == EINVAL);
	data = (struct io_wq_data){ .unbounded = IO_WQ_CONCURRENCY_MAX + 1 };
	CHECK(!io_wq_create(1, &data) && errno == EINVAL);
}

static void an_unused_queue_has_no_thread(void)
{
	struct io_wq *wq = queue_new(4);

	CHECK(queue_stats(wq).workers == 0);
	CHECK(io_wq_flush(wq, 0) == 0);
	io_wq_destroy(wq);
}

/* ---- dependent work */

static struct task second, third;
static pthread_t chain_threads[3];
static unsigned chain_length;

static void chained_func(struct io_wq_work **work)
{
	struct task *task = (struct task *)*work;

	task->cancelled = io_wq_work_cancelled(&task->work);
	chain_threads[chain_length++] = pthread_self();
	*work = chain_length == 1 ? &second.work : chain_length == 2 ? &third.work : NULL;
}

static void chain_init(struct task *first)
{
	chain_length = 0;
	INIT_IO_WORK(&first->work, chained_func);
	INIT_IO_WORK(&second.work, chained_func);
	INIT_IO_WORK(&third.work, chained_func);
}

static void dependent_work_runs_next_on_the_same_worker(void)
{
	struct io_wq *wq = queue_new(4);
	struct task first;

	chain_init(&first);
	io_wq_enqueue(wq, &first.work);
	io_wq_flush(wq, -1); /* waits for the whole chain */
	CHECK(chain_length == 3);
	CHECK(pthread_equal(chain_threads[0], chain_threads[1]));
	CHECK(pthread_equal(chain_threads[0], chain_threads[2]));
	io_wq_destroy(wq);
}

static void dependents_of_cancelled_work_are_cancelled(void)
{
	struct io_wq *wq = queue_new(1);
	struct task blocker, first;
	sem_t gate;

	sem_init(&gate, 0, 0);
	task_init(&blocker, &gate, NULL);
	chain_init(&first);
	io_wq_enqueue(wq, &blocker.work);
	io_wq_enqueue(wq, &first.work);
	CHECK(io_wq_cancel_work(wq, &first.work) == IO_WQ_CANCEL_OK);
	CHECK(chain_length == 3 && first.cancelled && second.cancelled && third.cancelled);
	sem_post(&gate);
	io_wq_destroy(wq);
}

/* ---- the end */

static void destroy_cancels_pending_and_lets_running_end(void)
{
	struct io_wq *wq = queue_new(1);
	struct task running, *pending = tasks_new(100, NULL, NULL);
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&running, &gate, NULL)->work);
	for (int i = 0; i < 100; i++)
		io_wq_enqueue_hashed(wq, &pending[i].work, i % 2 ? wq : NULL);
	WAIT_UNTIL(LOAD(running.begun));
	CHECK(io_wq_stop(wq, 0) == -ETIMEDOUT);
	for (int i = 0; i < 100; i++)
		CHECK(pending[i].ended == 1 && pending[i].cancelled && pending[i].error == ECANCELED);
	CHECK(!LOAD(running.ended));
	CHECK(io_wq_enqueue(wq, &task_init(&pending[0], NULL, NULL)->work) == -ESHUTDOWN);
	CHECK(!pending[0].ended);
	sem_post(&gate);
	io_wq_destroy(wq);
	CHECK(running.ended == 1 && !running.cancelled);
	free(pending);
}

static void exit_start_runs_what_is_pending(void)
{
	struct io_wq *wq = queue_new(1);
	struct task running, pending, late;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&running, &gate, NULL)->work);
	io_wq_enqueue(wq, &task_init(&pending, NULL, NULL)->work);
	io_wq_exit_start(wq);
	CHECK(io_wq_enqueue(wq, &task_init(&late, NULL, NULL)->work) == -ESHUTDOWN);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, -1) == 0);
	CHECK(pending.ended && !pending.cancelled);
	io_wq_destroy(wq);
}

static struct io_wq *stopped_from_inside;
static int stop_results[3];

static void stopping_func(struct io_wq_work **work)
{
	stop_results[0] = io_wq_stop(stopped_from_inside, -1);
	stop_results[1] = io_wq_flush(stopped_from_inside, -1);
	(void)work;
}

static void waiting_for_oneself_is_an_error(void)
{
	struct io_wq_work work;

	stopped_from_inside = queue_new(1);
	INIT_IO_WORK(&work, stopping_func);
	io_wq_enqueue(stopped_from_inside, &work);
	io_wq_flush(stopped_from_inside, -1);
	CHECK(stop_results[0] == -EDEADLK && stop_results[1] == -EDEADLK);
	io_wq_destroy(stopped_from_inside);
}

static unsigned released;

static void destroying_func(struct io_wq_work **work)
{
	io_wq_destroy(stopped_from_inside);
	ADD(released, 1);
	(void)work;
}

/* The sanitizers see whether the last thread frees everything. */
static void a_work_may_destroy_its_queue(void)
{
	struct task *others = tasks_new(100, NULL, NULL);
	unsigned threads = check_threads();
	struct io_wq_work work;

	stopped_from_inside = queue_new(4);
	INIT_IO_WORK(&work, destroying_func);
	for (int i = 0; i < 50; i++)
		io_wq_enqueue(stopped_from_inside, &others[i].work);
	io_wq_enqueue(stopped_from_inside, &work);
	WAIT_UNTIL(LOAD(released));
	WAIT_UNTIL(check_threads() == threads);
	free(others);
}

/* The same, by a work that is cancelled, on the thread that cancels it. */
static void a_cancelled_work_may_destroy_its_queue(void)
{
	unsigned threads = check_threads();
	struct io_wq_work work;
	struct task running;
	sem_t gate;

	sem_init(&gate, 0, 0);
	stopped_from_inside = queue_new(1);
	io_wq_enqueue(stopped_from_inside, &task_init(&running, &gate, NULL)->work);
	INIT_IO_WORK(&work, destroying_func);
	io_wq_enqueue_hashed(stopped_from_inside, &work, NULL);
	CHECK(io_wq_cancel_work(stopped_from_inside, &work) == IO_WQ_CANCEL_OK);
	CHECK(released);
	sem_post(&gate);
	WAIT_UNTIL(check_threads() == threads);
}

static struct io_wq *second_queue;
static struct task cancelled_second;

static void flush_first_func(struct io_wq_work **work)
{
	stop_results[2] = io_wq_flush(stopped_from_inside, 100);
	(void)work;
}

static void cancel_second_func(struct io_wq_work **work)
{
	CHECK(io_wq_cancel_work(second_queue, &cancelled_second.work) == IO_WQ_CANCEL_OK);
	(void)work;
}

/* A cancelled work of one queue cancels a work of another, which flushes the first. */
static void waiting_for_oneself_through_another_is_an_error(void)
{
	struct task blockers[2];
	struct io_wq_work first;
	sem_t gate;

	sem_init(&gate, 0, 0);
	stopped_from_inside = queue_new(1);
	second_queue = queue_new(1);
	io_wq_enqueue(stopped_from_inside, &task_init(&blockers[0], &gate, NULL)->work);
	io_wq_enqueue(second_queue, &task_init(&blockers[1], &gate, NULL)->work);
	INIT_IO_WORK(&first, cancel_second_func);
	INIT_IO_WORK(&cancelled_second.work, flush_first_func);
	WAIT_UNTIL(LOAD(blockers[0].begun) && LOAD(blockers[1].begun));
	io_wq_enqueue(stopped_from_inside, &first);
	io_wq_enqueue(second_queue, &cancelled_second.work);
	CHECK(io_wq_cancel_work(stopped_from_inside, &first) == IO_WQ_CANCEL_OK);
	CHECK(stop_results[2] == -EDEADLK);
	sem_post(&gate);
	sem_post(&gate);
	io_wq_destroy(stopped_from_inside);
	io_wq_destroy(second_queue);
}

static void *enqueue_many(void *arg)
{
	struct io_wq *wq = ((void **)arg)[0];
	struct task *tasks = ((void **)arg)[1];

	for (int i = 0; i < 20000; i++)
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	return NULL;
}

static void many_threads_enqueue_at_once(void)
{
	struct io_wq *wq = queue_new(8);
	struct task *tasks[4];
	pthread_t threads[4];
	void *args[4][2];

	for (int t = 0; t < 4; t++) {
		tasks[t] = tasks_new(20000, NULL, NULL);
		args[t][0] = wq;
		args[t][1] = tasks[t];
		pthread_create(&threads[t], NULL, enqueue_many, args[t]);
	}
	for (int t = 0; t < 4; t++)
		pthread_join(threads[t], NULL);
	io_wq_flush(wq, -1);
	for (int t = 0; t < 4; t++) {
		for (int i = 0; i < 20000; i++)
			CHECK(tasks[t][i].ended == 1);
		free(tasks[t]);
	}
	CHECK(queue_stats(wq).enqueued == 80000 && queue_stats(wq).pending == 0);
	io_wq_destroy(wq);
}

static unsigned freed;

static void count_freed(struct io_wq_work *work)
{
	free(work);
	ADD(freed, 1);
}

/* With free_work the owner needn't keep track: also of cancelled work. */
static void free_work_gives_the_memory_back(void)
{
	struct io_wq_data data = { .free_work = count_freed };
	struct io_wq *wq = io_wq_create(2, &data);

	for (int i = 0; i < 1000; i++)
		io_wq_enqueue_hashed(wq, &tasks_new(1, NULL, NULL)->work, (void *)(uintptr_t)(i % 7));
	io_wq_cancel_all(wq);
	io_wq_destroy(wq);
	CHECK(freed == 1000);
}

static unsigned running_when_freed[3];

static void note_running(struct io_wq_work *work)
{
	running_when_freed[freed] = queue_stats(work->wq).running;
	ADD(freed, 1);
}

static void free_quickly(struct io_wq_work **work)
{
	(void)work;
	io_wq_worker_frees_quickly();
}

/* What frees quickly does so once the worker has its next work; what doesn't, before. */
static void works_say_how_long_it_takes_to_free_them(void)
{
	struct io_wq_data data = { .free_work = note_running };
	struct io_wq *wq = io_wq_create(1, &data);
	struct task *first = tasks_new(3, NULL, NULL);
	sem_t gate;

	freed = 0;
	sem_init(&gate, 0, 0);
	first[0].gate = &gate;
	first[1].work.func = free_quickly;
	for (int i = 0; i < 3; i++)
		CHECK(io_wq_enqueue(wq, &first[i].work) == 0);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
	CHECK(freed == 3);
	CHECK(running_when_freed[0] == 0 && running_when_freed[1] == 1 && running_when_freed[2] == 0);
	free(first);
}

static sem_t freeing;

static void wait_for_the_next(struct io_wq_work *work)
{
	if (work->flags & IO_WQ_WORK_HASHED)
		sem_wait(&freeing);
}

static void let_the_other_be_freed(struct io_wq_work **work)
{
	(void)work;
	sem_post(&freeing);
}

/* Whoever frees a work may wait for the next: another worker runs it. */
static void free_work_may_wait_for_other_work(void)
{
	struct io_wq_data data = { .free_work = wait_for_the_next };
	struct io_wq *wq = io_wq_create(2, &data);
	struct task *waited_for = tasks_new(1, NULL, NULL);
	struct io_wq_work next;

	sem_init(&freeing, 0, 0);
	CHECK(io_wq_enqueue_hashed(wq, &waited_for->work, wq) == 0);
	INIT_IO_WORK(&next, let_the_other_be_freed);
	CHECK(io_wq_enqueue(wq, &next) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
	free(waited_for);
}

TEST_MAIN(TEST(runs_every_work_once), TEST(starts_in_order), TEST(create_checks_its_arguments),
	  TEST(an_unused_queue_has_no_thread), TEST(dependent_work_runs_next_on_the_same_worker),
	  TEST(dependents_of_cancelled_work_are_cancelled),
	  TEST(destroy_cancels_pending_and_lets_running_end), TEST(exit_start_runs_what_is_pending),
	  TEST(waiting_for_oneself_is_an_error), TEST(a_work_may_destroy_its_queue),
	  TEST(a_cancelled_work_may_destroy_its_queue),
	  TEST(waiting_for_oneself_through_another_is_an_error),
	  TEST(many_threads_enqueue_at_once), TEST(free_work_gives_the_memory_back),
	  TEST(works_say_how_long_it_takes_to_free_them),
	  TEST(free_work_may_wait_for_other_work))
