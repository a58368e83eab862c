/* A limit to pending work: who is refused, and who tells when it is admitted. */
#include "check.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t admission = PTHREAD_COND_INITIALIZER;
static unsigned calls; /* of the hook */

static void on_admit(void *ctx)
{
	CHECK(ctx == &calls);
	pthread_mutex_lock(&lock);
	ADD(calls, 1);
	pthread_cond_broadcast(&admission);
	pthread_mutex_unlock(&lock);
}

static struct io_wq *queue_that_admits(unsigned workers, unsigned max_pending)
{
	struct io_wq_data data = {
		.unbounded = workers, .max_pending = max_pending, .ctx = &calls, .admit = on_admit,
	};
	struct io_wq *wq = io_wq_create(workers, &data);

	CHECK(wq);
	calls = 0;
	return wq;
}

/* A worker that is held back, and max_pending works behind it. */
static struct task running;
static sem_t gate;

static struct task *fill(struct io_wq *wq, unsigned max_pending)
{
	struct task *tasks = tasks_new(max_pending, &gate, NULL);

	sem_init(&gate, 0, 0);
	CHECK(io_wq_enqueue(wq, &task_init(&running, &gate, NULL)->work) == 0);
	WAIT_UNTIL(LOAD(running.begun));
	for (unsigned i = 0; i < max_pending; i++)
		if (i % 2)
			CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
		else
			CHECK(io_wq_enqueue_hashed(wq, &tasks[i].work, wq) == 0);
	return tasks;
}

static void open_gate(int count)
{
	while (count--)
		sem_post(&gate);
}

static void work_is_refused_untouched_until_it_is_admitted(void)
{
	struct io_wq *wq = queue_that_admits(1, 4);
	struct task *tasks = fill(wq, 4), late, as_it_was, later;

	task_init(&late, &gate, NULL)->work.flags = IO_WQ_WORK_UNBOUND;
	as_it_was = late;
	for (int i = 0; i < 2; i++) {
		CHECK(io_wq_enqueue(wq, &late.work) == -EBUSY);
		CHECK(!memcmp(&late, &as_it_was, sizeof(late)));
		CHECK(io_wq_enqueue_hashed(wq, &late.work, late.work.key.id) == -EBUSY);
		CHECK(!memcmp(&late, &as_it_was, sizeof(late)));
	}
	CHECK(queue_stats(wq).pending == 4 && queue_stats(wq).enqueued == 5);
	CHECK(LOAD(calls) == 0);
	late.work.flags = 0;
	open_gate(1);
	WAIT_UNTIL(LOAD(calls) == 1);
	CHECK(io_wq_enqueue(wq, &late.work) == 0);
	CHECK(io_wq_enqueue(wq, &task_init(&later, &gate, NULL)->work) == -EBUSY);
	open_gate(1);
	WAIT_UNTIL(LOAD(calls) == 2);
	open_gate(4); /* all others start: nobody is waiting for that */
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(LOAD(calls) == 2 && late.ended == 1 && !later.begun);
	io_wq_destroy(wq);
	CHECK(LOAD(calls) == 2);
	free(tasks);
}

/* Whatever was waited for has been told by the time that func is called. */
static void told_func(struct io_wq_work **work)
{
	CHECK(LOAD(calls) == 1);
	task_func(work);
}

static void admission_is_told_before_the_work_begins(void)
{
	struct io_wq *wq = queue_that_admits(1, 1);
	struct task *tasks = fill(wq, 1), late;

	tasks[0].work.func = told_func;
	CHECK(io_wq_enqueue(wq, &task_init(&late, NULL, NULL)->work) == -EBUSY);
	open_gate(2);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(tasks[0].ended == 1);
	io_wq_destroy(wq);
	free(tasks);
}

/* ---- works that enqueue */

enum { MORE = 5 };
static struct io_wq *enqueueing_queue;
static struct task more[2 * MORE];

static void enqueueing_func(struct io_wq_work **work)
{
	struct task *first = (*work)->error ? more : more + MORE;

	for (int i = 0; i < MORE; i++)
		CHECK(io_wq_enqueue(enqueueing_queue, &task_init(&first[i], NULL, NULL)->work) == 0);
	task_func(work);
}

static void a_work_of_the_queue_is_never_refused(void)
{
	struct io_wq *wq = enqueueing_queue = queue_that_admits(1, 4);
	struct task *tasks = fill(wq, 4), late;

	tasks[0].work.func = tasks[1].work.func = enqueueing_func;
	/* one is cancelled, and enqueues on this thread */
	CHECK(io_wq_cancel_work(wq, &tasks[0].work) == IO_WQ_CANCEL_OK);
	CHECK(queue_stats(wq).pending == 3 + MORE);
	CHECK(io_wq_enqueue(wq, &task_init(&late, NULL, NULL)->work) == -EBUSY);
	open_gate(1); /* the other begins, and enqueues on its worker */
	WAIT_UNTIL(queue_stats(wq).pending == 2 + 2 * MORE);
	CHECK(LOAD(calls) == 0); /* still above the limit */
	open_gate(3);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(LOAD(calls) == 1);
	for (int i = 0; i < 2 * MORE; i++)
		CHECK(more[i].ended == 1 && !more[i].cancelled);
	io_wq_destroy(wq);
	free(tasks);
}

/* ---- works admitted by others than workers */

static void cancel_admits_works(void)
{
	struct io_wq *wq = queue_that_admits(1, 4);
	struct task *tasks = fill(wq, 4), late;

	task_init(&late, &gate, NULL);
	CHECK(io_wq_enqueue(wq, &late.work) == -EBUSY);
	CHECK(io_wq_cancel_work(wq, &running.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(LOAD(calls) == 0);
	CHECK(io_wq_cancel_work(wq, &tasks[0].work) == IO_WQ_CANCEL_OK);
	CHECK(LOAD(calls) == 1);
	CHECK(io_wq_enqueue(wq, &late.work) == 0);
	CHECK(io_wq_enqueue(wq, &task_init(&tasks[0], NULL, NULL)->work) == -EBUSY);
	io_wq_cancel_pending(wq);
	CHECK(LOAD(calls) == 2 && queue_stats(wq).pending == 0);
	io_wq_cancel_pending(wq);
	CHECK(LOAD(calls) == 2);
	open_gate(1);
	io_wq_destroy(wq);
	CHECK(late.cancelled);
	free(tasks);
}

/* Enqueues as soon as it is admitted. Returns 0, or why not. */
static int enqueue_with_patience(struct io_wq *wq, struct io_wq_work *work)
{
	struct timespec limit;
	int ret;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += DEADLINE;
	pthread_mutex_lock(&lock);
	while ((ret = io_wq_enqueue(wq, work)) == -EBUSY)
		CHECK(pthread_cond_timedwait(&admission, &lock, &limit) == 0);
	pthread_mutex_unlock(&lock);
	return ret;
}

static struct io_wq *ending;
static unsigned refused;

static void *be_refused(void *arg)
{
	struct task task;

	CHECK(io_wq_enqueue(ending, &task_init(&task, NULL, NULL)->work) == -EBUSY);
	ADD(refused, 1);
	CHECK(enqueue_with_patience(ending, &task.work) == -ESHUTDOWN);
	return arg;
}

static void those_who_wait_learn_of_the_end(void)
{
	for (int way = 0; way < 2; way++) {
		struct task *tasks;
		pthread_t threads[4];

		ending = queue_that_admits(1, 2);
		tasks = fill(ending, 2);
		refused = 0;
		for (int i = 0; i < 4; i++)
			pthread_create(&threads[i], NULL, be_refused, NULL);
		WAIT_UNTIL(LOAD(refused) == 4);
		if (way)
			CHECK(io_wq_stop(ending, 0) == -ETIMEDOUT);
		else
			io_wq_exit_start(ending);
		for (int i = 0; i < 4; i++)
			pthread_join(threads[i], NULL);
		CHECK(!LOAD(running.ended));
		open_gate(3);
		CHECK(io_wq_flush(ending, DEADLINE * 1000) == 0);
		for (int i = 0; i < 2; i++)
			CHECK(tasks[i].ended == 1 && tasks[i].cancelled == (unsigned)way);
		io_wq_destroy(ending);
		free(tasks);
	}
}

/* ---- stress */

enum { PRODUCERS = 6, EACH = 400, MAX_PENDING = 3 };

static struct io_wq *stressed;
static unsigned producing;

static void slow_func(struct io_wq_work **work)
{
	struct timespec pause = { .tv_nsec = 10000 };

	CHECK(queue_stats(stressed).pending <= MAX_PENDING);
	nanosleep(&pause, NULL);
	task_func(work);
}

static void *produce(void *arg)
{
	struct task *tasks = tasks_new(EACH, NULL, NULL);

	(void)arg;
	for (int i = 0; i < EACH; i++) {
		tasks[i].work.func = slow_func;
		tasks[i].work.flags = i % 3 ? 0 : IO_WQ_WORK_UNBOUND;
		CHECK(enqueue_with_patience(stressed, &tasks[i].work) == 0);
		CHECK(queue_stats(stressed).pending <= MAX_PENDING);
	}
	__atomic_sub_fetch(&producing, 1, __ATOMIC_SEQ_CST);
	return tasks;
}

static void no_producer_is_forgotten(void)
{
	pthread_t threads[PRODUCERS];

	producing = PRODUCERS;
	stressed = queue_that_admits(2, MAX_PENDING);
	for (int i = 0; i < PRODUCERS; i++)
		pthread_create(&threads[i], NULL, produce, NULL);
	while (LOAD(producing)) {
		usleep(2000);
		io_wq_cancel_pending(stressed);
	}
	CHECK(io_wq_flush(stressed, DEADLINE * 1000) == 0);
	for (int i = 0; i < PRODUCERS; i++) {
		void *tasks;

		pthread_join(threads[i], &tasks);
		for (int t = 0; t < EACH; t++)
			CHECK(((struct task *)tasks)[t].ended == 1);
		free(tasks);
	}
	CHECK(queue_stats(stressed).enqueued == PRODUCERS * EACH);
	io_wq_destroy(stressed);
}

static struct io_wq *wq_of_hook;
static int answers[2];

static void stop_in_hook(void *ctx)
{
	sem_post(ctx);
	answers[0] = io_wq_flush(wq_of_hook, DEADLINE * 1000);
	answers[1] = io_wq_stop(wq_of_hook, DEADLINE * 1000);
}

/* The cancelled work isn't completed yet, and waits for the thread that calls the hook. */
static void waiting_for_all_works_in_the_hook_is_an_error(void)
{
	struct task blocking, pending, refused;
	struct io_wq_data data = { .max_pending = 1, .admit = stop_in_hook };
	sem_t gate;

	sem_init(&gate, 0, 0);
	data.ctx = &gate;
	wq_of_hook = io_wq_create(1, &data);
	CHECK(io_wq_enqueue(wq_of_hook, &task_init(&blocking, &gate, NULL)->work) == 0);
	WAIT_UNTIL(LOAD(blocking.begun));
	CHECK(io_wq_enqueue(wq_of_hook, &task_init(&pending, NULL, NULL)->work) == 0);
	CHECK(io_wq_enqueue(wq_of_hook, &task_init(&refused, NULL, NULL)->work) == -EBUSY);
	CHECK(io_wq_cancel_work(wq_of_hook, &pending.work) == IO_WQ_CANCEL_OK);
	CHECK(answers[0] == -EDEADLK && answers[1] == -EDEADLK);
	io_wq_destroy(wq_of_hook);
}

static void who_waits_comes_before_those_who_come_later(void)
{
	struct io_wq *wq = queue_that_admits(1, 4);
	struct task first, later;

	sem_init(&gate, 0, 2);
	io_wq_set_waiters(wq, 1);
	CHECK(io_wq_enqueue(wq, &task_init(&later, &gate, NULL)->work) == -EBUSY);
	task_init(&first, &gate, NULL)->work.flags = IO_WQ_WORK_WAITED;
	CHECK(io_wq_enqueue(wq, &first.work) == 0);
	io_wq_set_waiters(wq, 0);
	CHECK(io_wq_enqueue(wq, &later.work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
}

TEST_MAIN(TEST(who_waits_comes_before_those_who_come_later),
	  TEST(work_is_refused_untouched_until_it_is_admitted),
	  TEST(admission_is_told_before_the_work_begins),
	  TEST(a_work_of_the_queue_is_never_refused), TEST(cancel_admits_works),
	  TEST(those_who_wait_learn_of_the_end), TEST(no_producer_is_forgotten),
	  TEST(waiting_for_all_works_in_the_hook_is_an_error))
