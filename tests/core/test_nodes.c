/*
 * Pools and nodes, on whatever nodes the kernel has: tests/test_numa.py runs this where
 * it has several, and says how many by IOWQ_NODES; and by IOWQ_HOTPLUG that CPUs may
 * be taken offline. What is true is asked of the kernel: getcpu, move_pages.
 */
#include "check.h"
#include "core/internal.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { HUGE = 2 << 20, NODES = 16, CPUS = 64 };

static struct io_wq_topology *machine;

static unsigned nr_nodes(void)
{
	if (!machine)
		machine = io_wq_topology_create();
	CHECK(machine);
	return io_wq_topology_nodes(machine);
}

static int id_of(unsigned index)
{
	int id = io_wq_topology_node_id(machine, index);

	return id < 0 ? 0 : id; /* no libnuma: one node, whatever the machine has */
}

static int cpu_of(unsigned index)
{
	for (unsigned cpu = 0; cpu < CPUS; cpu++)
		if (io_wq_topology_node_has_cpu(machine, index, cpu))
			return (int)cpu;
	CHECK(!"a node without CPUs has a pool");
	return -1;
}

static int here(void)
{
	unsigned node = UINT_MAX;

	CHECK(syscall(SYS_getcpu, NULL, &node, NULL) == 0);
	return (int)node;
}

/* The node of the page at an address, which has been touched; < 0: an error. */
static int node_of_page(void *address)
{
	void *page = (void *)((uintptr_t)address & -(uintptr_t)sysconf(_SC_PAGESIZE));
	int status = -1;

	if (syscall(SYS_move_pages, 0, 1ul, &page, NULL, &status, 0))
		return -errno;
	return status;
}

/* A work that notes where it runs. */
struct probe {
	struct io_wq_work work;
	void *memory;       /* first touched by the work, unless NULL */
	int ran_on;
	int stack, own, tls; /* the nodes of its worker's stack, struct, and variables */
	unsigned *serial;   /* of its key: works run, and whether one runs */
	unsigned *running;
	unsigned number;
	unsigned ended;
};

static unsigned ended; /* probes */

static void probe_func(struct io_wq_work **work)
{
	struct probe *probe = (struct probe *)*work;

	probe->ran_on = here();
	probe->stack = node_of_page(&probe);
	probe->own = node_of_page(io_wq_current_worker);
	probe->tls = node_of_page(&errno);
	if (probe->memory)
		memset(probe->memory, 1, HUGE);
	if (probe->serial) {
		CHECK(ADD(*probe->running, 1) == 1);
		CHECK(probe->number == (*probe->serial)++);
		ADD(*probe->running, -1);
	}
	ADD(probe->ended, 1);
	ADD(ended, 1);
}

static void light_func(struct io_wq_work **work)
{
	struct probe *probe = (struct probe *)*work;

	probe->ran_on = here();
	ADD(probe->ended, 1);
	ADD(ended, 1);
}

static unsigned flag_of(unsigned index)
{
	int id = io_wq_topology_node_id(machine, index);

	return id < 0 ? 0 : (unsigned)(id + 1) << IO_WQ_WORK_NODE_SHIFT;
}

static struct probe *probe_init(struct probe *probe, unsigned flags)
{
	memset(probe, 0, sizeof(*probe));
	INIT_IO_WORK(&probe->work, probe_func);
	probe->work.flags = flags;
	probe->ran_on = -1;
	return probe;
}

/* Runs one on that node, and returns where it was. */
static int ran_on(struct io_wq *wq, unsigned index)
{
	struct probe probe;

	probe_init(&probe, flag_of(index))->work.func = light_func;
	CHECK(io_wq_enqueue(wq, &probe.work) == 0);
	CHECK(io_wq_flush(wq, -1) == 0 && LOAD(probe.ended) == 1);
	return probe.ran_on;
}

static void the_nodes_are_as_many_as_expected(void)
{
	const char *expected = getenv("IOWQ_NODES");

	CHECK(nr_nodes() == (expected ? (unsigned)atoi(expected) : nr_nodes()));
	for (unsigned from = 0; from < nr_nodes(); from++)
		for (unsigned to = 0; to < nr_nodes(); to++) {
			int distance = io_wq_topology_distance(machine, from, to);

			CHECK(from == to ? distance == 10 : distance > 10);
		}
}

static void work_runs_on_the_node_it_is_for(void)
{
	struct io_wq *wq = queue_new(4);
	struct probe probes[20];

	for (unsigned node = 0; node < nr_nodes(); node++) {
		for (unsigned i = 0; i < 20; i++) {
			unsigned kind = i % 2 ? IO_WQ_WORK_UNBOUND : 0;

			CHECK(!io_wq_enqueue(wq, &probe_init(&probes[i], flag_of(node) | kind)->work));
		}
		CHECK(io_wq_flush(wq, -1) == 0);
		for (unsigned i = 0; i < 20; i++)
			CHECK(probes[i].ran_on == id_of(node));
		CHECK(node_stats(wq, node).enqueued == 20 && node_stats(wq, node).finished == 20);
	}
	CHECK(queue_stats(wq).enqueued == 20 * nr_nodes());
	io_wq_destroy(wq);
}

static void work_runs_on_the_node_it_was_enqueued_on(void)
{
	struct io_wq *wq = queue_new(4);
	struct probe probe;

	for (unsigned i = 0; i < 3 * nr_nodes(); i++) {
		unsigned node = i % nr_nodes();

		run_on(cpu_of(node));
		CHECK(here() == id_of(node));
		CHECK(io_wq_enqueue(wq, &probe_init(&probe, 0)->work) == 0);
		CHECK(io_wq_flush(wq, -1) == 0 && probe.ran_on == id_of(node));
	}
	io_wq_destroy(wq);
}

static void a_node_without_a_pool_is_an_error(void)
{
	struct io_wq *wq = queue_new(1);
	struct probe probe;

	CHECK(io_wq_enqueue(wq, &probe_init(&probe, 1000u << IO_WQ_WORK_NODE_SHIFT)->work) == -EINVAL);
	CHECK(probe.work.flags == 1000u << IO_WQ_WORK_NODE_SHIFT && queue_stats(wq).enqueued == 0);
	io_wq_destroy(wq);
}

static void memory_is_on_the_node(void)
{
	struct io_wq *wq = queue_new(4);
	struct probe probe;
	char *memory;

	for (unsigned node = 0; node < nr_nodes(); node++) {
		bool has_memory = io_wq_topology_node_memory(machine, node) > 0;

		probe_init(&probe, flag_of(node));
		memory = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(memory != MAP_FAILED);
		probe.memory = (void *)(((uintptr_t)memory + HUGE - 1) & -(uintptr_t)HUGE);
		CHECK(io_wq_enqueue(wq, &probe.work) == 0 && io_wq_flush(wq, -1) == 0);
		for (unsigned i = 0; has_memory && i < HUGE; i += HUGE / 8)
			CHECK(node_of_page((char *)probe.memory + i) == id_of(node));
		CHECK(node_of_page(probe.memory) >= 0);
		munmap(memory, 2 * HUGE);
	}
	io_wq_destroy(wq);
}

/* The threads are made by this one, on the first node. */
static void what_is_a_workers_own_is_on_its_node(void)
{
	struct io_wq *wq = queue_new(4);
	struct probe probe;

	run_on(cpu_of((nr_nodes(), 0)));
	for (unsigned node = 0; node < nr_nodes(); node++) {
		CHECK(io_wq_enqueue(wq, &probe_init(&probe, flag_of(node))->work) == 0);
		CHECK(io_wq_flush(wq, -1) == 0);
		if (nr_nodes() == 1 || io_wq_topology_node_memory(machine, node) <= 0)
			continue;
		CHECK(probe.own == id_of(node));
		CHECK(probe.stack == id_of(node));
		CHECK(probe.tls == id_of(node));
	}
	io_wq_destroy(wq);
}

/* ---- under load */

enum { KEYS = 4, PER_VALUE = 400 };

struct producer {
	pthread_t thread;
	struct io_wq *wq;
	unsigned node;
	struct probe *probes;
	unsigned serial, running; /* of its key */
};

/* All works of a key by one thread, which goes from node to node. */
static void *produce_hashed(void *arg)
{
	struct producer *producer = arg;

	for (unsigned i = 0; i < PER_VALUE; i++) {
		struct probe *probe = &producer->probes[i];
		unsigned node = (i + producer->node) % nr_nodes();

		probe_init(probe, i % 3 ? flag_of(node) : 0);
		if (i % 3 == 0 && i % 8 == 0)
			run_on(cpu_of(node));
		probe->serial = &producer->serial;
		probe->running = &producer->running;
		probe->number = i;
		CHECK(io_wq_enqueue_hashed(producer->wq, &probe->work, producer) == 0);
	}
	return NULL;
}

static void a_key_is_in_order_across_nodes_under_load(void)
{
	struct io_wq *wq = queue_new(4);
	struct producer producers[KEYS] = { 0 };

	nr_nodes();
	for (unsigned i = 0; i < KEYS; i++) {
		producers[i] = (struct producer){ .wq = wq, .node = i };
		producers[i].probes = calloc(PER_VALUE, sizeof(struct probe));
		CHECK(!pthread_create(&producers[i].thread, NULL, produce_hashed, &producers[i]));
	}
	for (unsigned i = 0; i < KEYS; i++)
		pthread_join(producers[i].thread, NULL);
	CHECK(io_wq_flush(wq, -1) == 0);
	for (unsigned i = 0; i < KEYS; i++) {
		CHECK(producers[i].serial == PER_VALUE);
		free(producers[i].probes);
	}
	io_wq_destroy(wq);
}

/* A steady flow to all nodes, in rounds, until told to stop. */
static unsigned stop;

static void *produce(void *arg)
{
	struct producer *producer = arg;
	unsigned rounds = 0;

	while (!LOAD(stop)) {
		for (unsigned i = 0; i < 200; i++) {
			struct probe *probe = &producer->probes[i];

			probe_init(probe, i % 4 ? flag_of(i % nr_nodes()) : 0)->work.func = light_func;
			CHECK((i % 3 ? io_wq_enqueue(producer->wq, &probe->work) :
				       io_wq_enqueue_hashed(producer->wq, &probe->work, producer)) == 0);
		}
		CHECK(io_wq_flush(producer->wq, 60000) == 0); /* stuck otherwise */
		for (unsigned i = 0; i < 200; i++)
			CHECK(producer->probes[i].ended == 1 && producer->probes[i].ran_on >= 0);
		ADD(rounds, 1);
		producer->serial = rounds;
	}
	return NULL;
}

static void begin_flow(struct io_wq *wq, struct producer *producers, unsigned count)
{
	nr_nodes();
	for (unsigned i = 0; i < count; i++) {
		producers[i] = (struct producer){ .wq = wq, .node = i };
		producers[i].probes = calloc(200, sizeof(struct probe));
		CHECK(!pthread_create(&producers[i].thread, NULL, produce, &producers[i]));
	}
}

static void end_flow(struct producer *producers, unsigned count)
{
	ADD(stop, 1);
	for (unsigned i = 0; i < count; i++) {
		pthread_join(producers[i].thread, NULL);
		CHECK(producers[i].serial > 0);
		free(producers[i].probes);
	}
}

static unsigned long mask_of(unsigned index)
{
	unsigned long mask = 0;

	for (unsigned cpu = 0; cpu < CPUS; cpu++)
		mask |= (unsigned long)io_wq_topology_node_has_cpu(machine, index, cpu) << cpu;
	return mask;
}

static void affinity_changes_lose_nothing(void)
{
	struct io_wq *wq = queue_new(4);
	struct producer producers[2];
	unsigned long mask;

	begin_flow(wq, producers, 2);
	for (unsigned i = 0; i < 60; i++) {
		mask = mask_of(i % nr_nodes());
		CHECK(io_wq_cpu_affinity(wq, i % 4 ? &mask : NULL, 1) == 0);
		usleep(1000);
	}
	end_flow(producers, 2);
	for (unsigned node = 0; node < nr_nodes(); node++) {
		mask = mask_of(node);
		CHECK(io_wq_cpu_affinity(wq, &mask, 1) == 0);
		for (unsigned other = 0; other < nr_nodes(); other++)
			CHECK(ran_on(wq, other) == id_of(node));
	}
	CHECK(io_wq_cpu_affinity(wq, NULL, 0) == 0);
	for (unsigned node = 0; node < nr_nodes(); node++)
		CHECK(ran_on(wq, node) == id_of(node));
	mask = 0;
	CHECK(io_wq_cpu_affinity(wq, &mask, 1) == -EINVAL);
	io_wq_destroy(wq);
}

static unsigned long mask_of_thread(int tid)
{
	cpu_set_t set;
	unsigned long mask = 0;

	CHECK(sched_getaffinity(tid, sizeof(set), &set) == 0);
	for (int cpu = 0; cpu < CPUS; cpu++)
		mask |= CPU_ISSET(cpu, &set) ? 1ul << cpu : 0;
	return mask;
}

static int tid_of_blocked;

static void block_func(struct io_wq_work **work)
{
	tid_of_blocked = (int)syscall(SYS_gettid);
	task_func(work);
}

/* Which CPUs doesn't matter: one is enough. */
static void a_running_worker_is_moved(void)
{
	struct io_wq *wq = queue_new(1);
	struct task task;
	sem_t gate;
	unsigned long mask = (nr_nodes(), 1ul << cpu_of(nr_nodes() - 1));

	sem_init(&gate, 0, 0);
	task_init(&task, &gate, NULL)->work.func = block_func;
	CHECK(io_wq_enqueue(wq, &task.work) == 0);
	WAIT_UNTIL(LOAD(task.begun));
	CHECK(io_wq_cpu_affinity(wq, &mask, 1) == 0);
	CHECK(mask_of_thread(tid_of_blocked) == mask);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, -1) == 0);
	io_wq_destroy(wq);
}

/* What taskset does; a worker that it moves to another node stays there. */
static void what_others_bind_a_worker_to_is_kept(void)
{
	unsigned last = nr_nodes() - 1;
	struct io_wq *wq;
	struct task task;
	sem_t gate;
	cpu_set_t set;

	if (last == 0)
		return;
	wq = queue_new(1);
	sem_init(&gate, 0, 0);
	task_init(&task, &gate, NULL)->work.func = block_func;
	task.work.flags = flag_of(last);
	CHECK(io_wq_enqueue(wq, &task.work) == 0);
	WAIT_UNTIL(LOAD(task.begun));
	CPU_ZERO(&set);
	CPU_SET(cpu_of(0), &set);
	CHECK(sched_setaffinity(tid_of_blocked, sizeof(set), &set) == 0);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, -1) == 0);
	for (unsigned i = 0; i < 5; i++, usleep(12000))
		CHECK(ran_on(wq, last) == id_of(0));
	for (unsigned node = 0; node < nr_nodes(); node++)
		CPU_SET(cpu_of(node), &set); /* as the kernel does, when CPUs go offline */
	CHECK(sched_setaffinity(tid_of_blocked, sizeof(set), &set) == 0);
	WAIT_UNTIL(ran_on(wq, last) == id_of(last) && mask_of_thread(tid_of_blocked) == mask_of(last));
	io_wq_destroy(wq);
}

/* ---- hotplug: the guest's kernel only */

static bool may_hotplug(void)
{
	return getenv("IOWQ_HOTPLUG") != NULL;
}

static void set_online(unsigned cpu, bool online)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
	fd = open(path, O_WRONLY);
	CHECK(fd >= 0 && write(fd, online ? "1" : "0", 1) == 1);
	close(fd);
}

static void set_node_online(unsigned index, bool online)
{
	for (unsigned cpu = 1; cpu < CPUS; cpu++) /* the first can't go */
		if (io_wq_topology_node_has_cpu(machine, index, cpu))
			set_online(cpu, online);
}

static void cpus_that_go_and_come_back_lose_nothing(void)
{
	unsigned last = nr_nodes() - 1;
	struct producer producers[2];
	struct io_wq *wq;

	if (!may_hotplug())
		return;
	wq = queue_new(4);
	begin_flow(wq, producers, 2);
	for (unsigned i = 0; i < 4; i++) {
		set_node_online(last, false);
		usleep(20000);
		if (last)
			CHECK(ran_on(wq, last) != id_of(last));
		set_node_online(last, true);
		usleep(20000);
	}
	end_flow(producers, 2);
	WAIT_UNTIL(ran_on(wq, last) == id_of(last));
	for (unsigned i = 0; i < 20; i++)
		CHECK(ran_on(wq, last) == id_of(last));
	io_wq_destroy(wq);
}

/* The queue has no pool for it; its works are the nearest node's. */
static void a_node_that_comes_later_has_its_works_run(void)
{
	unsigned last = nr_nodes() - 1;
	int cpu = cpu_of(last), id = id_of(last);
	struct io_wq *wq;
	struct probe probe;

	if (!may_hotplug() || !last)
		return;
	set_node_online(last, false);
	wq = queue_new(2);
	CHECK(io_wq_topology_nodes(io_wq_get_topology(wq)) == last);
	set_node_online(last, true);
	run_on(cpu);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(here() == id);
		CHECK(io_wq_enqueue(wq, &probe_init(&probe, 0)->work) == 0);
		CHECK(io_wq_flush(wq, -1) == 0 && probe.ran_on >= 0);
		CHECK(last == 1 || probe.ran_on != id); /* with one node nothing is bound */
	}
	io_wq_destroy(wq);
	wq = queue_new(2); /* a new one has it */
	CHECK(io_wq_enqueue(wq, &probe_init(&probe, 0)->work) == 0);
	CHECK(io_wq_flush(wq, -1) == 0);
	io_wq_destroy(wq);
}

TEST_MAIN(TEST(the_nodes_are_as_many_as_expected), TEST(work_runs_on_the_node_it_is_for),
	  TEST(work_runs_on_the_node_it_was_enqueued_on), TEST(a_node_without_a_pool_is_an_error),
	  TEST(memory_is_on_the_node), TEST(what_is_a_workers_own_is_on_its_node),
	  TEST(a_key_is_in_order_across_nodes_under_load), TEST(affinity_changes_lose_nothing),
	  TEST(a_running_worker_is_moved), TEST(what_others_bind_a_worker_to_is_kept),
	  TEST(cpus_that_go_and_come_back_lose_nothing),
	  TEST(a_node_that_comes_later_has_its_works_run))
