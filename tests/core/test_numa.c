/* The topology, with whatever libnuma IOWQ_LIBNUMA names. */
#include "check.h"

static unsigned count_cpus(const struct io_wq_topology *topology, unsigned index)
{
	unsigned count = 0;

	for (unsigned cpu = 0; cpu < 1u << 16; cpu++)
		count += io_wq_topology_node_has_cpu(topology, index, cpu);
	return count;
}

static void covers_the_allowed_cpus(void)
{
	struct io_wq_topology *topology = io_wq_topology_create();
	unsigned count = 0;

	CHECK(topology && io_wq_topology_nodes(topology) >= 1);
	for (unsigned i = 0; i < io_wq_topology_nodes(topology); i++) {
		CHECK(count_cpus(topology, i) > 0);
		count += count_cpus(topology, i);
	}
	CHECK(count == (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
	io_wq_topology_destroy(topology);
}

/* IOWQ_LIBNUMA names a file that isn't there. */
static void without_libnuma_there_is_one_node(void)
{
	struct io_wq_topology *topology = io_wq_topology_create();
	struct io_wq *wq = queue_new(2);
	struct task task;

	CHECK(io_wq_topology_nodes(topology) == 1);
	CHECK(io_wq_topology_node_id(topology, 0) == -1);
	CHECK(io_wq_topology_node_memory(topology, 0) == -1);
	CHECK(strstr(io_wq_topology_problem(topology), "no-such-library"));
	io_wq_topology_destroy(topology);
	io_wq_enqueue(wq, &task_init(&task, NULL, NULL)->work);
	CHECK(io_wq_flush(wq, -1) == 0 && task.ended == 1);
	io_wq_destroy(wq);
}

/* IOWQ_LIBNUMA is fake_numa.c: two nodes, 0 and 3. */
static int cpus_seen[2];

static void where_func(struct io_wq_work **work)
{
	cpu_set_t cpus;

	(void)work;
	CHECK(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
	if (CPU_ISSET(0, &cpus) && CPU_COUNT(&cpus) > 1)
		return; /* not bound */
	ADD(cpus_seen[CPU_ISSET(0, &cpus) ? 0 : 1], 1); /* the second node has all others */
}

static void workers_are_bound_to_the_node_of_the_enqueuer(void)
{
	struct io_wq_topology *topology = io_wq_topology_create();
	struct io_wq *wq = queue_new(2);
	struct io_wq_work work;

	CHECK(io_wq_topology_nodes(topology) == 2 && !io_wq_topology_problem(topology));
	CHECK(io_wq_topology_node_id(topology, 0) == 0 && io_wq_topology_node_id(topology, 1) == 3);
	CHECK(io_wq_topology_node_memory(topology, 1) == 4096);
	io_wq_topology_destroy(topology);
	for (int cpu = 0; cpu < 2; cpu++) {
		run_on(cpu);
		for (int i = 0; i < 10; i++) {
			INIT_IO_WORK(&work, where_func);
			io_wq_enqueue(wq, &work);
			io_wq_flush(wq, -1);
		}
		CHECK(cpus_seen[cpu] == 10);
	}
	CHECK(queue_stats(wq).workers == 2);
	io_wq_destroy(wq);
}

/* Node 0's worker ends a key's work, the next of which is node 1's, where no
 * worker is yet: the thread that it makes must not stay on its own CPUs. */
static void a_worker_made_by_another_node_is_bound_to_its_own(void)
{
	struct io_wq *wq = queue_new(2);
	struct io_wq_work second;
	struct task first;
	sem_t gate;

	sem_init(&gate, 0, 0);
	run_on(0);
	io_wq_enqueue_hashed(wq, &task_init(&first, &gate, NULL)->work, wq);
	run_on(1);
	INIT_IO_WORK(&second, where_func);
	io_wq_enqueue_hashed(wq, &second, wq);
	sem_post(&gate);
	io_wq_flush(wq, -1);
	CHECK(cpus_seen[0] == 0 && cpus_seen[1] == 1);
	io_wq_destroy(wq);
}

static unsigned flag_of(int id)
{
	return (unsigned)(id + 1) << IO_WQ_WORK_NODE_SHIFT;
}

static void run_where(struct io_wq *wq, int id)
{
	struct io_wq_work work;

	INIT_IO_WORK(&work, where_func);
	work.flags = flag_of(id);
	CHECK(io_wq_enqueue(wq, &work) == 0 && io_wq_flush(wq, -1) == 0);
}

static void work_for_a_node_runs_there(void)
{
	struct io_wq *wq = queue_new(2);

	run_on(0);
	for (int i = 0; i < 10; i++)
		run_where(wq, 3);
	CHECK(cpus_seen[0] == 0 && cpus_seen[1] == 10);
	CHECK(node_stats(wq, 1).enqueued == 10 && node_stats(wq, 1).workers >= 1);
	CHECK(node_stats(wq, 0).enqueued == 0 && node_stats(wq, 0).workers == 0);
	io_wq_destroy(wq);
}

/* Those of a node that has no CPU any more are the other's, and its worker ends. */
static void an_affinity_may_leave_a_node_without_workers(void)
{
	const struct io_wq_data data = { .idle_timeout_ms = 20 };
	struct io_wq *wq = io_wq_create(2, &data);
	unsigned long mask = 1;

	run_where(wq, 3);
	CHECK(cpus_seen[1] == 1 && queue_stats(wq).workers == 1);
	CHECK(io_wq_cpu_affinity(wq, &mask, 1) == 0);
	run_where(wq, 3);
	CHECK(cpus_seen[0] == 1);
	WAIT_UNTIL(!node_stats(wq, 1).workers);
	CHECK(io_wq_cpu_affinity(wq, NULL, 0) == 0);
	run_where(wq, 3);
	CHECK(cpus_seen[1] == 2);
	io_wq_destroy(wq);
}

/* To its second CPU, and then all of them, as the kernel does it with a thread whose
 * CPUs have gone. */
static void stray_func(struct io_wq_work **work)
{
	unsigned long both = 3;

	(void)work;
	run_on(1);
	CHECK(sched_setaffinity(0, sizeof(both), (cpu_set_t *)&both) == 0);
}

static void a_worker_that_was_moved_returns_to_its_node(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	for (int i = 0; i < 5; i++) {
		INIT_IO_WORK(&work, stray_func);
		work.flags = flag_of(0);
		CHECK(io_wq_enqueue(wq, &work) == 0 && io_wq_flush(wq, -1) == 0);
		usleep(15000);
		run_where(wq, 0);
	}
	WAIT_UNTIL((run_where(wq, 0), cpus_seen[0] > 0));
	io_wq_destroy(wq);
}

static void respects_the_affinity(void)
{
	struct io_wq_topology *topology;

	run_on(1);
	topology = io_wq_topology_create();
	CHECK(io_wq_topology_nodes(topology) == 1 && count_cpus(topology, 0) == 1);
	CHECK(io_wq_topology_node_has_cpu(topology, 0, 1));
	io_wq_topology_destroy(topology);
}

TEST_MAIN(TEST(covers_the_allowed_cpus), TEST(without_libnuma_there_is_one_node),
	  TEST(workers_are_bound_to_the_node_of_the_enqueuer),
	  TEST(a_worker_made_by_another_node_is_bound_to_its_own),
	  TEST(work_for_a_node_runs_there), TEST(an_affinity_may_leave_a_node_without_workers),
	  TEST(a_worker_that_was_moved_returns_to_its_node), TEST(respects_the_affinity))
