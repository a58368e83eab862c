/* With -DIO_WQ_PERTURB, threads give way and pause at random before and after
 * every lock, wait and wake-up, so that tests meet orders of events that are rare
 * otherwise. */
#ifndef IO_WQ_PERTURB_H
#define IO_WQ_PERTURB_H

#ifdef IO_WQ_PERTURB
#include <sched.h>
#include <stdint.h>
#include <time.h>

static inline void perturb(void)
{
	static _Thread_local uint32_t seed;
	struct timespec pause = { 0 };

	if (!seed)
		seed = (uint32_t)(uintptr_t)&seed | 1;
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	if (seed % 8 == 0)
		sched_yield();
	if (seed % 64 == 1) {
		pause.tv_nsec = seed / 64 % 100000;
		nanosleep(&pause, NULL);
	}
}
#else
static inline void perturb(void)
{
}
#endif

#endif
