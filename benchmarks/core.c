/*
 * The C core against the kernel's own io-wq, which IOSQE_ASYNC sends a request
 * to. Prints one line per measurement: name, nanoseconds per work.
 *
 *   core rate N | round-trip N | pending N BATCH | hashed N VALUES
 *   core kernel-rate N | kernel-round-trip N
 */
#define _GNU_SOURCE
#include "io_wq.h"

#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static void empty(struct io_wq_work **work)
{
	(void)work;
}

static struct io_wq_work *new_works(size_t count)
{
	struct io_wq_work *works = calloc(count, sizeof(*works));

	if (!works)
		die("calloc");
	for (size_t i = 0; i < count; i++)
		INIT_IO_WORK(&works[i], empty);
	return works;
}

static double rate(struct io_wq *wq, size_t count, size_t values)
{
	struct io_wq_work *works = new_works(count);
	double begun = now(), took;

	for (size_t i = 0; i < count; i++)
		if (values)
			io_wq_enqueue_hashed(wq, &works[i], (void *)(i % values * 64));
		else
			io_wq_enqueue(wq, &works[i]);
	io_wq_flush(wq, -1);
	took = now() - begun;
	free(works);
	return took / count;
}

static double round_trip(struct io_wq *wq, size_t count)
{
	struct io_wq_work *work = new_works(1);
	double begun = now();

	for (size_t i = 0; i < count; i++) {
		io_wq_enqueue(wq, work);
		io_wq_flush(wq, -1);
	}
	return (now() - begun) / count;
}

/* A worker that is held back while `batch` works are enqueued. */
static uint32_t gate;

static void wait_at_gate(struct io_wq_work **work)
{
	(void)work;
	while (!__atomic_load_n(&gate, __ATOMIC_ACQUIRE))
		;
}

static double pending(struct io_wq *wq, size_t count, size_t batch)
{
	struct io_wq_work *works = new_works(batch), blocker;
	double took = 0;

	for (size_t done = 0; done < count; done += batch) {
		double begun;

		__atomic_store_n(&gate, 0, __ATOMIC_RELEASE);
		INIT_IO_WORK(&blocker, wait_at_gate);
		io_wq_enqueue(wq, &blocker);
		begun = now();
		for (size_t i = 0; i < batch; i++)
			io_wq_enqueue(wq, &works[i]);
		__atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
		io_wq_flush(wq, -1);
		took += now() - begun;
	}
	free(works);
	return took / count;
}

static double kernel(size_t count, unsigned depth)
{
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	size_t submitted = 0, completed = 0;
	double begun;

	if (io_uring_queue_init(1024, &ring, 0) < 0)
		die("io_uring_queue_init");
	begun = now();
	while (completed < count) {
		unsigned head, seen = 0;

		while (submitted < count && submitted - completed < depth) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

			if (!sqe)
				break;
			io_uring_prep_nop(sqe);
			sqe->flags |= IOSQE_ASYNC;
			submitted++;
		}
		if (io_uring_submit_and_wait(&ring, 1) < 0)
			die("io_uring_submit_and_wait");
		io_uring_for_each_cqe(&ring, head, cqe)
			seen++;
		io_uring_cq_advance(&ring, seen);
		completed += seen;
	}
	begun = now() - begun;
	io_uring_queue_exit(&ring);
	return begun / count;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	size_t count = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	size_t more = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
	struct io_wq *wq = io_wq_create(4, NULL);
	double ns;

	if (!wq)
		die("io_wq_create");
	rate(wq, 1000, 0); /* the first worker is there */
	if (!strcmp(what, "rate"))
		ns = rate(wq, count, 0);
	else if (!strcmp(what, "hashed"))
		ns = rate(wq, count, more);
	else if (!strcmp(what, "round-trip"))
		ns = round_trip(wq, count);
	else if (!strcmp(what, "pending"))
		ns = pending(wq, count, more);
	else if (!strcmp(what, "kernel-rate"))
		ns = kernel(count, 1024);
	else if (!strcmp(what, "kernel-round-trip"))
		ns = kernel(count, 1);
	else
		return 2;
	printf("%s %.1f\n", what, ns);
	io_wq_destroy(wq);
	return 0;
}
