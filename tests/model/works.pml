/*
 * The works' funcs, and data.admit.
 *
 * The first BLOCKERS works block until all others are over, which for that need a
 * worker: the harshest thing that a program can ask for within its limit.
 */
byte calls[WORKS];    /* of the work's func */
bool finished[WORKS]; /* or cancelled, or refused for good */
byte others_left = WORKS - BLOCKERS;
#ifdef PARALLEL
bool blocks[SLOTS];   /* a worker's work does; else it computes, or says that it blocks */
#endif

inline work_is_over(work)
{
	if
	:: work >= BLOCKERS -> atomic { others_left-- }
	:: else
	fi
}

/* Who blocks says so before, or, with UNANNOUNCED, maybe not; and after, or not. With
 * WAITS, the others may wait for a while, for something outside of the queue. With
 * FREES, it is free_work that blocks, and says nothing. */
inline func(work)
{
	calls[work]++;
	assert(calls[work] == 1);
	if
#ifdef FREES
	:: true
#else
	:: work < BLOCKERS ->
		if
		:: announce(RUNNING, BLOCKED)
#ifdef UNANNOUNCED
		:: true
#endif
		fi;
#ifdef PARALLEL
		blocks[me] = true;
		others_left == 0;
		blocks[me] = false;
#else
		others_left == 0;
#endif
		if
		:: announce(BLOCKED, RUNNING)
		:: true
		fi
#ifdef WAITS
	:: work >= BLOCKERS -> announce(RUNNING, BLOCKED); announce(BLOCKED, RUNNING)
#endif
	:: work >= BLOCKERS
#endif
	fi;
	work_is_over(work)
}

inline free_work(work)
{
	if
	:: work < BLOCKERS -> others_left == 0
	:: else
	fi
}

bool told[PRODUCERS]; /* it may be admitted, since it last offered its work */
chan line = [PRODUCERS] of { byte }; /* with IN_LINE: those who wait, as src/iowq/_room.py */

/* Tells all who wait, or the first in line. */
inline room_hook()
{
#ifdef IN_LINE
	wake_first()
#else
	other = 0;
	do
	:: other < PRODUCERS -> told[other] = true; other++
	:: else -> break
	od;
	other = 0
#endif
}

inline wake_first()
{
	if
	:: atomic { len(line) > 0 -> line ? <other> };
		told[other] = true;
		other = 0
	:: else
	fi
}
