/*
 * Waiting on a word. A futex rather than a condition variable because it is
 * one word, because waking needs no lock, and because a signal's handler ends
 * the wait: condition variables hide that, and Ctrl-C with it.
 */
#ifndef IO_WQ_FUTEX_H
#define IO_WQ_FUTEX_H

#include "core/perturb.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NSEC_PER_SEC 1000000000LL
#define NSEC_PER_MSEC 1000000LL
#define NSEC_PER_USEC 1000LL
#define WAIT_FOREVER (-1LL)

static inline long long clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
}

static inline long long monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* Waits while *word == value, at most ns nanoseconds if ns >= 0.
 * Returns 0 (woken, or *word differs: look again), -ETIMEDOUT or -EINTR. */
static inline int futex_wait(uint32_t *word, uint32_t value, long long ns)
{
	struct timespec limit = { .tv_sec = ns / NSEC_PER_SEC, .tv_nsec = ns % NSEC_PER_SEC };

	perturb();
	if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, ns < 0 ? NULL : &limit, NULL, 0) == 0)
		return 0;
	return errno == EAGAIN ? 0 : -errno;
}

static inline void futex_wake(uint32_t *word, int waiters)
{
	perturb();
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, waiters, NULL, NULL, 0);
}

/* Waits until *word is 0. deadline: monotonic_ns() at which to give up, or
 * WAIT_FOREVER. Returns 0, -ETIMEDOUT or -EINTR. */
static inline int futex_wait_zero(uint32_t *word, long long deadline)
{
	uint32_t value;
	int ret = 0;

	while ((value = __atomic_load_n(word, __ATOMIC_ACQUIRE))) {
		long long left = WAIT_FOREVER;

		if (ret)
			return ret;
		if (deadline != WAIT_FOREVER && (left = deadline - monotonic_ns()) <= 0)
			return -ETIMEDOUT;
		ret = futex_wait(word, value, left);
	}
	return 0;
}

/* An API's timeout_ms as a deadline. */
static inline long long deadline_after_ms(int timeout_ms)
{
	return timeout_ms < 0 ? WAIT_FOREVER : monotonic_ns() + timeout_ms * NSEC_PER_MSEC;
}

#endif
