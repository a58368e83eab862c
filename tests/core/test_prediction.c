/* Works that block too shortly for a tick to notice: those before them tell. */
#include "check.h"

/* What a work does after it has looked whether it is taken for blocked. */
enum kind { SLEEPS, COMPUTES, COMPUTES_AND_SLEEPS, RETURNS };

struct probe {
	struct io_wq_work work;
	struct io_wq *wq;
	enum kind kind;
	bool expected; /* to block, from the start */
};

static void nap(void)
{
	const struct timespec time = { .tv_nsec = 70000 };

	nanosleep(&time, NULL);
}

/* All that run are blocked: so is this one. */
static void probe_func(struct io_wq_work **work)
{
	struct probe *probe = (struct probe *)*work;
	struct io_wq_stats stats = queue_stats(probe->wq);

	probe->expected = stats.blocked == stats.running;
	if (probe->kind == COMPUTES || probe->kind == COMPUTES_AND_SLEEPS)
		compute(probe->kind == COMPUTES ? 100 : 2000);
	if (probe->kind == SLEEPS || probe->kind == COMPUTES_AND_SLEEPS)
		nap();
}

static struct probe *probes_enqueue(struct io_wq *wq, unsigned count, enum kind kind)
{
	struct probe *probes = calloc(count, sizeof(*probes));

	CHECK(probes);
	for (unsigned i = 0; i < count; i++) {
		probes[i].wq = wq;
		probes[i].kind = kind;
		INIT_IO_WORK(&probes[i].work, probe_func);
		CHECK(io_wq_enqueue(wq, &probes[i].work) == 0);
	}
	return probes;
}

static unsigned expected(const struct probe *probes, unsigned count)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < count; i++)
		sum += probes[i].expected;
	return sum;
}

static void works_like_those_that_slept_are_taken_for_blocked(void)
{
	enum { COUNT = 2000 };
	struct io_wq *wq = queue_new(16);
	struct probe *probes = probes_enqueue(wq, COUNT, SLEEPS);

	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(expected(probes, COUNT) > COUNT / 2);
	io_wq_destroy(wq);
	free(probes);
}

/* Also after works that blocked; what a tick takes for blocked is one of them at times. */
static void works_that_compute_are_not(void)
{
	enum { SLEEPING = 1000, COUNT = 2000, LAST = COUNT / 2 };
	struct io_wq *wq = queue_new(16);
	struct probe *sleeping = probes_enqueue(wq, SLEEPING, SLEEPS);
	struct probe *computing = probes_enqueue(wq, COUNT, COMPUTES);
	struct probe *empty;

	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(expected(computing + COUNT - LAST, LAST) < LAST / 4);
	free(sleeping);
	sleeping = probes_enqueue(wq, SLEEPING, SLEEPS);
	empty = probes_enqueue(wq, COUNT, RETURNS);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(expected(empty + COUNT - LAST, LAST) < LAST / 4);
	io_wq_destroy(wq);
	free(sleeping);
	free(computing);
	free(empty);
}

/* As Python's loops, which lose the interpreter's lock now and then. */
static void works_that_sleep_seldom_are_not(void)
{
	enum { COUNT = 400 };
	struct io_wq *wq = queue_new(16);
	struct probe *probes = probes_enqueue(wq, COUNT, COMPUTES_AND_SLEEPS);

	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(expected(probes, COUNT) < COUNT / 4);
	io_wq_destroy(wq);
	free(probes);
}

TEST_MAIN(TEST(works_like_those_that_slept_are_taken_for_blocked), TEST(works_that_compute_are_not),
	  TEST(works_that_sleep_seldom_are_not))
