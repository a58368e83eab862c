/* cancel_work's three results, cancel_all, cancel_cb, and the signal. */
#include "check.h"
#include <signal.h>
#include <sys/socket.h>

/* A work that is blocked in a real system call, without any retry. */
struct reader {
	struct io_wq_work work;
	int fd;
	unsigned begun, ended;
	int error;
	unsigned cancelled;
};

static void reader_func(struct io_wq_work **work)
{
	struct reader *reader = (struct reader *)*work;
	char byte;

	ADD(reader->begun, 1);
	reader->error = read(reader->fd, &byte, 1) < 0 ? errno : 0;
	reader->cancelled = io_wq_work_cancelled(&reader->work);
	ADD(reader->ended, 1);
}

static struct reader *reader_init(struct reader *reader, int fd)
{
	memset(reader, 0, sizeof(*reader));
	INIT_IO_WORK(&reader->work, reader_func);
	reader->fd = fd;
	return reader;
}

static void pending_work_is_cancelled_at_once(void)
{
	struct io_wq *wq = queue_new(1);
	struct task running, pending;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&running, &gate, NULL)->work);
	io_wq_enqueue(wq, &task_init(&pending, NULL, NULL)->work);
	CHECK(io_wq_cancel_work(wq, &pending.work) == IO_WQ_CANCEL_OK);
	CHECK(pending.ended == 1 && pending.cancelled && pending.error == ECANCELED);
	CHECK(io_wq_cancel_work(wq, &pending.work) == IO_WQ_CANCEL_NOTFOUND);
	sem_post(&gate);
	io_wq_destroy(wq);
	CHECK(pending.ended == 1);
}

static void blocked_work_sees_eintr(void)
{
	struct io_wq *wq = queue_new(1);
	struct reader reader;
	int sockets[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	for (int i = 0; i < 200; i++) { /* the signal meets each instant before the read */
		io_wq_enqueue(wq, &reader_init(&reader, sockets[0])->work);
		WAIT_UNTIL(LOAD(reader.begun));
		CHECK(io_wq_cancel_work(wq, &reader.work) == IO_WQ_CANCEL_RUNNING);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		CHECK(reader.error == EINTR && reader.cancelled);
		CHECK(io_wq_cancel_work(wq, &reader.work) == IO_WQ_CANCEL_NOTFOUND);
	}
	CHECK(queue_stats(wq).workers == 1);
	io_wq_destroy(wq);
}

/* Lets the first signal come, and only then enters the call. */
static void late_reader_func(struct io_wq_work **work)
{
	long long flagged;

	ADD(((struct reader *)*work)->begun, 1);
	while (!io_wq_work_cancelled(*work))
		;
	for (flagged = check_now_ms(); check_now_ms() < flagged + 5;)
		;
	reader_func(work);
}

static void a_signal_that_comes_too_early_is_repeated(void)
{
	struct io_wq *wq = queue_new(1);
	struct reader reader;
	int fds[2];

	CHECK(pipe(fds) == 0);
	reader_init(&reader, fds[0])->work.func = late_reader_func;
	io_wq_enqueue(wq, &reader.work);
	WAIT_UNTIL(LOAD(reader.begun));
	CHECK(io_wq_cancel_work(wq, &reader.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(reader.error == EINTR);
	io_wq_destroy(wq);
}

/* A cancelled work ends by itself; the next one on its worker must see neither
 * flag nor signal. It would: take io_worker_settle_signals out and try. */
static void nothing_leaks_into_the_next_work(void)
{
	struct io_wq *wq = queue_new(1);
	struct task busy;
	struct reader next;
	sem_t gate;

	sem_init(&gate, 0, 0);
	for (int i = 0; i < 2000; i++) {
		int fds[2];

		CHECK(pipe(fds) == 0);
		io_wq_enqueue(wq, &task_init(&busy, &gate, NULL)->work);
		io_wq_enqueue(wq, &reader_init(&next, fds[0])->work);
		WAIT_UNTIL(LOAD(busy.begun));
		sem_post(&gate);
		io_wq_cancel_work(wq, &busy.work); /* RUNNING or NOTFOUND: both can be */
		WAIT_UNTIL(LOAD(next.begun));
		CHECK(write(fds[1], "x", 1) == 1);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		CHECK(next.error == 0 && !next.cancelled);
		close(fds[0]);
		close(fds[1]);
	}
	io_wq_destroy(wq);
}

static void blocking_func(struct io_wq_work **work)
{
	sigset_t set;

	sigfillset(&set);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	ADD(((struct reader *)*work)->begun, 1);
	while (!io_wq_work_cancelled(*work))
		;
}

/* The signal is then still pending when the work has ended. */
static void a_work_may_leave_the_signal_blocked(void)
{
	struct io_wq *wq = queue_new(1);
	struct reader reader;

	for (int i = 0; i < 20; i++) {
		reader_init(&reader, 0)->work.func = blocking_func;
		io_wq_enqueue(wq, &reader.work);
		WAIT_UNTIL(LOAD(reader.begun));
		io_wq_cancel_work(wq, &reader.work);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	}
	io_wq_destroy(wq);
}

static void unknown_work_is_not_found(void)
{
	struct io_wq *wq = queue_new(1), *other = queue_new(1);
	struct task running, pending, never;
	sem_t gate;

	sem_init(&gate, 0, 0);
	task_init(&never, NULL, NULL);
	io_wq_enqueue(wq, &task_init(&running, &gate, NULL)->work);
	io_wq_enqueue(wq, &task_init(&pending, NULL, NULL)->work);
	WAIT_UNTIL(LOAD(running.begun));
	CHECK(io_wq_cancel_work(wq, &never.work) == IO_WQ_CANCEL_NOTFOUND);
	CHECK(io_wq_cancel_work(other, &pending.work) == IO_WQ_CANCEL_NOTFOUND);
	CHECK(io_wq_cancel_work(other, &running.work) == IO_WQ_CANCEL_NOTFOUND);
	sem_post(&gate);
	io_wq_flush(wq, -1);
	CHECK(!pending.cancelled && !running.cancelled);
	io_wq_destroy(wq);
	io_wq_destroy(other);
}

static void cancel_all_reaches_everything(void)
{
	enum { READERS = 50, PENDING = 1000 };
	struct io_wq *wq = queue_new(READERS);
	struct reader readers[READERS];
	struct task *pending = tasks_new(PENDING, NULL, NULL), after;
	int sockets[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	for (int i = 0; i < READERS; i++)
		io_wq_enqueue(wq, &reader_init(&readers[i], sockets[0])->work);
	WAIT_UNTIL(queue_stats(wq).running == READERS);
	for (int i = 0; i < PENDING; i++)
		io_wq_enqueue_hashed(wq, &pending[i].work, (void *)(uintptr_t)(i % 10));
	io_wq_cancel_all(wq);
	for (int i = 0; i < PENDING; i++)
		CHECK(pending[i].ended == 1 && pending[i].cancelled);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	for (int i = 0; i < READERS; i++)
		CHECK(readers[i].error == EINTR && readers[i].cancelled);
	CHECK(io_wq_enqueue(wq, &task_init(&after, NULL, NULL)->work) == 0);
	io_wq_flush(wq, -1);
	CHECK(after.ended == 1 && !after.cancelled);
	io_wq_destroy(wq);
	free(pending);
}

static int is_odd(struct io_wq_work *work, void *data)
{
	return ((struct task *)work - (struct task *)data) % 2;
}

static void cancel_cb_takes_what_matches(void)
{
	struct io_wq *wq = queue_new(1);
	struct task running, *tasks = tasks_new(100, NULL, NULL);
	unsigned cancelled = 0;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&running, &gate, NULL)->work);
	WAIT_UNTIL(LOAD(running.begun));
	for (int i = 0; i < 100; i++)
		io_wq_enqueue_hashed(wq, &tasks[i].work, i < 50 ? NULL : &tasks[i]);
	/* `running` may lie an odd distance from tasks: keep it out of reach */
	CHECK(io_wq_cancel_cb(wq, is_odd, tasks, 0) == IO_WQ_CANCEL_OK);
	for (int i = 0; i < 100; i++)
		cancelled += tasks[i].cancelled;
	CHECK(cancelled == 1);
	CHECK(io_wq_cancel_cb(wq, is_odd, tasks, 1) == IO_WQ_CANCEL_OK);
	for (int i = 0; i < 100; i++)
		CHECK(tasks[i].cancelled == (unsigned)i % 2);
	sem_post(&gate);
	io_wq_flush(wq, -1);
	CHECK(io_wq_cancel_cb(wq, is_odd, tasks, 1) == IO_WQ_CANCEL_NOTFOUND);
	for (int i = 0; i < 100; i++)
		CHECK(tasks[i].ended == 1);
	io_wq_destroy(wq);
	free(tasks);
}

static struct io_wq *own_queue;
static enum io_wq_cancel own_result;

static void suicidal_func(struct io_wq_work **work)
{
	own_result = io_wq_cancel_work(own_queue, *work);
	CHECK(io_wq_work_cancelled(*work));
}

static void a_work_may_cancel_itself(void)
{
	struct io_wq_work work;

	own_queue = queue_new(1);
	INIT_IO_WORK(&work, suicidal_func);
	io_wq_enqueue(own_queue, &work);
	io_wq_flush(own_queue, -1);
	CHECK(own_result == IO_WQ_CANCEL_RUNNING);
	io_wq_destroy(own_queue);
}

static unsigned foreign;

static void count_foreign(int signal)
{
	(void)signal;
	ADD(foreign, 1);
}

/* A handler that was there before gets the signals that aren't ours, and one
 * that comes later keeps us from sending any: SIG_DFL would end the process. */
static void signals_of_others_are_passed_on(void)
{
	struct sigaction action = { .sa_handler = count_foreign };
	struct io_wq_data data = { .cancel_signal = SIGUSR2 };
	struct io_wq *wq;
	struct reader reader;
	int sockets[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	sigaction(SIGUSR2, &action, NULL);
	wq = io_wq_create(1, &data);
	CHECK(wq && io_wq_cancel_signal(wq) == SIGUSR2);
	raise(SIGUSR2);
	CHECK(LOAD(foreign) == 1);
	io_wq_enqueue(wq, &reader_init(&reader, sockets[0])->work);
	WAIT_UNTIL(LOAD(reader.begun));
	io_wq_cancel_work(wq, &reader.work);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(reader.error == EINTR && LOAD(foreign) == 1);
	sigaction(SIGUSR2, &action, NULL);
	io_wq_enqueue(wq, &reader_init(&reader, sockets[0])->work);
	WAIT_UNTIL(LOAD(reader.begun));
	CHECK(io_wq_cancel_work(wq, &reader.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, 50) == -ETIMEDOUT); /* not interrupted */
	CHECK(LOAD(foreign) == 1);
	CHECK(write(sockets[1], "x", 1) == 1);
	io_wq_destroy(wq);
	CHECK(!io_wq_create(1, &data) && errno == EBUSY);
}

static void queues_share_a_free_signal(void)
{
	struct io_wq *one = queue_new(1), *two = queue_new(1);

	CHECK(io_wq_cancel_signal(one) == SIGRTMAX - 2);
	CHECK(io_wq_cancel_signal(two) == SIGRTMAX - 2);
	io_wq_destroy(one);
	io_wq_destroy(two);
}

/* ---- data.cancel_error */

static struct io_wq *rewriting_queue(unsigned grace_ms)
{
	struct io_wq_data data = { .cancel_error = ECANCELED, .cancel_grace_ms = grace_ms };
	struct io_wq *wq = io_wq_create(2, &data);

	CHECK(wq);
	return wq;
}

/* Tries again on EINTR, as most code does: a signal that was sent just before the
 * call was entered does no more than interrupt it. */
static void stubborn_func(struct io_wq_work **work)
{
	do
		reader_func(work);
	while (((struct reader *)*work)->error == EINTR);
}

static int cancelled_read(struct io_wq *wq, void (*func)(struct io_wq_work **))
{
	struct reader reader;
	int fds[2];

	CHECK(pipe(fds) == 0);
	reader_init(&reader, fds[0])->work.func = func;
	io_wq_enqueue(wq, &reader.work);
	WAIT_UNTIL(LOAD(reader.begun));
	CHECK(io_wq_cancel_work(wq, &reader.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(reader.cancelled);
	return reader.error;
}

static void only_trusted_callers_see_the_error(void)
{
	struct io_wq *wq = rewriting_queue(0);

	CHECK(cancelled_read(wq, reader_func) == EINTR);
	judge_this_program(IO_WQ_CALLER_TRUSTED);
	for (int i = 0; i < 100; i++)
		CHECK(cancelled_read(wq, stubborn_func) == ECANCELED);
	io_wq_destroy(wq);
}

/* A thread that waits for a lock must never believe that it has it. */
static void a_futex_is_left_alone(void)
{
	struct io_wq *wq = rewriting_queue(1);
	struct task task;
	sem_t gate;

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	sem_init(&gate, 0, 0);
	io_wq_enqueue(wq, &task_init(&task, &gate, NULL)->work);
	WAIT_UNTIL(LOAD(task.begun));
	CHECK(io_wq_cancel_work(wq, &task.work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, 100) == -ETIMEDOUT); /* its sem_wait allows EINTR alone */
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	io_wq_destroy(wq);
}

static int clean_up_result, interrupted_inside;

static void cleaning_func(struct io_wq_work **work)
{
	struct timespec rest = { .tv_nsec = 100 * 1000 * 1000 };

	stubborn_func(work);
	interrupted_inside = io_wq_worker_interrupted();
	clean_up_result = nanosleep(&rest, NULL);
}

static void clean_up_has_a_grace_period(void)
{
	struct io_wq *wq = rewriting_queue(10000);
	struct reader reader;
	int fds[2];

	judge_this_program(IO_WQ_CALLER_TRUSTED);
	CHECK(pipe(fds) == 0);
	reader_init(&reader, fds[0])->work.func = cleaning_func;
	io_wq_enqueue(wq, &reader.work);
	WAIT_UNTIL(LOAD(reader.begun));
	io_wq_cancel_work(wq, &reader.work);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(reader.error == ECANCELED && interrupted_inside && clean_up_result == 0);
	CHECK(!io_wq_worker_interrupted()); /* on a thread that is no worker */
	io_wq_destroy(wq);
}

/* Cancel against start and end of works, from several threads. */
static struct io_wq *raced;
static struct task *raced_tasks;
enum { RACED = 20000 };

static void *cancel_odd_ones(void *arg)
{
	unsigned *ok = arg;

	for (int i = 1; i < RACED; i += 2)
		*ok += io_wq_cancel_work(raced, &raced_tasks[i].work) == IO_WQ_CANCEL_OK;
	return NULL;
}

static void cancel_races_with_start_and_end(void)
{
	unsigned ok[2] = { 0 }, cancelled = 0;
	pthread_t threads[2];

	raced = queue_new(4);
	raced_tasks = tasks_new(RACED, NULL, NULL);
	for (int i = 0; i < RACED; i++)
		io_wq_enqueue_hashed(raced, &raced_tasks[i].work, (void *)(uintptr_t)(i % 16));
	for (int t = 0; t < 2; t++)
		pthread_create(&threads[t], NULL, cancel_odd_ones, &ok[t]);
	for (int t = 0; t < 2; t++)
		pthread_join(threads[t], NULL);
	io_wq_flush(raced, -1);
	for (int i = 0; i < RACED; i++) {
		CHECK(raced_tasks[i].ended == 1);
		cancelled += raced_tasks[i].error == ECANCELED;
	}
	CHECK(cancelled == ok[0] + ok[1]);
	io_wq_destroy(raced);
	free(raced_tasks);
}

static void cancel_pending_leaves_running_work_alone(void)
{
	struct io_wq_data data = { .unbounded = 1 };
	struct io_wq *wq = io_wq_create(1, &data);
	struct task later, *pending = tasks_new(40, NULL, NULL);
	struct reader readers[2];
	int fds[2];

	CHECK(pipe(fds) == 0);
	for (int i = 0; i < 2; i++) { /* one of each kind */
		reader_init(&readers[i], fds[0])->work.flags = i ? IO_WQ_WORK_UNBOUND : 0;
		io_wq_enqueue_hashed(wq, &readers[i].work, &readers[i]);
		WAIT_UNTIL(LOAD(readers[i].begun));
	}
	for (int i = 0; i < 40; i++) {
		pending[i].work.flags = i & 1 ? IO_WQ_WORK_UNBOUND : 0;
		io_wq_enqueue_hashed(wq, &pending[i].work, i & 2 ? &readers[0] : NULL);
	}
	io_wq_cancel_pending(wq);
	for (int i = 0; i < 40; i++)
		CHECK(pending[i].ended == 1 && pending[i].cancelled && pending[i].error == ECANCELED);
	CHECK(queue_stats(wq).pending == 0 && queue_stats(wq).running == 2);
	io_wq_enqueue(wq, &task_init(&later, NULL, NULL)->work); /* the queue goes on */
	CHECK(write(fds[1], "ab", 2) == 2);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	for (int i = 0; i < 2; i++)
		CHECK(readers[i].error == 0 && !readers[i].cancelled);
	CHECK(later.ended == 1 && !later.cancelled);
	io_wq_destroy(wq);
	free(pending);
}

TEST_MAIN(TEST(pending_work_is_cancelled_at_once), TEST(blocked_work_sees_eintr),
	  TEST(a_signal_that_comes_too_early_is_repeated), TEST(nothing_leaks_into_the_next_work), TEST(unknown_work_is_not_found), TEST(a_work_may_leave_the_signal_blocked),
	  TEST(cancel_all_reaches_everything), TEST(cancel_cb_takes_what_matches),
	  TEST(a_work_may_cancel_itself), TEST(signals_of_others_are_passed_on),
	  TEST(queues_share_a_free_signal), TEST(cancel_races_with_start_and_end), TEST(only_trusted_callers_see_the_error),
	  TEST(a_futex_is_left_alone), TEST(clean_up_has_a_grace_period),
	  TEST(cancel_pending_leaves_running_work_alone))
