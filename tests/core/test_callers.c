/* What becomes of a cancelled work's call, by who made it; and notice that comes before. */
#include "check.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/socket.h>

static struct io_wq *new_queue(unsigned concurrency, void (*interrupt)(void *ctx, struct io_wq *wq))
{
	struct io_wq_data data = { .cancel_error = ECANCELED, .interrupt = interrupt };
	struct io_wq *wq = io_wq_create(concurrency, &data);

	CHECK(wq);
	return wq;
}

/* A work that reads, again and again if it is interrupted, as most code does. */
struct reader {
	struct io_wq_work work;
	int fd;
	unsigned begun;
	int result, error;
};

static void reader_func(struct io_wq_work **work)
{
	struct reader *reader = (struct reader *)*work;
	char byte;

	ADD(reader->begun, 1);
	do
		reader->result = (int)read(reader->fd, &byte, 1);
	while (reader->result < 0 && errno == EINTR);
	reader->error = errno;
}

static void cancel_reader_of(void (*func)(struct io_wq_work **work), struct reader *reader, int fd)
{
	struct io_wq *wq = new_queue(1, NULL);

	memset(reader, 0, sizeof(*reader));
	reader->fd = fd;
	INIT_IO_WORK(&reader->work, func);
	CHECK(io_wq_enqueue(wq, &reader->work) == 0);
	WAIT_UNTIL(LOAD(reader->begun));
	CHECK(io_wq_cancel_work(wq, &reader->work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
}

static void cancel_reader(struct reader *reader, int fd)
{
	cancel_reader_of(reader_func, reader, fd);
}

static int (*read_of_others)(int fd, void *byte);

/* The library's function, which is not the program's. */
static void load_library(void)
{
	void *library = dlopen(getenv("IOWQ_LIBNUMA"), RTLD_NOW);

	CHECK(library);
	*(void **)&read_of_others = dlsym(library, "read_elsewhere");
	CHECK(read_of_others);
}

static void library_func(struct io_wq_work **work)
{
	struct reader *reader = (struct reader *)*work;
	char byte;

	ADD(reader->begun, 1);
	do
		reader->result = read_of_others(reader->fd, &byte);
	while (reader->result < 0 && errno == EINTR);
	reader->error = errno;
}

/* Both ends see the end of the connection: no late answer can come. */
static void a_connection_is_cut_off(void)
{
	struct reader reader;
	int sockets[2];
	char byte;

	judge_this_program(IO_WQ_CALLER_CUT_OFF);
	for (int i = 0; i < 50; i++) {
		CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
		cancel_reader(&reader, sockets[0]);
		CHECK(reader.result == 0);
		CHECK(read(sockets[1], &byte, 1) == 0);
		close(sockets[0]);
		close(sockets[1]);
	}
}

/* It fails, or sees its end, as it does with glibc; but it is cut off. */
static void a_librarys_connection_is_cut_off_whoever_uses_it(void)
{
	struct reader reader;
	int sockets[2];
	char byte;

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	CHECK(io_wq_judge_caller("libfake_numa", IO_WQ_CALLER_CUT_OFF) == 0);
	load_library();
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	cancel_reader_of(library_func, &reader, sockets[0]);
	CHECK(reader.result == 0 || reader.error == ECANCELED);
	CHECK(read(sockets[1], &byte, 1) == 0);
}

static void what_is_no_connection_fails(void)
{
	struct reader reader;
	int fds[2];

	judge_this_program(IO_WQ_CALLER_CUT_OFF);
	CHECK(pipe(fds) == 0);
	cancel_reader(&reader, fds[0]);
	CHECK(reader.result < 0 && reader.error == ECANCELED);
	close(fds[0]);
	close(fds[1]);
}

/* ---- who it is */

static unsigned refused;

/* Reads by others' code, which is to see EINTR alone, until there is something to be read. */
static void refused_func(struct io_wq_work **work)
{
	struct reader *reader = (struct reader *)*work;
	char byte;

	ADD(reader->begun, 1);
	while ((reader->result = read_of_others(reader->fd, &byte)) < 0) {
		CHECK(reader->result == -EINTR || errno == EINTR);
		ADD(refused, 1);
	}
}

static void read_until_refused(void)
{
	struct io_wq *wq = new_queue(1, NULL);
	struct reader reader = { 0 };
	int fds[2];

	CHECK(pipe(fds) == 0);
	reader.fd = fds[0];
	INIT_IO_WORK(&reader.work, refused_func);
	CHECK(io_wq_enqueue(wq, &reader.work) == 0);
	WAIT_UNTIL(LOAD(reader.begun));
	CHECK(io_wq_cancel_work(wq, &reader.work) == IO_WQ_CANCEL_RUNNING);
	WAIT_UNTIL(LOAD(refused) > 3);
	CHECK(write(fds[1], "x", 1) == 1);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(reader.result == 1);
	io_wq_destroy(wq);
}

/* Whoever has called the caller. */
static void a_known_program_makes_no_library_known(void)
{
	judge_this_program(IO_WQ_CALLER_TRUSTED);
	load_library();
	read_until_refused();
}

/* Compiled at run time, say: no object has it. */
static void code_of_no_file_is_unknown(void)
{
#ifdef __x86_64__
	static const unsigned char code[] = {
		0xba, 1, 0, 0, 0, /* mov $1,%edx */
		0x31, 0xc0,       /* xor %eax,%eax: read */
		0x0f, 0x05, 0xc3, /* syscall; ret */
	};
	void *memory = mmap(NULL, sizeof(code), PROT_READ | PROT_WRITE | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	CHECK(memory != MAP_FAILED);
	memcpy(memory, code, sizeof(code));
	*(void **)&read_of_others = memory;
	read_until_refused();
#endif
}

static void marked_func(struct io_wq_work **work)
{
	struct reader *reader = (struct reader *)*work;
	struct io_wq_stack before;
	char byte;

	ADD(reader->begun, 1);
	do {
		io_wq_stack_begin(&before, NULL);
		reader->result = read_of_others(reader->fd, &byte);
		io_wq_stack_end(&before);
	} while (reader->result < 0 && errno == EINTR);
	reader->error = errno;
}

/* The program itself is of no known kind. */
static void a_mark_leaves_out_who_is_above_it(void)
{
	struct reader reader;
	int fds[2];

	CHECK(io_wq_judge_caller("libfake_numa", IO_WQ_CALLER_TRUSTED) == 0);
	load_library();
	CHECK(pipe(fds) == 0);
	cancel_reader_of(marked_func, &reader, fds[0]);
	CHECK(reader.result < 0 && reader.error == ECANCELED);
}

/* ---- naps */

enum { NAPS = 1000 };
static unsigned napping, interrupted_after;

/* Counts each nap as a whole one, as SQLite does while it waits for a lock. */
static void napping_func(struct io_wq_work **work)
{
	const struct timespec nap = { .tv_nsec = 100 * 1000 * 1000 };

	(void)work;
	ADD(napping, 1);
	for (int i = 0; i < NAPS; i++)
		nanosleep(&nap, NULL);
	interrupted_after = io_wq_worker_interrupted();
}

/* 100 seconds of naps are over in less than one. */
static void naps_are_cut_short_one_after_the_other(void)
{
	struct io_wq *wq = new_queue(1, NULL);
	struct io_wq_work work;

	judge_this_program(IO_WQ_CALLER_NAPS);
	INIT_IO_WORK(&work, napping_func);
	CHECK(io_wq_enqueue(wq, &work) == 0);
	WAIT_UNTIL(LOAD(napping));
	CHECK(io_wq_cancel_work(wq, &work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(interrupted_after);
	io_wq_destroy(wq);
}

/* ---- many at once */

enum { STUBBORN = 100, READERS = 50 };

/* More than are signalled at once wait for a lock, for ever; the others end, in their turn. */
static void works_that_never_end_hold_back_no_others(void)
{
	static struct reader readers[READERS];
	struct io_wq *wq = new_queue(STUBBORN + READERS, NULL);
	struct task *stubborn;
	sem_t gate;
	int fds[2];

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	sem_init(&gate, 0, 0);
	stubborn = tasks_new(STUBBORN, &gate, NULL);
	CHECK(pipe(fds) == 0);
	for (int i = 0; i < STUBBORN; i++)
		CHECK(io_wq_enqueue(wq, &stubborn[i].work) == 0);
	for (int i = 0; i < READERS; i++) {
		readers[i].fd = fds[0];
		INIT_IO_WORK(&readers[i].work, reader_func);
		CHECK(io_wq_enqueue(wq, &readers[i].work) == 0);
	}
	WAIT_UNTIL(queue_stats(wq).running == STUBBORN + READERS);
	for (int i = 0; i < STUBBORN; i++)
		CHECK(io_wq_cancel_work(wq, &stubborn[i].work) == IO_WQ_CANCEL_RUNNING);
	io_wq_cancel_all(wq);
	WAIT_UNTIL(queue_stats(wq).finished == READERS);
	for (int i = 0; i < STUBBORN; i++)
		sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
	free(stubborn);
}

static unsigned cleaning;
static sem_t clean;

static void cleaning_func(struct io_wq_work **work)
{
	reader_func(work);
	ADD(cleaning, 1);
	while (sem_wait(&clean))
		CHECK(errno == EINTR);
}

enum { CLEANERS = 100 }; /* before the readers, and as many after them */

/* They have their grace period for themselves; others are signalled meanwhile. */
static void works_that_clean_up_hold_back_no_others(void)
{
	static struct reader works[2 * CLEANERS + READERS];
	struct io_wq *wq = new_queue(2 * CLEANERS + READERS, NULL);
	int fds[2];

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	sem_init(&clean, 0, 0);
	CHECK(pipe(fds) == 0);
	for (int i = 0; i < 2 * CLEANERS + READERS; i++) {
		bool reads = i >= CLEANERS && i < CLEANERS + READERS;

		works[i].fd = fds[0];
		INIT_IO_WORK(&works[i].work, reads ? reader_func : cleaning_func);
		CHECK(io_wq_enqueue(wq, &works[i].work) == 0);
	}
	WAIT_UNTIL(queue_stats(wq).running == 2 * CLEANERS + READERS);
	for (int i = 0; i < 2 * CLEANERS + READERS; i++)
		if (i < CLEANERS || i >= CLEANERS + READERS)
			io_wq_cancel_work(wq, &works[i].work);
	WAIT_UNTIL(LOAD(cleaning) == 2 * CLEANERS);
	usleep(20000); /* none of them was signalled just now */
	io_wq_cancel_all(wq);
	WAIT_UNTIL(queue_stats(wq).finished == READERS);
	for (int i = 0; i < 2 * CLEANERS; i++)
		sem_post(&clean);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
}

static unsigned count_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 4096; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

enum { MANY = 300 };

static void few_descriptors_stay_open(void)
{
	static struct reader readers[MANY];
	struct io_wq *wq = new_queue(MANY, NULL);
	unsigned before;
	int fds[2];

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	CHECK(pipe(fds) == 0);
	before = count_descriptors();
	for (int i = 0; i < MANY; i++) {
		readers[i].fd = fds[0];
		INIT_IO_WORK(&readers[i].work, reader_func);
		CHECK(io_wq_enqueue(wq, &readers[i].work) == 0);
	}
	WAIT_UNTIL(queue_stats(wq).running == MANY);
	io_wq_cancel_all(wq);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(count_descriptors() <= before + 100);
	io_wq_destroy(wq);
	CHECK(count_descriptors() == before);
}

/* ---- notice */

static unsigned asked, may_be_given;
static struct io_wq_work noticed;

/* Works that want notice are not signalled until it is given. */
static void give_notice(void *ctx, struct io_wq *wq)
{
	(void)ctx;
	ADD(asked, 1);
	io_wq_give_notice(wq, &noticed, 0);
	if (LOAD(may_be_given))
		io_wq_give_notice(wq, &noticed, 1);
}

static unsigned wants;
static int slept_before, slept_after, counts;

static void noticed_func(struct io_wq_work **work)
{
	const struct timespec rest = { .tv_nsec = 100 * 1000 * 1000 };

	(void)work;
	io_wq_worker_want_notice(1);
	ADD(wants, 1);
	WAIT_UNTIL(io_wq_worker_cancelled());
	slept_before = nanosleep(&rest, NULL);
	CHECK(!io_wq_worker_is_due() && !io_wq_worker_claim());
	counts = io_wq_worker_interrupted();
	ADD(may_be_given, 1);
	slept_after = nanosleep(&(struct timespec){ .tv_sec = DEADLINE }, NULL);
}

static void notice_comes_before_interruption(void)
{
	struct io_wq *wq = new_queue(1, give_notice);

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	INIT_IO_WORK(&noticed, noticed_func);
	CHECK(io_wq_enqueue(wq, &noticed) == 0);
	WAIT_UNTIL(LOAD(wants));
	CHECK(io_wq_cancel_work(wq, &noticed) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(LOAD(asked) && slept_before == 0 && counts && slept_after < 0);
	io_wq_destroy(wq);
	io_wq_worker_want_notice(1); /* no work: nothing */
}

static void impatient_func(struct io_wq_work **work)
{
	(void)work;
	ADD(wants, 1);
	do
		io_wq_worker_want_notice(1);
	while (nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL) == 0);
}

/* A work that wants it again and again is interrupted all the same. */
static void notice_is_given_once(void)
{
	struct io_wq_data data = {
		.cancel_error = ECANCELED, .cancel_grace_ms = 100, .interrupt = give_notice,
	};
	struct io_wq *wq = io_wq_create(1, &data);

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	ADD(may_be_given, 1);
	INIT_IO_WORK(&noticed, impatient_func);
	CHECK(wq && io_wq_enqueue(wq, &noticed) == 0);
	WAIT_UNTIL(LOAD(wants));
	CHECK(io_wq_cancel_work(wq, &noticed) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
}

TEST_MAIN(TEST(a_connection_is_cut_off), TEST(what_is_no_connection_fails),
	  TEST(a_known_program_makes_no_library_known), TEST(code_of_no_file_is_unknown),
	  TEST(a_mark_leaves_out_who_is_above_it),
	  TEST(a_librarys_connection_is_cut_off_whoever_uses_it),
	  TEST(naps_are_cut_short_one_after_the_other),
	  TEST(works_that_never_end_hold_back_no_others),
	  TEST(works_that_clean_up_hold_back_no_others), TEST(few_descriptors_stay_open),
	  TEST(notice_comes_before_interruption), TEST(notice_is_given_once))
