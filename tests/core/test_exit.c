/* io_wq_exit_start: what was enqueued runs, then the threads end by themselves. */
#include "check.h"

/* Nothing ends of old age. */
static struct io_wq *long_lived_queue(void)
{
	struct io_wq_data data = { .idle_timeout_ms = 1000000 };
	struct io_wq *wq = io_wq_create(4, &data);

	CHECK(wq);
	return wq;
}

/* Idle workers of both kinds, and a canceller. */
static void have_threads(struct io_wq *wq)
{
	struct task tasks[2];
	sem_t gate;

	sem_init(&gate, 0, 0);
	for (int i = 0; i < 2; i++) {
		task_init(&tasks[i], &gate, NULL)->work.flags = i ? IO_WQ_WORK_UNBOUND : 0;
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
		WAIT_UNTIL(LOAD(tasks[i].begun));
	}
	CHECK(io_wq_cancel_work(wq, &tasks[0].work) == IO_WQ_CANCEL_RUNNING);
	sem_post(&gate);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	WAIT_UNTIL(queue_stats(wq).idle == queue_stats(wq).workers);
}

/* All that may still be called, in some order. */
static void end_in_one_way(struct io_wq *wq, unsigned way)
{
	if (way & 1)
		io_wq_exit_start(wq);
	if (way & 2)
		CHECK(io_wq_stop(wq, DEADLINE * 1000) == 0);
	if (way & 4)
		io_wq_destroy(wq);
	else
		io_wq_put(wq);
}

static void idle_threads_end_at_once(void)
{
	for (unsigned way = 0; way < 8; way++) {
		unsigned threads = check_threads();
		struct io_wq *wq = long_lived_queue();
		struct task late;

		have_threads(wq);
		CHECK(queue_stats(wq).workers == 2);
		io_wq_exit_start(wq);
		WAIT_UNTIL(check_threads() <= threads);
		WAIT_UNTIL(queue_stats(wq).workers == 0); /* a joined thread may have been counted */
		CHECK(io_wq_enqueue(wq, &task_init(&late, NULL, NULL)->work) == -ESHUTDOWN);
		CHECK(io_wq_cancel_work(wq, &late.work) == IO_WQ_CANCEL_NOTFOUND);
		CHECK(io_wq_flush(wq, 0) == 0);
		end_in_one_way(wq, way);
		WAIT_UNTIL(check_threads() <= threads);
	}
}

/* The last work is a dependent one, which exists only when the queue refuses. */
static struct task last;

static void leaving_func(struct io_wq_work **work)
{
	task_func(work);
	*work = &last.work;
}

static void threads_end_with_the_last_work(void)
{
	unsigned threads = check_threads();
	struct io_wq *wq = long_lived_queue();
	struct task *pending = tasks_new(20, NULL, NULL), holder, leaving;
	sem_t gates[2];

	sem_init(&gates[0], 0, 0);
	sem_init(&gates[1], 0, 0);
	have_threads(wq);
	task_init(&last, &gates[1], NULL);
	task_init(&leaving, &gates[0], NULL)->work.func = leaving_func;
	io_wq_enqueue(wq, &leaving.work);
	io_wq_enqueue_hashed(wq, &task_init(&holder, &gates[0], NULL)->work, wq);
	for (int i = 0; i < 20; i++) {
		pending[i].work.flags = i % 2 ? IO_WQ_WORK_UNBOUND : 0;
		io_wq_enqueue_hashed(wq, &pending[i].work, wq);
	}
	WAIT_UNTIL(LOAD(leaving.begun) && LOAD(holder.begun));
	io_wq_exit_start(wq);
	sem_post(&gates[0]);
	sem_post(&gates[0]);
	WAIT_UNTIL(LOAD(last.begun));
	for (int i = 0; i < 20; i++)
		WAIT_UNTIL(LOAD(pending[i].ended));
	CHECK(queue_stats(wq).workers >= 2); /* idle ones stay while work runs */
	sem_post(&gates[1]);
	WAIT_UNTIL(check_threads() <= threads);
	CHECK(io_wq_flush(wq, 0) == 0);
	for (int i = 0; i < 20; i++)
		CHECK(pending[i].ended == 1 && !pending[i].cancelled);
	CHECK(last.ended == 1 && !last.cancelled && !leaving.cancelled);
	io_wq_destroy(wq);
	free(pending);
}

/* ---- who finishes the last work */

static struct io_wq *ending;
static sem_t outlived_gate;

static void outliving_func(struct io_wq_work **work)
{
	CHECK(io_wq_work_cancelled(*work));
	sem_post(&outlived_gate);
	WAIT_UNTIL(queue_stats(ending).running == 0);
}

static void the_last_work_may_be_a_cancelled_one(void)
{
	unsigned threads = check_threads();
	struct io_wq_work work;
	struct task outlived;

	sem_init(&outlived_gate, 0, 0);
	ending = long_lived_queue();
	io_wq_enqueue_hashed(ending, &task_init(&outlived, &outlived_gate, NULL)->work, NULL);
	INIT_IO_WORK(&work, outliving_func);
	io_wq_enqueue_hashed(ending, &work, NULL);
	WAIT_UNTIL(LOAD(outlived.begun));
	io_wq_exit_start(ending);
	CHECK(io_wq_cancel_work(ending, &work) == IO_WQ_CANCEL_OK); /* on this thread */
	CHECK(outlived.ended == 1 && !outlived.cancelled);
	WAIT_UNTIL(check_threads() <= threads);
	io_wq_destroy(ending);
}

static void exiting_func(struct io_wq_work **work)
{
	(void)work;
	io_wq_exit_start(ending);
}

static void a_work_may_start_the_exit(void)
{
	unsigned threads = check_threads();
	struct io_wq_work work;

	ending = long_lived_queue();
	have_threads(ending);
	INIT_IO_WORK(&work, exiting_func);
	io_wq_enqueue(ending, &work);
	WAIT_UNTIL(check_threads() <= threads);
	io_wq_destroy(ending);
}

/* ---- stress */

enum { COUNT = 12 };

struct chain {
	struct io_wq_work work, dependent;
	unsigned ended;
};

static void end_func(struct io_wq_work **work)
{
	struct chain *chain = (struct chain *)((char *)*work - offsetof(struct chain, dependent));

	CHECK(!io_wq_work_cancelled(*work));
	ADD(chain->ended, 1);
}

static void chain_func(struct io_wq_work **work)
{
	struct chain *chain = (struct chain *)*work;

	INIT_IO_WORK(&chain->dependent, end_func);
	*work = &chain->dependent;
}

static void nothing_is_lost_at_the_end(void)
{
	for (unsigned round = 0; round < 400; round++) {
		struct chain chains[COUNT];
		struct io_wq_flush flush = { 0 };
		struct io_wq *wq = long_lived_queue();

		for (unsigned i = 0; i < COUNT; i++) {
			memset(&chains[i], 0, sizeof(chains[i]));
			INIT_IO_WORK(&chains[i].work, chain_func);
			chains[i].work.flags = (i + round) % 3 ? 0 : IO_WQ_WORK_UNBOUND;
			io_wq_enqueue_hashed(wq, &chains[i].work, (void *)(uintptr_t)(i % 5));
		}
		if (round / 8 % 2)
			CHECK(io_wq_flush_start(wq, &flush) == 0);
		io_wq_exit_start(wq);
		CHECK(round / 8 % 2 == 0 || io_wq_flush_wait(&flush, DEADLINE * 1000) == 0);
		WAIT_UNTIL(queue_stats(wq).workers == 0);
		for (unsigned i = 0; i < COUNT; i++)
			CHECK(LOAD(chains[i].ended) == 1);
		io_wq_flush_end(&flush);
		end_in_one_way(wq, round % 8);
	}
}

static sem_t completing, may_rebind;

static void slow_to_complete_func(struct io_wq_work **work)
{
	sem_post(&completing);
	CHECK(sem_wait(&may_rebind) == 0);
	task_func(work);
}

static void *cancel_pending(void *wq)
{
	io_wq_cancel_pending(wq);
	return NULL;
}

/* Its owner frees a work's memory after io_wq_destroy. */
static void stop_waits_for_works_that_others_complete(void)
{
	struct io_wq *wq = queue_new(1);
	struct task blocking, slow;
	pthread_t canceller;
	sem_t gate;

	sem_init(&gate, 0, 0);
	sem_init(&completing, 0, 0);
	sem_init(&may_rebind, 0, 0);
	CHECK(io_wq_enqueue(wq, &task_init(&blocking, &gate, NULL)->work) == 0);
	WAIT_UNTIL(LOAD(blocking.begun));
	task_init(&slow, NULL, NULL)->work.func = slow_to_complete_func;
	CHECK(io_wq_enqueue(wq, &slow.work) == 0);
	CHECK(pthread_create(&canceller, NULL, cancel_pending, wq) == 0);
	CHECK(sem_wait(&completing) == 0);
	sem_post(&gate);
	WAIT_UNTIL(LOAD(blocking.ended));
	CHECK(io_wq_stop(wq, 20) == -ETIMEDOUT);
	sem_post(&may_rebind);
	io_wq_destroy(wq);
	CHECK(slow.ended == 1);
	pthread_join(canceller, NULL);
}

TEST_MAIN(TEST(idle_threads_end_at_once), TEST(threads_end_with_the_last_work),
	  TEST(the_last_work_may_be_a_cancelled_one), TEST(a_work_may_start_the_exit),
	  TEST(nothing_is_lost_at_the_end), TEST(stop_waits_for_works_that_others_complete))
