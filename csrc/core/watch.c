/*
 * The watcher: a thread that tells other processes what the queues do, when they ask.
 *
 * It needs nothing that a program can keep from it: no worker, which may all hang, and no
 * interpreter. So it is a thread of its own, which lives while any queue has workers and sleeps while
 * nobody asks; works cost nothing more for it. The last worker joins it.
 *
 * THE LOCK guards the list of queues that have workers, and who the watcher is. It is taken before the
 * queues' locks, never with one of them held; a queue in the list has a thread, so it isn't freed.
 */
#define _GNU_SOURCE
#include "core/futex.h"
#include "core/watch.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Whoever asks again and again has this share of a processor at most: 1 / (1 + PAUSE). */
enum { PAUSE = 19 };
enum { STACK_SIZE = 256 * 1024 };
#define PAUSE_MIN (5 * NSEC_PER_MSEC)

struct watcher {
	pthread_t thread;
	struct io_shared_page shared;
	uint32_t ending; /* atomic, a futex */
	uint32_t done;   /* atomic, a futex */
	struct io_look look; /* made here: others can write the page */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct io_wq_list queues = { &queues, &queues };
static struct watcher *watcher; /* NULL: there is none */
static uint64_t ids;
static const struct io_wq_watch_hooks *hooks; /* NULL: nobody may watch */

void io_wq_let_watch(const struct io_wq_watch_hooks *hooks_)
{
	pthread_mutex_lock(&lock);
	hooks = hooks_;
	pthread_mutex_unlock(&lock);
}

/* ---- the thread */

static void take_snapshot(struct io_look *look)
{
	struct io_wq_page_snapshot *snapshot = &look->snapshot;

	memset(snapshot, 0, offsetof(struct io_wq_page_snapshot, queues));
	snapshot->taken_ns = monotonic_ns();
	pthread_mutex_lock(&lock);
	look->hooks = hooks;
	list_for_each(link, &queues)
		io_look_at_queue(container_of(link, struct io_wq, watched), look);
	pthread_mutex_unlock(&lock);
	io_look_at_calls(snapshot);
	snapshot->cost_ns = monotonic_ns() - snapshot->taken_ns;
}

static bool is_ending(const struct watcher *self)
{
	return __atomic_load_n(&self->ending, __ATOMIC_ACQUIRE);
}

static void pause_after(struct watcher *self)
{
	long long pause = PAUSE * (long long)self->look.snapshot.cost_ns;

	futex_wait(&self->ending, 0, pause > PAUSE_MIN ? pause : PAUSE_MIN);
}

static void *watcher_main(void *arg)
{
	struct watcher *self = arg;
	struct io_wq_page *page = self->shared.page;
	uint32_t answered = 0;

	pthread_setname_np(pthread_self(), "iowq-watch");
	for (;;) {
		io_page_wait(page, answered, &self->ending);
		if (is_ending(self))
			break;
		answered = __atomic_load_n(&page->request, __ATOMIC_ACQUIRE);
		take_snapshot(&self->look);
		io_page_write(page, &self->look.snapshot, answered);
		pause_after(self);
	}
	__atomic_store_n(&self->done, 1, __ATOMIC_RELEASE);
	futex_wake(&self->done, 1);
	return NULL;
}

/* ---- begins and ends */

/* Signals are for the program's own threads. Returns an error of pthread_create. */
static int start_thread(struct watcher *self)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE); /* or the default */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&self->thread, &attr, watcher_main, self);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return error;
}

/* Returns NULL if there can't be one. */
static struct watcher *start(void)
{
	struct watcher *self = calloc(1, sizeof(*self));

	if (!self || io_page_open(&self->shared)) {
		free(self);
		return NULL;
	}
	if (start_thread(self)) {
		io_page_close(&self->shared);
		free(self);
		return NULL;
	}
	return self;
}

/* Others can write the word that it waits for, and so keep it asleep, once. Not locked. */
static void stop(struct watcher *self)
{
	__atomic_store_n(&self->ending, 1, __ATOMIC_RELEASE);
	futex_wake(&self->ending, 1);
	do {
		io_page_end(self->shared.page);
		futex_wait(&self->done, 0, 10 * NSEC_PER_MSEC);
	} while (!__atomic_load_n(&self->done, __ATOMIC_ACQUIRE));
	pthread_join(self->thread, NULL);
	io_page_close(&self->shared);
	free(self);
}

void io_watch_enter(struct io_wq *wq)
{
	pthread_mutex_lock(&lock);
	if (!wq->watched_workers++) {
		wq->watch_id = wq->watch_id ? wq->watch_id : ++ids;
		list_add_tail(&wq->watched, &queues);
	}
	if (hooks && !watcher)
		watcher = start();
	pthread_mutex_unlock(&lock);
}

void io_watch_leave(struct io_wq *wq)
{
	struct watcher *last = NULL;

	pthread_mutex_lock(&lock);
	if (!--wq->watched_workers)
		list_del(&wq->watched);
	if (list_empty(&queues)) {
		last = watcher;
		watcher = NULL;
	}
	pthread_mutex_unlock(&lock);
	if (last)
		stop(last);
}

void io_watch_before_fork(void)
{
	pthread_mutex_lock(&lock);
}

/* The queues of a child's parent, and the thread, stayed there. */
void io_watch_after_fork(bool in_child)
{
	if (in_child && watcher) {
		io_page_close_in_child(&watcher->shared);
		free(watcher);
		watcher = NULL;
	}
	if (in_child)
		list_init(&queues);
	pthread_mutex_unlock(&lock);
}
