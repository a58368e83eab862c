/* What the tests of the core share. A test is a function in the table of its
 * file; each waits for conditions with a deadline, none sleeps and hopes. */
#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE
#include "io_wq.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s: failed\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

/* Seconds; sanitizers and valgrind on a busy machine are slow. */
#ifndef DEADLINE
#define DEADLINE 60
#endif

#define WAIT_UNTIL(condition) \
	do { \
		long long give_up = check_now_ms() + DEADLINE * 1000; \
		while (!(condition)) { \
			CHECK(check_now_ms() < give_up && #condition); \
			usleep(200); \
		} \
	} while (0)

#define LOAD(variable) __atomic_load_n(&(variable), __ATOMIC_SEQ_CST)
#define ADD(variable, n) __atomic_add_fetch(&(variable), n, __ATOMIC_SEQ_CST)

static inline void judge_this_program(enum io_wq_caller caller)
{
	CHECK(io_wq_judge_caller("test", caller) == 0);
}

/* Keeps the calling thread on one CPU, and so on one of fake_numa.c's nodes. */
static inline void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	CHECK(sched_setaffinity(0, sizeof(cpus), &cpus) == 0);
}

static inline long long check_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* For so long, of its own time on a processor. */
static inline void compute(long long us)
{
	struct timespec used;
	long long end = 0;

	do {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
		if (!end)
			end = used.tv_sec * 1000000000LL + used.tv_nsec + us * 1000;
	} while (used.tv_sec * 1000000000LL + used.tv_nsec < end);
}

static inline void *check_nothing(void *arg)
{
	return arg;
}

/* Threads of this process; with the first one made come a sanitizer's own. */
static inline unsigned check_threads(void)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned count = 0;

	pthread_t thread;

	CHECK(tasks && pthread_create(&thread, NULL, check_nothing, NULL) == 0);
	pthread_join(thread, NULL);
	for (struct dirent *entry; (entry = readdir(tasks));)
		count += entry->d_name[0] != '.';
	closedir(tasks);
	return count;
}

/* A work that counts, keeps order, and can be held back by a gate. */
struct task {
	struct io_wq_work work;
	sem_t *gate;         /* func waits here, unless NULL or cancelled */
	unsigned *counter;   /* counts funcs begun */
	unsigned begun;      /* the counter's value when this func began; 0: not yet */
	unsigned ended;
	unsigned cancelled;
	int error;
};

static inline void task_func(struct io_wq_work **work)
{
	struct task *task = (struct task *)*work;

	__atomic_store_n(&task->begun, task->counter ? ADD(*task->counter, 1) : 1, __ATOMIC_SEQ_CST);
	task->error = task->work.error;
	if (task->gate && !task->work.error)
		while (sem_wait(task->gate))
			CHECK(errno == EINTR);
	task->cancelled = io_wq_work_cancelled(&task->work);
	ADD(task->ended, 1);
}

static inline struct task *task_init(struct task *task, sem_t *gate, unsigned *counter)
{
	memset(task, 0, sizeof(*task));
	INIT_IO_WORK(&task->work, task_func);
	task->gate = gate;
	task->counter = counter;
	return task;
}

static inline struct task *tasks_new(unsigned count, sem_t *gate, unsigned *counter)
{
	struct task *tasks = calloc(count, sizeof(*tasks));

	CHECK(tasks);
	for (unsigned i = 0; i < count; i++)
		task_init(&tasks[i], gate, counter);
	return tasks;
}

static inline struct io_wq *queue_new(unsigned concurrency)
{
	struct io_wq *wq = io_wq_create(concurrency, NULL);

	CHECK(wq);
	return wq;
}

static inline struct io_wq_stats queue_stats(struct io_wq *wq)
{
	struct io_wq_stats stats;

	io_wq_get_stats(wq, &stats);
	return stats;
}

enum { NODES_MAX = 64 };

static inline struct io_wq_stats node_stats(struct io_wq *wq, unsigned node)
{
	struct io_wq_stats total, nodes[NODES_MAX];

	CHECK(io_wq_topology_nodes(io_wq_get_topology(wq)) <= NODES_MAX);
	io_wq_get_node_stats(wq, &total, nodes);
	return nodes[node];
}

struct test {
	const char *name;
	void (*run)(void);
};

#define TEST(name) { #name, name }

/* Runs the test named on the command line, or lists the tests' names. */
#define TEST_MAIN(...) \
	int main(int argc, char **argv) \
	{ \
		static const struct test tests[] = { __VA_ARGS__ }; \
		for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) { \
			if (argc < 2) \
				puts(tests[i].name); \
			else if (!strcmp(argv[1], tests[i].name)) \
				return tests[i].run(), 0; \
		} \
		return argc < 2 ? 0 : 2; \
	}

#endif
