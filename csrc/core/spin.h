/*
 * Waiting for a word without sleeping, while that pays.
 *
 * To wake a thread that sleeps takes 10 to 100 us, more than most works. So who expects
 * to be woken soon watches its word first, for about that long: if it was right the
 * wait costs next to nothing, else a few times as much as the sleep alone (Karlin and
 * others, Competitive randomized algorithms for nonuniform problems, 1990). But who
 * watches keeps a processor from others, maybe from the one it waits for. So each
 * time in vain doubles the number of waits that sleep at once.
 *
 * What it takes to wake a thread is measured with each worker that is woken: it depends on the
 * machine, and on how deep its idle processors sleep. The watch is twice as long, so that the first of
 * two that have fallen asleep can watch until the other is awake and has answered; from then on
 * both find the other awake.
 */
#ifndef IO_WQ_SPIN_H
#define IO_WQ_SPIN_H

#include "core/futex.h"

#include <sched.h>
#include <stdbool.h>

#define WAKE_NS_MIN (10 * NSEC_PER_USEC)
#define WAKE_NS_MAX (100 * NSEC_PER_USEC)
#define SPIN_SKIP_MAX 63

/* What one kind of wait has learnt. Zeroed: nothing yet. Threads may share it: what they
 * lose by racing is an estimate. */
struct io_spin {
	unsigned skip;   /* atomic: so many waits don't try */
	unsigned failed; /* atomic: what skip was set to last */
};

extern uint32_t io_wq_wake_ns; /* atomic: what it takes to wake a thread, about */

/* It took so long to wake one. */
static inline void spin_note_wake(long long ns)
{
	long long before = __atomic_load_n(&io_wq_wake_ns, __ATOMIC_RELAXED);

	if (ns < WAKE_NS_MIN)
		ns = WAKE_NS_MIN;
	if (ns > WAKE_NS_MAX)
		ns = WAKE_NS_MAX;
	__atomic_store_n(&io_wq_wake_ns, (uint32_t)(before + (ns - before) / 8), __ATOMIC_RELAXED);
}

/* Whether this wait tries. */
static inline bool spin_begin(struct io_spin *spin)
{
	unsigned skip = __atomic_load_n(&spin->skip, __ATOMIC_RELAXED);

	if (skip)
		__atomic_store_n(&spin->skip, skip - 1, __ATOMIC_RELAXED);
	return !skip;
}

static inline void spin_end(struct io_spin *spin, bool in_vain)
{
	unsigned failed = in_vain ? 2 * __atomic_load_n(&spin->failed, __ATOMIC_RELAXED) + 1 : 0;

	if (failed > SPIN_SKIP_MAX)
		failed = SPIN_SKIP_MAX;
	__atomic_store_n(&spin->failed, failed, __ATOMIC_RELAXED);
	__atomic_store_n(&spin->skip, failed, __ATOMIC_RELAXED);
}

/* After spin_begin. condition: an expression of atomics. The scheduler may well have put
 * the thread that is to make it true on this processor: hence the yield. */
#define spin_until(spin, condition) \
	do { \
		const long long end_ = monotonic_ns() + \
			2 * (long long)__atomic_load_n(&io_wq_wake_ns, __ATOMIC_RELAXED); \
		while (!(condition) && monotonic_ns() < end_) \
			sched_yield(); \
		spin_end(spin, !(condition)); \
	} while (0)

/* Watches *word until it is 0, if that has a chance, and not for long. */
static inline void spin_until_zero(struct io_spin *spin, const uint32_t *word)
{
	if (spin_begin(spin))
		spin_until(spin, !__atomic_load_n(word, __ATOMIC_ACQUIRE));
}

#endif
