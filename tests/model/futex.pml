/*
 * csrc/futex.h: a worker's word `asleep`, and the kernel's side of it.
 *
 * How a wait may end if nobody wakes it is chosen as it begins, so that where a
 * time-out must not be needed, there is a run in which it never comes.
 */
mtype = {
	NEVER, /* only by a wake-up */
	EARLY, /* also by its time-out, whenever that is */
	LATE,  /* also by its time-out, which comes once nothing else can happen */
	SIGNAL /* also for no reason, whenever that is */
};

bit asleep[SLOTS];  /* the word: 1 while its worker waits and nobody woke it */
bool parked[SLOTS]; /* the kernel has put the word's thread to sleep */

/* FUTEX_WAIT: looks at the word and sleeps in one step. */
inline futex_wait(w, end, timed_out)
{
	timed_out = false;
	atomic { parked[w] = (asleep[w] == 1) };
	if
	:: atomic { !parked[w] -> skip }
	:: atomic { end == EARLY -> parked[w] = false; timed_out = true }
	:: atomic { end == SIGNAL -> parked[w] = false }
	:: atomic { end == LATE && timeout -> parked[w] = false; timed_out = true; late_tick() }
	fi
}

/* FUTEX_WAKE: no harm where nobody sleeps. */
inline futex_wake(w)
{
	parked[w] = false
}

/* Ticks that come when nothing else can happen must have something begin soon. */
byte late_ticks;

inline late_tick()
{
	late_ticks++;
	assert(late_ticks <= 1)
}
