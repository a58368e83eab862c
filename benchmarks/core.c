/*
 * The C core against the kernel's own io-wq, which IOSQE_ASYNC sends a request
 * to. Prints one line per measurement: its name, and nanoseconds per work, or for
 * writes the threads that did them.
 *
 *   core rate N | round-trip N | pending N BATCH | hashed N VALUES | writes N
 *   core kernel-rate N | kernel-round-trip N | kernel-writes N | kernel-reads N FILE
 */
#define _GNU_SOURCE
#include "io_wq.h"

#include <dirent.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 1024 }; /* requests at a time, of the kernel */

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

/* ---- the kernel's */

typedef void prepare_fn(struct io_uring_sqe *sqe, size_t number);
typedef void look_fn(void);

static void prepare_nop(struct io_uring_sqe *sqe, size_t number)
{
	(void)number;
	io_uring_prep_nop(sqe);
	sqe->flags |= IOSQE_ASYNC;
}

static void submit_all(struct io_uring *ring, size_t count, unsigned depth, prepare_fn *prepare,
		       look_fn *look)
{
	size_t submitted = 0, completed = 0;

	while (completed < count) {
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;

		while (submitted < count && submitted - completed < depth) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

			if (!sqe)
				break;
			prepare(sqe, submitted++);
		}
		if (io_uring_submit_and_wait(ring, 1) < 0)
			die("io_uring_submit_and_wait");
		io_uring_for_each_cqe(ring, head, cqe)
			seen++;
		io_uring_cq_advance(ring, seen);
		completed += seen;
		if (look)
			look();
	}
}

static double kernel(size_t count, unsigned depth)
{
	struct io_uring ring;
	double begun;

	if (io_uring_queue_init(DEPTH, &ring, 0) < 0)
		die("io_uring_queue_init");
	begun = now();
	submit_all(&ring, count, depth, prepare_nop, NULL);
	begun = now() - begun;
	io_uring_queue_exit(&ring);
	return begun / count;
}

/* ---- buffered writes, in turn to each of FILES, by at most WORKERS */

enum { FILES = 64, WORKERS = 256, BLOCK = 4096 };
static int files[FILES];
static const char block[BLOCK];
static unsigned most_threads;

static void open_files(void)
{
	for (int i = 0; i < FILES; i++) {
		files[i] = open("/var/tmp", O_TMPFILE | O_WRONLY | O_APPEND, 0600);
		if (files[i] < 0)
			die("/var/tmp");
	}
}

static void count_threads(void)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned count = 0;

	if (!tasks)
		die("/proc/self/task");
	for (struct dirent *entry; (entry = readdir(tasks));)
		count += entry->d_name[0] != '.';
	closedir(tasks);
	if (count - 1 > most_threads) /* all but the main one */
		most_threads = count - 1;
}

struct write_work {
	struct io_wq_work work;
	int file;
};

static void write_block(struct io_wq_work **work)
{
	if (write(((struct write_work *)*work)->file, block, BLOCK) != BLOCK)
		die("write");
}

static unsigned writes(size_t count)
{
	struct write_work *works = calloc(count, sizeof(*works));
	struct io_wq *wq = io_wq_create(WORKERS, NULL);

	if (!works || !wq)
		die("io_wq_create");
	open_files();
	for (size_t i = 0; i < count; i++) {
		INIT_IO_WORK(&works[i].work, write_block);
		works[i].file = files[i % FILES];
		io_wq_enqueue_hashed(wq, &works[i].work, &files[i % FILES]);
		if (i % DEPTH == 0)
			count_threads();
	}
	while (io_wq_flush(wq, 1))
		count_threads();
	io_wq_destroy(wq);
	free(works);
	return most_threads;
}

static void prepare_write(struct io_uring_sqe *sqe, size_t number)
{
	io_uring_prep_write(sqe, files[number % FILES], block, BLOCK, -1);
	sqe->flags |= IOSQE_ASYNC;
}

static unsigned kernel_writes(size_t count)
{
	unsigned limits[2] = { WORKERS, WORKERS };
	struct io_uring ring;

	if (io_uring_queue_init(DEPTH, &ring, 0) < 0 ||
	    io_uring_register_iowq_max_workers(&ring, limits) < 0)
		die("io_uring_queue_init");
	open_files();
	submit_all(&ring, count, DEPTH, prepare_write, count_threads);
	io_uring_queue_exit(&ring);
	return most_threads;
}

/* ---- reads at random of what is not cached, READS at a time */

enum { READS = 64 };
static int read_file;
static size_t read_blocks;

static void prepare_read(struct io_uring_sqe *sqe, size_t number)
{
	static char buffers[READS][BLOCK];

	io_uring_prep_read(sqe, read_file, buffers[number % READS], BLOCK, (size_t)random() % read_blocks * BLOCK);
}

static double kernel_reads(size_t count, const char *path)
{
	struct io_uring ring;
	double begun;

	read_file = open(path, O_RDONLY);
	if (read_file < 0)
		die(path);
	read_blocks = (size_t)lseek(read_file, 0, SEEK_END) / BLOCK;
	posix_fadvise(read_file, 0, 0, POSIX_FADV_DONTNEED);
	posix_fadvise(read_file, 0, 0, POSIX_FADV_RANDOM);
	srandom((unsigned)getpid());
	if (io_uring_queue_init(DEPTH, &ring, 0) < 0)
		die("io_uring_queue_init");
	begun = now();
	submit_all(&ring, count, READS, prepare_read, NULL);
	begun = now() - begun;
	io_uring_queue_exit(&ring);
	return begun / count;
}

/* Of the core. Returns a negative number for what it doesn't know. */
static double core(const char *what, size_t count, size_t more)
{
	struct io_wq *wq = io_wq_create(4, NULL);
	double ns = -1;

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
	io_wq_destroy(wq);
	return ns;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	size_t count = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	size_t more = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
	double result;

	if (!strcmp(what, "kernel-rate"))
		result = kernel(count, DEPTH);
	else if (!strcmp(what, "kernel-round-trip"))
		result = kernel(count, 1);
	else if (!strcmp(what, "kernel-writes"))
		result = kernel_writes(count);
	else if (!strcmp(what, "writes"))
		result = writes(count);
	else if (!strcmp(what, "kernel-reads") && argc > 3)
		result = kernel_reads(count, argv[3]);
	else
		result = core(what, count, more);
	if (result < 0)
		return 2;
	printf("%s %.1f\n", what, result);
	return 0;
}
