/* How many workers: growth, both kinds of blocking, the limit, idleness. */
#include "check.h"

#include <sys/prctl.h>

static void work_that_does_not_block_uses_few_workers(void)
{
	enum { COUNT = 200000 };
	struct io_wq *wq = queue_new(32);
	struct task *tasks = tasks_new(COUNT, NULL, NULL);

	for (int i = 0; i < COUNT; i++)
		io_wq_enqueue(wq, &tasks[i].work);
	io_wq_flush(wq, -1);
	/* the one that runs, its standby, and what a loaded machine made it notice */
	CHECK(queue_stats(wq).workers <= 8);
	io_wq_destroy(wq);
	free(tasks);
}

static void unannounced_blocking_is_noticed(void)
{
	enum { COUNT = 20 };
	struct io_wq *wq = queue_new(COUNT);
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = tasks_new(2 * COUNT, &gate, NULL);
	for (int i = 0; i < 2 * COUNT; i++)
		io_wq_enqueue(wq, &tasks[i].work);
	WAIT_UNTIL(queue_stats(wq).running == COUNT); /* the limit is reached, and kept */
	CHECK(queue_stats(wq).workers == COUNT && queue_stats(wq).pending == COUNT);
	for (int i = 0; i < 2 * COUNT; i++)
		sem_post(&gate);
	io_wq_flush(wq, -1);
	CHECK(queue_stats(wq).workers == COUNT);
	io_wq_destroy(wq);
	free(tasks);
}

/* Nobody could notice this one: it computes, and says that it will block. */
static unsigned spinning, release;

static void announcing_func(struct io_wq_work **work)
{
	(void)work;
	io_wq_worker_sleeping();
	ADD(spinning, 1);
	WAIT_UNTIL(LOAD(release));
	io_wq_worker_running();
}

static void announced_blocking_calls_the_next_worker(void)
{
	struct io_wq *wq = queue_new(4);
	struct io_wq_work works[4];

	for (int i = 0; i < 4; i++) {
		INIT_IO_WORK(&works[i], announcing_func);
		io_wq_enqueue(wq, &works[i]);
	}
	WAIT_UNTIL(LOAD(spinning) == 4);
	ADD(release, 1);
	io_wq_destroy(wq);
	io_wq_worker_sleeping(); /* on a thread that is no worker: nothing */
	io_wq_worker_running();
}

static unsigned inside, leave;

static void nesting_func(struct io_wq_work **work)
{
	(void)work;
	io_wq_worker_sleeping();
	io_wq_worker_sleeping();
	io_wq_worker_running();
	ADD(inside, 1);
	WAIT_UNTIL(LOAD(leave) == 1);
	io_wq_worker_running();
	ADD(inside, 1);
	WAIT_UNTIL(LOAD(leave) == 2);
}

static void announcements_nest(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	INIT_IO_WORK(&work, nesting_func);
	io_wq_enqueue(wq, &work);
	WAIT_UNTIL(LOAD(inside) == 1);
	CHECK(queue_stats(wq).blocked == 1);
	ADD(leave, 1);
	WAIT_UNTIL(LOAD(inside) == 2);
	CHECK(queue_stats(wq).blocked == 0);
	ADD(leave, 1);
	io_wq_destroy(wq);
}

static void task_func_announced(struct io_wq_work **work)
{
	io_wq_worker_sleeping();
	task_func(work);
}

static void computing_func(struct io_wq_work **work)
{
	(void)work;
	ADD(spinning, 1);
	WAIT_UNTIL(LOAD(release));
}

/* Once their blocked works have ended, sixteen workers are too many. The first half of what
 * comes then is theirs to find that out. */
enum { SHORT = 400000 };
static pthread_t ran_on[SHORT];

struct numbered {
	struct io_wq_work work;
	unsigned number;
};

static void record_thread(struct io_wq_work **work)
{
	ran_on[((struct numbered *)*work)->number] = pthread_self();
}

static int compare_threads(const void *a, const void *b)
{
	pthread_t left = *(const pthread_t *)a, right = *(const pthread_t *)b;

	return (left > right) - (left < right);
}

static void few_run_again_after_blocking(void)
{
	struct numbered *works = calloc(SHORT, sizeof(*works));
	struct io_wq *wq = queue_new(16);
	pthread_t *settled = ran_on + SHORT / 2;
	unsigned threads = 0;
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = tasks_new(16, &gate, NULL);
	for (int i = 0; i < 16; i++)
		io_wq_enqueue(wq, &tasks[i].work);
	WAIT_UNTIL(queue_stats(wq).running == 16);
	for (unsigned i = 0; i < SHORT; i++) {
		works[i].number = i;
		INIT_IO_WORK(&works[i].work, record_thread);
		io_wq_enqueue(wq, &works[i].work);
	}
	for (int i = 0; i < 16; i++)
		sem_post(&gate);
	io_wq_flush(wq, -1);
	qsort(settled, SHORT / 2, sizeof(settled[0]), compare_threads);
	for (unsigned i = 0, first = 0; i <= SHORT / 2; i++)
		if (i == SHORT / 2 || settled[i] != settled[first]) {
			threads += i - first > SHORT / 50; /* ran a twenty-fifth of these or more */
			first = i;
		}
	CHECK(threads <= 4);
	io_wq_destroy(wq);
	free(works);
	free(tasks);
}

/* While another computes, and nobody has a reason to take that for blocked. */
static void who_was_blocked_takes_the_next_work(void)
{
	struct io_wq *wq = queue_new(2);
	struct task blocks, next;
	struct io_wq_work computes;
	sem_t gate;

	sem_init(&gate, 0, 0);
	task_init(&blocks, &gate, NULL)->work.func = task_func_announced;
	io_wq_enqueue(wq, &blocks.work);
	WAIT_UNTIL(LOAD(blocks.begun));
	INIT_IO_WORK(&computes, computing_func);
	io_wq_enqueue(wq, &computes);
	WAIT_UNTIL(LOAD(spinning) == 1);
	io_wq_enqueue(wq, &task_init(&next, NULL, NULL)->work);
	sem_post(&gate);
	WAIT_UNTIL(LOAD(next.ended));
	ADD(release, 1);
	io_wq_destroy(wq);
}

/* For 4 ms, of its own time on a processor. */
static void long_func(struct io_wq_work **work)
{
	struct timespec used;

	(void)work;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	for (long long end = used.tv_sec * 1000000000LL + used.tv_nsec + 4000000;
	     used.tv_sec * 1000000000LL + used.tv_nsec < end;)
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
}

/* It looks as if it were blocked; but more workers wouldn't help it. */
static void work_that_computes_at_length_uses_few_workers(void)
{
	enum { COUNT = 400 };
	struct io_wq_work *works = calloc(COUNT, sizeof(*works));
	struct io_wq *wq = queue_new(256);

	for (int i = 0; i < COUNT; i++) {
		INIT_IO_WORK(&works[i], long_func);
		io_wq_enqueue(wq, &works[i]);
	}
	io_wq_flush(wq, -1);
	CHECK(queue_stats(wq).workers <= 64);
	io_wq_destroy(wq);
	free(works);
}

static unsigned at_once, most_at_once;

static void short_sleep_func(struct io_wq_work **work)
{
	unsigned now = ADD(at_once, 1);

	(void)work;
	if (now > LOAD(most_at_once))
		ADD(most_at_once, 1);
	usleep(500);
	ADD(at_once, -1);
}

/* The ticks have grown long, and each sees a work begun. */
static void short_blocking_is_noticed_after_work_that_did_not_block(void)
{
	enum { FIRST = 20000, COUNT = 20100 };
	struct io_wq_work *works = calloc(COUNT, sizeof(*works));
	struct task *tasks = tasks_new(FIRST, NULL, NULL);
	struct io_wq *wq = queue_new(64);

	for (int i = 0; i < COUNT; i++) {
		INIT_IO_WORK(&works[i], short_sleep_func);
		io_wq_enqueue(wq, i < FIRST ? &tasks[i].work : &works[i]);
	}
	io_wq_flush(wq, -1);
	CHECK(most_at_once >= 3);
	io_wq_destroy(wq);
	free(tasks);
	free(works);
}

static void idle_workers_retire_down_to_one(void)
{
	struct io_wq_data data = { .idle_timeout_ms = 20 };
	struct io_wq *wq = io_wq_create(16, &data);
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	for (int round = 0; round < 3; round++) {
		tasks = tasks_new(16, &gate, NULL);
		for (int i = 0; i < 16; i++)
			io_wq_enqueue(wq, &tasks[i].work);
		WAIT_UNTIL(queue_stats(wq).running == 16);
		for (int i = 0; i < 16; i++)
			sem_post(&gate);
		io_wq_flush(wq, -1);
		WAIT_UNTIL(queue_stats(wq).workers == 1);
		free(tasks);
	}
	usleep(100 * 1000); /* five timeouts: the last one stays */
	CHECK(queue_stats(wq).workers == 1);
	io_wq_destroy(wq);
}

/* ---- hooks and names */

static unsigned started, busy, idle, stopped;

static void on_start(void *ctx, const char *name)
{
	CHECK(ctx == &started && !strncmp(name, "a-rather-long-name-0/", 21));
	ADD(started, 1);
}

static void on_busy(void *ctx) { CHECK(ctx == &started); ADD(busy, 1); }
static void on_idle(void *ctx) { CHECK(ctx == &started); ADD(idle, 1); }
static void on_stop(void *ctx) { CHECK(ctx == &started); ADD(stopped, 1); }

static void named_func(struct io_wq_work **work)
{
	char name[16];

	(void)work;
	pthread_getname_np(pthread_self(), name, sizeof(name));
	CHECK(!strncmp(name, "r-long-name-0/", 14));
}

static void hooks_are_called_in_pairs(void)
{
	struct io_wq_data data = { .name = "a-rather-long-name", .ctx = &started, .worker_start = on_start,
				   .worker_busy = on_busy, .worker_idle = on_idle, .worker_stop = on_stop };
	struct io_wq *wq = io_wq_create(4, &data);
	struct io_wq_work works[100];

	for (int i = 0; i < 100; i++) {
		INIT_IO_WORK(&works[i], named_func);
		io_wq_enqueue(wq, &works[i]);
	}
	io_wq_flush(wq, -1);
	io_wq_destroy(wq);
	CHECK(started >= 1 && started == stopped && busy >= 1 && busy == idle);
}

static size_t stack_size;

static void stack_func(struct io_wq_work **work)
{
	pthread_attr_t attr;

	(void)work;
	CHECK(pthread_getattr_np(pthread_self(), &attr) == 0);
	CHECK(pthread_attr_getstacksize(&attr, &stack_size) == 0);
	pthread_attr_destroy(&attr);
}

static void stacks_have_the_size_asked_for(void)
{
	enum { MIB = 1 << 20 };
	struct io_wq_data data = { .stack_size = 64 * MIB };
	struct io_wq *wq = io_wq_create(1, &data);
	struct io_wq_work work;

	CHECK(wq);
	INIT_IO_WORK(&work, stack_func);
	CHECK(io_wq_enqueue(wq, &work) == 0);
	io_wq_flush(wq, -1);
	io_wq_destroy(wq);
	/* C libraries count guards and the thread's own variables in or out */
	CHECK(stack_size > 63 * MIB && stack_size < 65 * MIB);
	data.stack_size = 1;
	CHECK(!io_wq_create(1, &data) && errno == EINVAL);
}

/* ---- pthread_create fails (linked with --wrap=pthread_create) */

static unsigned failures_left;
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*func)(void *),
			  void *arg)
{
	if (LOAD(failures_left)) {
		__atomic_sub_fetch(&failures_left, 1, __ATOMIC_SEQ_CST);
		return EAGAIN;
	}
	return __real_pthread_create(thread, attr, func, arg);
}

static void without_any_worker_the_caller_is_told(void)
{
	struct io_wq *wq = queue_new(4);
	struct task refused, hashed, next;

	failures_left = 2;
	CHECK(io_wq_enqueue(wq, &task_init(&refused, NULL, NULL)->work) == -EAGAIN);
	CHECK(refused.ended == 1 && refused.cancelled && refused.error == EAGAIN);
	CHECK(io_wq_enqueue_hashed(wq, &task_init(&hashed, NULL, NULL)->work, wq) == -EAGAIN);
	CHECK(hashed.ended == 1 && hashed.cancelled && hashed.error == EAGAIN);
	CHECK(io_wq_flush(wq, 0) == 0);
	CHECK(io_wq_enqueue_hashed(wq, &task_init(&next, NULL, NULL)->work, wq) == 0);
	io_wq_flush(wq, -1);
	CHECK(next.ended == 1 && !next.cancelled);
	io_wq_destroy(wq);
}

static void one_worker_is_enough(void)
{
	struct io_wq *wq = queue_new(4);
	struct task first, *tasks = tasks_new(1000, NULL, NULL);
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&first, &gate, NULL)->work);
	WAIT_UNTIL(LOAD(first.begun));
	__atomic_store_n(&failures_left, 1000000, __ATOMIC_SEQ_CST);
	for (int i = 0; i < 1000; i++)
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	for (int i = 0; i < 1000; i++)
		CHECK(tasks[i].ended == 1 && !tasks[i].cancelled);
	CHECK(queue_stats(wq).workers == 1);
	io_wq_destroy(wq);
	free(tasks);
}

/* Without a thread for the canceller, the one signal has to do. */
static void cancel_works_without_a_canceller(void)
{
	struct io_wq *wq = queue_new(1);
	struct task task;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&task, &gate, NULL)->work);
	WAIT_UNTIL(LOAD(task.begun));
	failures_left = 1;
	CHECK(io_wq_cancel_work(wq, &task.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_cancel_work(wq, &task.work) == IO_WQ_CANCEL_RUNNING);
	sem_post(&gate);
	io_wq_destroy(wq);
	CHECK(task.cancelled);
}

/* With several nodes (fake_numa.c), one without a worker hands its work over. */
static void a_node_without_workers_gives_its_works_away(void)
{
	struct io_wq *wq = queue_new(4);
	struct task first, second, hashed[2];
	sem_t gate;

	sem_init(&gate, 0, 0);
	run_on(0);
	io_wq_enqueue(wq, &task_init(&first, NULL, NULL)->work);
	io_wq_flush(wq, -1);
	__atomic_store_n(&failures_left, 1000000, __ATOMIC_SEQ_CST);
	io_wq_enqueue_hashed(wq, &task_init(&hashed[0], &gate, NULL)->work, wq);
	WAIT_UNTIL(LOAD(hashed[0].begun));
	run_on(1);
	CHECK(io_wq_enqueue(wq, &task_init(&second, NULL, NULL)->work) == 0);
	CHECK(io_wq_enqueue_hashed(wq, &task_init(&hashed[1], NULL, NULL)->work, wq) == 0);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(second.ended == 1 && !second.cancelled && hashed[1].ended == 1 && !hashed[1].cancelled);
	io_wq_destroy(wq);
}

/* The same for one kind of work; what runs says on which worker. */
struct whose {
	struct io_wq_work work;
	char name[16];
};

static void whose_func(struct io_wq_work **work)
{
	struct whose *whose = (struct whose *)*work;

	pthread_getname_np(pthread_self(), whose->name, sizeof(whose->name));
}

static struct io_wq_work *whose_init(struct whose *whose, unsigned flags)
{
	memset(whose, 0, sizeof(*whose));
	INIT_IO_WORK(&whose->work, whose_func);
	whose->work.flags = flags;
	return &whose->work;
}

static void one_worker_of_the_other_kind_is_enough(void)
{
	static const unsigned kinds[] = { 0, IO_WQ_WORK_UNBOUND };

	for (int i = 0; i < 2; i++) {
		struct io_wq *wq = queue_new(4);
		struct whose first, second, hashed;
		struct task holder;
		sem_t gate;

		sem_init(&gate, 0, 0);
		io_wq_enqueue(wq, whose_init(&first, kinds[i]));
		io_wq_flush(wq, -1);
		__atomic_store_n(&failures_left, 1000000, __ATOMIC_SEQ_CST);
		task_init(&holder, &gate, NULL)->work.flags = kinds[i];
		CHECK(io_wq_enqueue_hashed(wq, &holder.work, wq) == 0);
		CHECK(io_wq_enqueue(wq, whose_init(&second, kinds[1 - i])) == 0);
		CHECK(io_wq_enqueue_hashed(wq, whose_init(&hashed, kinds[1 - i]), wq) == 0);
		sem_post(&gate);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		CHECK(!strcmp(first.name, second.name) && !strcmp(first.name, hashed.name));
		__atomic_store_n(&failures_left, 0, __ATOMIC_SEQ_CST);
		io_wq_destroy(wq);
	}
}

static void a_node_gives_its_works_to_its_kind_first(void)
{
	struct io_wq *wq = queue_new(4);
	struct whose bounded, unbounded, other[2];

	run_on(0);
	io_wq_enqueue(wq, whose_init(&bounded, 0));
	io_wq_enqueue(wq, whose_init(&unbounded, IO_WQ_WORK_UNBOUND));
	io_wq_flush(wq, -1);
	__atomic_store_n(&failures_left, 1000000, __ATOMIC_SEQ_CST);
	run_on(1);
	io_wq_enqueue(wq, whose_init(&other[0], 0));
	io_wq_enqueue(wq, whose_init(&other[1], IO_WQ_WORK_UNBOUND));
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(!strcmp(bounded.name, other[0].name) && !strcmp(unbounded.name, other[1].name));
	io_wq_destroy(wq);
}

static int slack = -1;

static void slack_func(struct io_wq_work **work)
{
	(void)work;
	__atomic_store_n(&slack, prctl(PR_GET_TIMERSLACK), __ATOMIC_RELEASE);
}

/* Programs that a work starts inherit its thread's; the standby's is another one. The last
 * work's worker was the standby, for some ticks: it waited while the first ones ran. */
static void works_have_the_timer_slack_of_the_program(void)
{
	enum { COUNT = 20000 };
	struct io_wq *wq = queue_new(2);
	struct task *flow = tasks_new(COUNT, NULL, NULL), *task;
	struct io_wq_work work;
	sem_t gate;

	sem_init(&gate, 0, 0);
	task = tasks_new(1, &gate, NULL);
	for (unsigned i = 0; i < COUNT; i++)
		CHECK(io_wq_enqueue(wq, &flow[i].work) == 0);
	CHECK(io_wq_enqueue(wq, &task->work) == 0);
	INIT_IO_WORK(&work, slack_func);
	CHECK(io_wq_enqueue(wq, &work) == 0);
	WAIT_UNTIL(__atomic_load_n(&slack, __ATOMIC_ACQUIRE) >= 0);
	CHECK(__atomic_load_n(&slack, __ATOMIC_RELAXED) == prctl(PR_GET_TIMERSLACK));
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
	free(task);
	free(flow);
}

TEST_MAIN(TEST(announcements_nest), TEST(work_that_does_not_block_uses_few_workers), TEST(unannounced_blocking_is_noticed),
	  TEST(announced_blocking_calls_the_next_worker), TEST(idle_workers_retire_down_to_one), TEST(few_run_again_after_blocking),
	  TEST(who_was_blocked_takes_the_next_work),
	  TEST(work_that_computes_at_length_uses_few_workers),
	  TEST(short_blocking_is_noticed_after_work_that_did_not_block),
	  TEST(works_have_the_timer_slack_of_the_program),
	  TEST(hooks_are_called_in_pairs), TEST(stacks_have_the_size_asked_for),
	  TEST(without_any_worker_the_caller_is_told),
	  TEST(one_worker_is_enough), TEST(cancel_works_without_a_canceller),
	  TEST(a_node_without_workers_gives_its_works_away), TEST(one_worker_of_the_other_kind_is_enough),
	  TEST(a_node_gives_its_works_to_its_kind_first))
