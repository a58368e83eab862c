/*
 * The queue's threads: every one is joined, and none waits to be joined for
 * long. A thread that ends leaves its handle in the queue and joins the one
 * that ended before it; the last is joined by io_wq_stop, or, where nobody is
 * left to do that, detaches itself and frees the queue.
 */
#define _GNU_SOURCE
#include "core/futex.h"
#include "core/internal.h"

/* For all threads of a queue. Returns 0, -ENOMEM, or -EINVAL: no thread can have such a
 * stack (0: the default). */
int io_wq_thread_attr_init(pthread_attr_t *attr, size_t stack_size)
{
	int err = pthread_attr_init(attr);

	if (err || !stack_size)
		return -err;
	err = pthread_attr_setstacksize(attr, stack_size);
	if (err)
		pthread_attr_destroy(attr);
	return -err;
}

/* Locked, so that main's first read of the queue sees what the caller made of
 * the new thread. Returns an error of pthread_create, negative. */
int io_wq_thread_create(struct io_wq *wq, void *(*main)(void *), void *arg)
{
	pthread_t thread;
	int err = pthread_create(&thread, &wq->thread_attr, main, arg);

	if (!err)
		__atomic_add_fetch(&wq->nr_threads, 1, __ATOMIC_RELAXED);
	return -err;
}

/* The last call of a thread's main. Not locked. */
void io_wq_thread_exit(struct io_wq *wq)
{
	bool join, last_of_orphan;
	pthread_t before;

	io_wq_lock(wq);
	join = wq->has_exited;
	before = wq->last_exited;
	wq->has_exited = true;
	wq->last_exited = pthread_self();
	last_of_orphan = wq->nr_threads == 1 && wq->orphan && !wq->users;
	if (__atomic_sub_fetch(&wq->nr_threads, 1, __ATOMIC_RELEASE) == 0)
		futex_wake(&wq->nr_threads, INT_MAX);
	io_wq_unlock(wq);
	if (join)
		pthread_join(before, NULL);
	if (last_of_orphan) {
		pthread_detach(pthread_self());
		io_wq_free(wq);
	}
}

/* Joins the last thread; all others it has joined. */
static void join_last(struct io_wq *wq)
{
	bool join;
	pthread_t last;

	io_wq_lock(wq);
	join = wq->has_exited;
	last = wq->last_exited;
	wq->has_exited = false;
	io_wq_unlock(wq);
	if (join)
		pthread_join(last, NULL);
}

/* Waits for all threads to end. Returns 0, -ETIMEDOUT or -EINTR. */
int io_wq_join_threads(struct io_wq *wq, long long deadline)
{
	int ret = futex_wait_zero(&wq->nr_threads, deadline);

	if (!ret)
		join_last(wq);
	return ret;
}
