/* After fork the child leaves the parent's queue alone, and can make its own. */
#include "check.h"
#include <sys/wait.h>

/* A thread that begins allocates memory. gcc's AddressSanitizer leaves its allocator's
 * lock as it is in the child, which may wait for it for ever; malloc doesn't. */
#ifdef __SANITIZE_ADDRESS__
enum { ALLOCATOR_FORGETS_FORK = true };
#else
enum { ALLOCATOR_FORGETS_FORK = false };
#endif

static void wait_for_child(pid_t child)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Returns when no other worker can begin. */
static void begin_workers(struct io_wq *wq, unsigned count)
{
	struct task *tasks;
	unsigned begun = 0;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = tasks_new(count, &gate, &begun);
	for (unsigned i = 0; i < count; i++)
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	WAIT_UNTIL(LOAD(begun) == count);
	for (unsigned i = 0; i < count; i++)
		sem_post(&gate);
	CHECK(io_wq_flush(wq, -1) == 0);
	free(tasks);
}

static void the_child_starts_anew(void)
{
	struct io_wq *wq = queue_new(4);
	struct task *tasks = tasks_new(5000, NULL, NULL);
	struct task own;
	unsigned limits[2] = { 1, 1 };

	if (ALLOCATOR_FORGETS_FORK)
		begin_workers(wq, 4);
	for (int i = 0; i < 5000; i++) {
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
		if (i % 500 == 250) { /* the lock is as likely held as not */
			pid_t child = fork();

			if (child == 0) {
				alarm(DEADLINE);
				CHECK(io_wq_enqueue(wq, &task_init(&own, NULL, NULL)->work) == -ESHUTDOWN);
				CHECK(io_wq_flush(wq, -1) == 0);
				CHECK(io_wq_cancel_work(wq, &tasks[i].work) == IO_WQ_CANCEL_NOTFOUND);
				io_wq_cancel_all(wq);
				io_wq_cancel_pending(wq);
				CHECK(io_wq_max_workers(wq, limits) == -ESHUTDOWN);
				CHECK(queue_stats(wq).workers == 0);
				io_wq_destroy(wq);
				wq = queue_new(2);
				CHECK(io_wq_enqueue(wq, &task_init(&own, NULL, NULL)->work) == 0);
				CHECK(io_wq_flush(wq, -1) == 0 && own.ended == 1);
				io_wq_destroy(wq);
				_exit(0);
			}
			wait_for_child(child);
		}
	}
	CHECK(io_wq_flush(wq, -1) == 0);
	for (int i = 0; i < 5000; i++)
		CHECK(tasks[i].ended == 1 && !tasks[i].cancelled);
	io_wq_destroy(wq);
	free(tasks);
}

/* A signal's handler may fork while its thread waits in a flush. */
static void a_flush_ends_in_the_child(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_flush flush;
	struct task task;
	pid_t child;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&task, &gate, NULL)->work);
	CHECK(io_wq_flush_start(wq, &flush) == 0);
	child = fork();
	if (child == 0) {
		alarm(DEADLINE);
		CHECK(io_wq_flush_wait(&flush, -1) == 0);
		io_wq_flush_end(&flush);
		_exit(0);
	}
	wait_for_child(child);
	CHECK(io_wq_flush_wait(&flush, 0) == -ETIMEDOUT);
	sem_post(&gate);
	CHECK(io_wq_flush_wait(&flush, -1) == 0);
	io_wq_flush_end(&flush);
	io_wq_destroy(wq);
}

static pid_t forked;

static void forking_func(struct io_wq_work **work)
{
	(void)work;
	forked = fork();
	if (forked == 0)
		alarm(DEADLINE);
}

/* In the child, the worker's thread is the only one; it ends, and the process. */
static void a_work_that_forks_ends_in_the_child(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	INIT_IO_WORK(&work, forking_func);
	io_wq_enqueue(wq, &work);
	io_wq_flush(wq, -1);
	CHECK(forked > 0);
	wait_for_child(forked);
	io_wq_destroy(wq);
}

static unsigned made_enough;

static void *make_topologies(void *arg)
{
	while (!LOAD(made_enough))
		io_wq_topology_destroy(io_wq_topology_create());
	return arg;
}

/* Without any queue, and while another thread makes one. */
static void a_child_can_make_a_topology(void)
{
	pthread_t maker;

	CHECK(pthread_create(&maker, NULL, make_topologies, NULL) == 0);
	for (int i = 0; i < (ALLOCATOR_FORGETS_FORK ? 0 : 200); i++) {
		pid_t child = fork();

		if (child == 0) {
			alarm(DEADLINE);
			io_wq_topology_destroy(io_wq_topology_create());
			_exit(0);
		}
		wait_for_child(child);
	}
	ADD(made_enough, 1);
	pthread_join(maker, NULL);
}

static unsigned is_making;

/* It doesn't end before it may: musl's fork and its pthread_exit wait for each other. */
static void *make_first_topology(void *may_end)
{
	ADD(is_making, 1);
	io_wq_topology_destroy(io_wq_topology_create());
	while (sem_wait(may_end))
		;
	return may_end;
}

/* In a process that has none yet: another thread makes the first, and loads libnuma. */
static void fork_while_the_first_is_made(int turns)
{
	pthread_t maker;
	pid_t child;
	sem_t may_end;

	sem_init(&may_end, 0, 0);
	CHECK(pthread_create(&maker, NULL, make_first_topology, &may_end) == 0);
	while (!LOAD(is_making) || turns-- > 0)
		;
	child = fork();
	if (child == 0) {
		alarm(DEADLINE);
		io_wq_topology_destroy(io_wq_topology_create());
		_exit(0);
	}
	wait_for_child(child);
	sem_post(&may_end);
	pthread_join(maker, NULL);
}

static void a_child_is_not_left_with_half_a_library(void)
{
	for (int i = 0; i < (ALLOCATOR_FORGETS_FORK ? 0 : 200); i++) {
		pid_t child = fork();

		if (child == 0) {
			fork_while_the_first_is_made(i * 100);
			_exit(0);
		}
		wait_for_child(child);
	}
}

TEST_MAIN(TEST(the_child_starts_anew), TEST(a_flush_ends_in_the_child), TEST(a_work_that_forks_ends_in_the_child), TEST(a_child_can_make_a_topology),
	  TEST(a_child_is_not_left_with_half_a_library))
