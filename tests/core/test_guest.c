/* Guests: threads that are no workers, and are interrupted as works are. */
#include "check.h"
#include <signal.h>
#include <sys/wait.h>

static void nothing(struct io_wq_work **work)
{
	(void)work;
	abort(); /* a guest's func is not called */
}

static int64_t in_ms(long ms)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec + ms * 1000000LL;
}

static struct io_wq_work *begin(struct io_wq *wq, struct io_wq_work *work)
{
	INIT_IO_WORK(work, nothing);
	CHECK(io_wq_guest_begin(wq, work) == 0);
	return work;
}

/* The errno of a sleep that is to end by an interruption alone. */
static int blocked_sleep(void)
{
	return nanosleep(&(struct timespec){ .tv_sec = DEADLINE }, NULL) ? errno : 0;
}

static bool sleeps_undisturbed(void)
{
	return nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL) == 0;
}

static void a_deadline_interrupts_a_guest(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	for (int i = 0; i < 20; i++) {
		begin(wq, &work);
		CHECK(io_wq_worker_deadline() == 0 && io_wq_worker_set_deadline(in_ms(2)) == 0);
		CHECK(blocked_sleep() == EINTR);
		CHECK(io_wq_worker_claim() == 1 && io_wq_worker_interrupted());
		io_wq_guest_end(wq, &work);
		CHECK(sleeps_undisturbed() && io_wq_worker_deadline() == -1);
	}
	CHECK(queue_stats(wq).workers == 0 && queue_stats(wq).running == 0);
	io_wq_destroy(wq);
}

static void a_shield_is_for_guests_too(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	begin(wq, &work);
	io_wq_worker_shield();
	CHECK(io_wq_worker_set_deadline(in_ms(0)) == 0 && sleeps_undisturbed());
	io_wq_worker_unshield();
	CHECK(blocked_sleep() == EINTR);
	io_wq_guest_end(wq, &work);
	io_wq_destroy(wq);
}

/* Sleeps for about as long as its deadline. */
static void *be_a_guest_often(void *wq)
{
	unsigned seed = (unsigned)(uintptr_t)&seed;
	long long end = check_now_ms() + 1000;
	struct io_wq_work work;

	while (check_now_ms() < end) {
		begin(wq, &work);
		CHECK(io_wq_worker_set_deadline(in_ms(0) + rand_r(&seed) % 300000) == 0);
		nanosleep(&(struct timespec){ .tv_nsec = rand_r(&seed) % 300000 }, NULL);
		io_wq_guest_end(wq, &work);
		CHECK(nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL) == 0);
	}
	return NULL;
}

static void nothing_reaches_who_was_a_guest(void)
{
	struct io_wq *wq = queue_new(1);
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, be_a_guest_often, wq) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	io_wq_destroy(wq);
}

static bool is_pending(int signal)
{
	sigset_t set;

	sigpending(&set);
	return sigismember(&set, signal);
}

/* Though what it did had the signal blocked: it would come when that is over. */
static void a_signal_that_was_blocked_is_over_with_the_guest(void)
{
	struct io_wq *wq = queue_new(1);
	int signal = io_wq_cancel_signal(wq);
	struct io_wq_work work;
	sigset_t set, after;

	sigemptyset(&set);
	sigaddset(&set, signal);
	begin(wq, &work);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	CHECK(io_wq_worker_set_deadline(in_ms(0)) == 0);
	WAIT_UNTIL(is_pending(signal));
	io_wq_guest_end(wq, &work);
	CHECK(!is_pending(signal));
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	CHECK(sigismember(&after, signal) == 1); /* its own affair */
	io_wq_destroy(wq);
}

struct guest {
	struct io_wq *wq;
	struct io_wq_work work;
	unsigned begun, stays;
	int error;
};

static void *sleep_as_guest(void *guest_)
{
	struct guest *guest = guest_;

	begin(guest->wq, &guest->work);
	ADD(guest->begun, 1);
	guest->error = blocked_sleep();
	if (!guest->stays)
		io_wq_guest_end(guest->wq, &guest->work);
	return NULL;
}

static pthread_t start_guest(struct guest *guest)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, sleep_as_guest, guest) == 0);
	WAIT_UNTIL(LOAD(guest->begun));
	return thread;
}

static void others_end_what_a_guest_does(void)
{
	struct io_wq *wq = queue_new(1);

	for (int i = 0; i < 4; i++) {
		struct guest guest = { .wq = wq };
		pthread_t thread = start_guest(&guest);

		switch (i) {
		case 0:
			CHECK(io_wq_cancel_work(wq, &guest.work) == IO_WQ_CANCEL_RUNNING);
			break;
		case 1:
			io_wq_cancel_all(wq);
			break;
		default:
			CHECK(io_wq_set_deadline(wq, &guest.work, in_ms(i - 2)) == 0);
		}
		CHECK(pthread_join(thread, NULL) == 0 && guest.error == EINTR);
		CHECK(io_wq_cancel_work(wq, &guest.work) == IO_WQ_CANCEL_NOTFOUND);
		CHECK(io_wq_set_deadline(wq, &guest.work, 1) == -ESRCH);
	}
	io_wq_destroy(wq);
}

static void others_end_the_guest_of_a_thread_that_is_gone(void)
{
	struct io_wq *wq = queue_new(1);
	struct guest guest = { .wq = wq, .stays = 1 };
	pthread_t thread = start_guest(&guest);

	CHECK(io_wq_set_deadline(wq, &guest.work, in_ms(0)) == 0);
	CHECK(pthread_join(thread, NULL) == 0 && guest.error == EINTR);
	io_wq_guest_end(wq, &guest.work);
	io_wq_guest_end(wq, &guest.work);
	CHECK(io_wq_cancel_work(wq, &guest.work) == IO_WQ_CANCEL_NOTFOUND);
	io_wq_destroy(wq);
}

static void a_thread_is_one_guest_at_a_time(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work, other;
	unsigned threads = check_threads();

	begin(wq, &work);
	INIT_IO_WORK(&other, nothing);
	CHECK(io_wq_guest_begin(wq, &other) == -EBUSY);
	io_wq_guest_end(wq, &other);
	CHECK(io_wq_worker_deadline() == 0);
	io_wq_put(wq); /* it is freed when the guest has left */
	CHECK(io_wq_worker_set_deadline(in_ms(1)) == 0 && blocked_sleep() == EINTR);
	io_wq_guest_end(wq, &work);
	WAIT_UNTIL(check_threads() == threads);
	wq = queue_new(1);
	io_wq_exit_start(wq);
	CHECK(io_wq_guest_begin(wq, &work) == -ESHUTDOWN && io_wq_worker_deadline() == -1);
	io_wq_destroy(wq);
}

static void a_guest_may_have_blocked_the_signal(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;
	sigset_t set, after;

	sigfillset(&set);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	begin(wq, &work);
	CHECK(io_wq_worker_set_deadline(in_ms(1)) == 0 && blocked_sleep() == EINTR);
	io_wq_guest_end(wq, &work);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	CHECK(sigismember(&after, io_wq_cancel_signal(wq)) == 1 && sigismember(&after, SIGUSR1) == 1);
	io_wq_destroy(wq);
}

static struct io_wq *others;
static unsigned steps;

/* A work that is shielded as a whole, and a guest elsewhere for a part of it. */
static void guest_func(struct io_wq_work **work)
{
	struct io_wq *wq = (*work)->wq;
	struct io_wq_work guest;

	CHECK(io_wq_worker_shielded());
	begin(others, &guest);
	CHECK(!io_wq_worker_shielded() && !io_wq_worker_cancelled());
	CHECK(io_wq_flush(wq, -1) == -EDEADLK); /* it is a work of its queue all the same */
	ADD(steps, 1);
	WAIT_UNTIL(io_wq_work_cancelled(*work));
	CHECK(sleeps_undisturbed()); /* by that */
	CHECK(io_wq_worker_set_deadline(in_ms(1)) == 0 && blocked_sleep() == EINTR);
	io_wq_guest_end(others, &guest);
	CHECK(io_wq_worker_shielded() && io_wq_worker_cancelled() && sleeps_undisturbed());
	ADD(steps, 1);
}

static void a_worker_may_be_a_guest(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;

	others = queue_new(1);
	INIT_IO_WORK(&work, guest_func);
	work.flags = IO_WQ_WORK_UNCANCELLABLE;
	CHECK(io_wq_enqueue(wq, &work) == 0);
	WAIT_UNTIL(LOAD(steps) == 1);
	CHECK(io_wq_cancel_work(wq, &work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0 && steps == 2);
	io_wq_destroy(wq);
	io_wq_destroy(others);
}

/* No thread begins there: gcc's AddressSanitizer leaves its allocator's lock as it is. */
static void a_child_is_no_guest(void)
{
	struct io_wq *wq = queue_new(1);
	struct io_wq_work work;
	int status;
	pid_t child;

	begin(wq, &work);
	child = fork();
	if (child == 0) {
		CHECK(io_wq_worker_deadline() == -1 && !io_wq_worker_claim());
		io_wq_guest_end(wq, &work);
		CHECK(io_wq_guest_begin(wq, &work) == -ESHUTDOWN);
		io_wq_destroy(wq);
		wq = queue_new(1);
		begin(wq, &work);
		CHECK(io_wq_worker_deadline() == 0);
		io_wq_guest_end(wq, &work);
		io_wq_destroy(wq);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(io_wq_worker_set_deadline(in_ms(1)) == 0 && blocked_sleep() == EINTR);
	io_wq_guest_end(wq, &work);
	io_wq_destroy(wq);
}

TEST_MAIN(TEST(a_deadline_interrupts_a_guest), TEST(a_shield_is_for_guests_too),
	  TEST(nothing_reaches_who_was_a_guest), TEST(others_end_what_a_guest_does),
	  TEST(others_end_the_guest_of_a_thread_that_is_gone), TEST(a_thread_is_one_guest_at_a_time),
	  TEST(a_guest_may_have_blocked_the_signal),
	  TEST(a_signal_that_was_blocked_is_over_with_the_guest), TEST(a_worker_may_be_a_guest),
	  TEST(a_child_is_no_guest))
