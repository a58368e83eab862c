/* Unbounded work: limits of its own, workers of its own, keys in common. */
#include "check.h"

static struct task *enqueue_many(struct io_wq *wq, unsigned count, sem_t *gate, unsigned flags)
{
	struct task *tasks = tasks_new(count, gate, NULL);

	for (unsigned i = 0; i < count; i++) {
		tasks[i].work.flags = flags;
		CHECK(io_wq_enqueue(wq, &tasks[i].work) == 0);
	}
	return tasks;
}

/* Works of one kind block all of its workers, and more wait; works of the other
 * kind run, up to their own limit. */
static void blocked_work_leaves_the_other_kind_alone(unsigned blocked, unsigned other)
{
	struct io_wq_data data = { .unbounded = 3 };
	struct io_wq *wq = io_wq_create(3, &data);
	struct task *blocking, *quick, *more;
	sem_t gate;

	sem_init(&gate, 0, 0);
	blocking = enqueue_many(wq, 5, &gate, blocked);
	WAIT_UNTIL(queue_stats(wq).running == 3);
	quick = enqueue_many(wq, 100, NULL, other);
	for (int i = 0; i < 100; i++)
		WAIT_UNTIL(LOAD(quick[i].ended));
	CHECK(queue_stats(wq).pending == 2); /* the first kind's, as before */
	more = enqueue_many(wq, 5, &gate, other);
	WAIT_UNTIL(queue_stats(wq).pending == 4); /* not "running": a quick one may be ending */
	CHECK(queue_stats(wq).running == 6 && queue_stats(wq).workers == 6);
	for (int i = 0; i < 10; i++)
		sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(queue_stats(wq).workers == 6);
	io_wq_destroy(wq);
	free(blocking);
	free(quick);
	free(more);
}

static void blocked_unbounded_work_leaves_bounded_work_alone(void)
{
	blocked_work_leaves_the_other_kind_alone(IO_WQ_WORK_UNBOUND, 0);
}

static void blocked_bounded_work_leaves_unbounded_work_alone(void)
{
	blocked_work_leaves_the_other_kind_alone(0, IO_WQ_WORK_UNBOUND);
}

static void unbounded_work_has_workers_for_all(void)
{
	struct io_wq *wq = queue_new(1); /* the other limit: the default */
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = enqueue_many(wq, 50, &gate, IO_WQ_WORK_UNBOUND);
	WAIT_UNTIL(queue_stats(wq).running == 50);
	for (int i = 0; i < 50; i++)
		sem_post(&gate);
	io_wq_destroy(wq);
	free(tasks);
}

static void named_func(struct io_wq_work **work)
{
	char name[16];

	(void)work;
	pthread_getname_np(pthread_self(), name, sizeof(name));
	CHECK(!strncmp(name, "iowq-0/u", 8));
}

static void unbounded_workers_have_names_and_go_when_idle(void)
{
	struct io_wq_data data = { .idle_timeout_ms = 20 };
	struct io_wq *wq = io_wq_create(4, &data);
	struct io_wq_work work;

	for (int i = 0; i < 3; i++) {
		INIT_IO_WORK(&work, named_func);
		work.flags = IO_WQ_WORK_UNBOUND;
		CHECK(io_wq_enqueue(wq, &work) == 0);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		WAIT_UNTIL(queue_stats(wq).workers == 0);
	}
	io_wq_destroy(wq);
}

/* ---- what goes with other works stays with them */

static pthread_t ran_on[2];
static struct io_wq_work dependent;

static void dependent_func(struct io_wq_work **work)
{
	(void)work;
	ran_on[1] = pthread_self();
}

static void depended_on_func(struct io_wq_work **work)
{
	ran_on[0] = pthread_self();
	INIT_IO_WORK(&dependent, dependent_func);
	dependent.flags = IO_WQ_WORK_UNBOUND;
	*work = &dependent;
}

static void dependent_work_stays_on_its_worker(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	INIT_IO_WORK(&work, depended_on_func);
	io_wq_enqueue(wq, &work);
	io_wq_flush(wq, -1);
	CHECK(pthread_equal(ran_on[0], ran_on[1]));
	io_wq_destroy(wq);
}

enum { KEYS = 16, PER_VALUE = 500 };

struct step {
	struct io_wq_work work;
	unsigned *last; /* number of the last step of this key */
	unsigned number;
};

static void step_func(struct io_wq_work **work)
{
	struct step *step = (struct step *)*work;

	CHECK(*step->last == step->number - 1); /* no atomic: TSan proves the order */
	if (step->number % 16 == 0)
		usleep(50);
	*step->last = step->number;
}

static void a_key_is_serial_and_in_order_across_both_kinds(void)
{
	struct io_wq *wq = queue_new(8);
	struct step *steps = calloc(KEYS * PER_VALUE, sizeof(*steps));
	unsigned last[KEYS] = { 0 };

	for (unsigned i = 0; i < KEYS * PER_VALUE; i++) {
		INIT_IO_WORK(&steps[i].work, step_func);
		steps[i].work.flags = i / KEYS % 3 ? 0 : IO_WQ_WORK_UNBOUND;
		steps[i].last = &last[i % KEYS];
		steps[i].number = i / KEYS + 1;
		io_wq_enqueue_hashed(wq, &steps[i].work, steps[i].last);
	}
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	for (unsigned i = 0; i < KEYS; i++)
		CHECK(last[i] == PER_VALUE);
	io_wq_destroy(wq);
	free(steps);
}

TEST_MAIN(TEST(blocked_unbounded_work_leaves_bounded_work_alone),
	  TEST(blocked_bounded_work_leaves_unbounded_work_alone),
	  TEST(unbounded_work_has_workers_for_all),
	  TEST(unbounded_workers_have_names_and_go_when_idle),
	  TEST(dependent_work_stays_on_its_worker),
	  TEST(a_key_is_serial_and_in_order_across_both_kinds))
