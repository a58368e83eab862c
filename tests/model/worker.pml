/*
 * csrc/worker.c, for one pool. Each inline models the function of its name; the labels of
 * the proctype, those that wait. Locals that are not needed any more are set to what
 * they were at first: the checker then has fewer states to tell apart.
 */
mtype = { STANDBY, RUNNING, BLOCKED, IDLE, GONE };

mtype state[SLOTS] = GONE; /* of each worker's memory; GONE: a spare */
bool thread[SLOTS];        /* pthread_create was called, and main hasn't begun */
byte standby = NONE;
byte tick_started;         /* started, when the standby's tick began */
byte max_workers = LIMIT, nr_workers;
byte nr_standby, nr_running, nr_idle; /* counted from the states */
byte failures = FAILURES; /* how often at most no thread can be made */
bool could_not_create;    /* a thread, when one was needed last */

inline io_worker_wake(w)
{
	if
	:: asleep[w] == 1 ->
		asleep[w] = 0;
#ifndef BREAK_ONE_WAKE_ONLY
		if
		:: wake != NONE -> futex_wake(wake)
		:: else
		fi;
#endif
		wake = w
	:: else
	fi
}

inline set_state(w, s)
{
	nr_standby = nr_standby - (state[w] == STANDBY) + (s == STANDBY);
	nr_running = nr_running - (state[w] == RUNNING) + (s == RUNNING);
	nr_idle = nr_idle - (state[w] == IDLE) + (s == IDLE);
	state[w] = s
}

inline set_standby(w)
{
	set_state(w, STANDBY);
	standby = w;
	tick_started = started /* begin_tick */
}

/* Any of those in a state: nothing may depend on which of them a list has first. */
inline find(w, s)
{
	if
	:: state[0] == s -> w = 0
	:: state[1] == s -> w = 1
#if SLOTS > 2
	:: state[2] == s -> w = 2
#endif
#if SLOTS > 3
	:: state[3] == s -> w = 3
#endif
	fi
}

inline create_worker()
{
	if
	:: failures > 0 -> failures--; could_not_create = true
	:: true ->
		find(other, GONE);
		asleep[other] = 0;
		thread[other] = true;
		nr_threads++;
		nr_workers++;
		assert(nr_workers <= max_workers);
		could_not_create = false;
		set_standby(other)
	fi
}

/* With PARALLEL, works run on two processors, or on one, as each tick finds right. */
#ifdef PARALLEL
byte width = 1;
inline set_width()
{
	if
	:: width = 1
	:: width = 2
	fi
}
#else
#define width 1
#endif
#define has_room() (nr_running < width)

inline io_pool_need_worker()
{
	if
	:: len(runnable) == 0
#ifndef BREAK_SECOND_STANDBY
	:: len(runnable) > 0 && standby != NONE ->
		if
#ifndef BREAK_STANDBY_NOT_WOKEN
		:: has_room() -> io_worker_wake(standby)
#endif
		:: else
		fi
	:: len(runnable) > 0 && standby == NONE ->
#else
	:: len(runnable) > 0 ->
#endif
		if
		:: nr_idle > 0 ->
			find(other, IDLE);
			set_standby(other)
#ifndef BREAK_IDLE_NOT_WOKEN
			; io_worker_wake(other)
#endif
#ifdef BREAK_LIMIT
		:: nr_idle == 0 && nr_workers < SLOTS ->
#else
		:: nr_idle == 0 && nr_workers < max_workers ->
#endif
			create_worker()
		:: else
		fi;
		failed = (nr_workers == 0) /* no other pool that give_works_away could find */
	fi;
	other = 0
}

#define is_crowded() (nr_workers > max_workers)

inline io_pool_set_max_workers(n)
{
	max_workers = n;
	if
	:: is_crowded() ->
		other = 0;
		do
		:: other < SLOTS ->
			if
			:: state[other] == IDLE -> io_worker_wake(other)
			:: else
			fi;
			other++
		:: else -> break
		od;
		other = 0
	:: else
	fi;
#ifndef BREAK_RAISED_LIMIT
	io_pool_need_worker()
#endif
}

/* end: how the wait may end without a wake-up. */
inline wait_unlocked(end)
{
#ifdef BREAK_ASLEEP_SET_UNLOCKED
	io_wq_unlock();
	asleep[me] = 1;
#else
	asleep[me] = 1;
	io_wq_unlock();
#endif
	futex_wait(me, end, timed_out);
	io_wq_lock();
	asleep[me] = 0;
	end = NEVER
}

#ifdef NONE_STAYS
#define stays() false /* as for unbounded work */
#else
#define stays() (nr_workers == 1)
#endif

/* How the wait of stay_idle may end. */
inline idle_end(end)
{
	if
	:: end = NEVER
#ifdef IDLE_TIMEOUT
	:: !stays() -> end = EARLY
#endif
#ifdef SIGNALS
	:: end = SIGNAL
#endif
	fi
}

/* How the wait of watch may end. Only where works block without a word, nothing but
 * a tick may help, so there one comes. */
inline tick_end(end)
{
	if
#if defined(UNANNOUNCED) && !defined(BREAK_TICKS)
	:: end = LATE
#else
	:: end = NEVER
#endif
#ifdef TICKS
	:: end = EARLY
#endif
#ifdef SIGNALS
	:: end = SIGNAL
#endif
	fi
}

inline take_for_blocked()
{
	other = 0;
	do
	:: other < SLOTS ->
		if
		:: state[other] == RUNNING -> set_state(other, BLOCKED)
#ifdef PARALLEL
		:: state[other] == RUNNING && !blocks[other] /* it computes */
#endif
		:: else
		fi;
		other++
	:: else -> break
	od;
	other = 0
}

#ifdef BREAK_CROWDED_TAKES
#define may_take() (len(runnable) > 0 && (has_room() || started == begun))
#else
#define may_take() (!is_crowded() && len(runnable) > 0 && (has_room() || started == begun))
#endif

/* With PREDICTS, any work may be taken for blocked as it begins. */
inline start_work()
{
	io_work_start(work);
#ifdef PREDICTS
	if
	:: true
	:: set_state(me, BLOCKED)
	fi
#endif
}

inline take_work()
{
	standby = NONE;
	set_state(me, RUNNING);
	start_work();
	busy = true
}

inline next_work()
{
	busy = (state[me] == BLOCKED);
	if
	:: busy -> set_state(me, RUNNING)
	:: else
	fi;
	busy = (len(runnable) > 0 && (nr_running <= width || busy) && !is_crowded());
	if
	:: busy -> start_work()
	:: else -> set_state(me, IDLE)
	fi;
#ifndef BREAK_IDLE_NEEDS_NONE
	io_pool_need_worker()
#endif
}

inline leave_pool()
{
	if
	:: standby == me -> standby = NONE
	:: else
	fi;
	set_state(me, GONE);
	nr_workers--;
#ifndef BREAK_LEAVE_NEEDS_NONE
	io_pool_need_worker()
#endif
}

inline announce(from, to)
{
	io_wq_lock();
	if
	:: state[me] == from ->
		set_state(me, to);
#ifndef BREAK_ANNOUNCE_NEEDS_NONE
		io_pool_need_worker()
#endif
	:: else
	fi;
	io_wq_unlock()
}

active [SLOTS] proctype worker()
{
	LOCALS;
	byte me = _pid, work, done, begun;
	bool timed_out, quiet, busy;
	mtype end = NEVER;

end_spare:
	atomic { thread[me] -> thread[me] = false };
	io_wq_lock();

goes_on:
	if
	:: is_crowded() -> goto leave
	:: !is_crowded() && state[me] == STANDBY -> goto stand_by
	:: else -> goto stay_idle
	fi;

stay_idle:
	if
	:: state[me] != IDLE -> goto stand_by
	:: state[me] == IDLE && (exiting || is_crowded()) -> goto leave
	:: else -> idle_end(end)
	fi;
	wait_unlocked(end);
	if
	:: timed_out && state[me] == IDLE && !stays() -> goto leave
	:: else -> goto stay_idle
	fi;

stand_by:
	quiet = false;
	if
	:: is_crowded() -> goto falls_idle
	:: else -> goto watch
	fi;

watch:
	if
	:: len(runnable) > 0 && has_room() -> goto takes
#ifdef BREAK_EXIT_TAKES_A_TICK
	:: len(runnable) == 0 && quiet -> goto falls_idle
#else
	:: len(runnable) == 0 && (quiet || exiting) -> goto falls_idle
#endif
	:: else -> tick_end(end)
	fi;
	wait_unlocked(end);
	if
	:: timed_out ->
		quiet = (tick_started == started);
		tick_started = started;
#ifdef PARALLEL
		set_width();
#endif
		if
#ifndef BREAK_NONE_TAKEN_FOR_BLOCKED
		:: quiet && len(runnable) > 0 -> take_for_blocked()
#endif
		:: else
		fi
	:: else
	fi;
	goto watch;

takes: /* the rest of stand_by's loop: data.worker_busy is called unlocked */
	begun = started;
	quiet = false;
	io_wq_unlock();
	io_wq_lock();
	if
	:: may_take() -> begun = 0; take_work(); goto run_works
	:: else ->
		begun = 0;
		io_wq_unlock();
		io_wq_lock();
		goto stand_by
	fi;

falls_idle: /* the end of stand_by */
	quiet = false;
	standby = NONE;
	set_state(me, IDLE);
	goto goes_on;

run_works:
#ifndef BREAK_TAKER_NEEDS_NONE
	io_pool_need_worker();
#endif
	tell_of_work();
	do
	:: func(work);
		io_wq_lock();
		done = work;
		work = 0;
		io_wq_finished(done); /* io_work_done */
#if defined(FREES) && !defined(BREAK_FREED_WITH_NEXT_WORK)
		tell_of_work();
		free_work(done);
		io_wq_lock();
#endif
		next_work();
		tell_of_work();
#ifdef BREAK_FREED_WITH_NEXT_WORK
		free_work(done);
#endif
		done = 0;
		if
		:: busy
		:: else -> break
		fi
	od;
	io_wq_lock();
	goto goes_on;

leave:
	leave_pool();
	io_wq_unlock();
	io_wq_lock(); /* io_wq_thread_exit */
	nr_threads--;
	work = 0;
	timed_out = false;
	io_wq_unlock();
	goto end_spare
}
