/* Flush: "finished", and of what was enqueued before, no more. */
#include "check.h"
#include <signal.h>

static void waits_for_running_work(void)
{
	struct io_wq *wq = queue_new(2);
	struct task task;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&task, &gate, NULL)->work);
	WAIT_UNTIL(LOAD(task.begun)); /* that of Linux' first io-wq would return now */
	CHECK(io_wq_flush(wq, 0) == -ETIMEDOUT);
	CHECK(io_wq_flush(wq, 20) == -ETIMEDOUT);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, -1) == 0);
	CHECK(LOAD(task.ended) == 1);
	io_wq_destroy(wq);
}

static void does_not_wait_for_later_work(void)
{
	struct io_wq *wq = queue_new(2);
	struct task before, after;
	struct io_wq_flush flush;
	sem_t gate_before, gate_after;

	sem_init(&gate_before, 0, 0);
	sem_init(&gate_after, 0, 0);
	io_wq_enqueue(wq, &task_init(&before, &gate_before, NULL)->work);
	CHECK(io_wq_flush_start(wq, &flush) == 0);
	io_wq_enqueue(wq, &task_init(&after, &gate_after, NULL)->work);
	WAIT_UNTIL(LOAD(after.begun));
	CHECK(io_wq_flush_wait(&flush, 0) == -ETIMEDOUT);
	sem_post(&gate_before);
	CHECK(io_wq_flush_wait(&flush, -1) == 0);
	io_wq_flush_end(&flush);
	CHECK(LOAD(before.ended) && !LOAD(after.ended));
	sem_post(&gate_after);
	io_wq_destroy(wq);
}

/* Works that finish out of order, and are cancelled, under many flushes. */
static void flushes_overlap(void)
{
	enum { COUNT = 64 };
	struct io_wq *wq = queue_new(COUNT);
	struct io_wq_flush flushes[COUNT];
	struct task tasks[COUNT];
	sem_t gates[COUNT];

	for (int i = 0; i < COUNT; i++) {
		sem_init(&gates[i], 0, 0);
		io_wq_enqueue(wq, &task_init(&tasks[i], &gates[i], NULL)->work);
		CHECK(io_wq_flush_start(wq, &flushes[i]) == 0);
	}
	for (int i = COUNT - 1; i > 0; i--) {
		sem_post(&gates[i]);
		WAIT_UNTIL(LOAD(tasks[i].ended));
		CHECK(io_wq_flush_wait(&flushes[i], 0) == -ETIMEDOUT);
	}
	sem_post(&gates[0]);
	for (int i = 0; i < COUNT; i++) {
		CHECK(io_wq_flush_wait(&flushes[i], -1) == 0);
		io_wq_flush_end(&flushes[i]);
	}
	io_wq_destroy(wq);
}

static void *flush_for_ever(void *arg)
{
	return (void *)(intptr_t)io_wq_flush(arg, -1);
}

static void cancelled_work_is_finished(void)
{
	struct io_wq *wq = queue_new(1);
	struct task running, pending;
	pthread_t flusher;
	void *result;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&running, &gate, NULL)->work);
	io_wq_enqueue(wq, &task_init(&pending, NULL, NULL)->work);
	pthread_create(&flusher, NULL, flush_for_ever, wq);
	io_wq_cancel_work(wq, &pending.work);
	sem_post(&gate);
	pthread_join(flusher, &result);
	CHECK(!result);
	io_wq_destroy(wq);
}

static void nothing(int signal)
{
	(void)signal;
}

static void a_signal_handler_ends_the_wait(void)
{
	struct sigaction action = { .sa_handler = nothing };
	struct io_wq *wq = queue_new(1);
	struct task task;
	pthread_t flusher;
	void *result;
	sem_t gate;

	sigaction(SIGUSR1, &action, NULL);
	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&task, &gate, NULL)->work);
	pthread_create(&flusher, NULL, flush_for_ever, wq);
	for (long long end = check_now_ms() + DEADLINE * 1000; check_now_ms() < end;) {
		struct timespec soon = { .tv_sec = time(NULL), .tv_nsec = 0 };

		pthread_kill(flusher, SIGUSR1);
		if (pthread_timedjoin_np(flusher, &result, &soon) == 0)
			break;
		usleep(1000);
	}
	CHECK((intptr_t)result == -EINTR);
	sem_post(&gate);
	io_wq_destroy(wq);
}

TEST_MAIN(TEST(waits_for_running_work), TEST(does_not_wait_for_later_work), TEST(flushes_overlap),
	  TEST(cancelled_work_is_finished), TEST(a_signal_handler_ends_the_wait))
