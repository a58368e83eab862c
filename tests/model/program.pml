/* The program's threads: those who enqueue, who changes the limit, who ends the queue. */

byte producing = PRODUCERS;

inline offer()
{
	told[me] = false; /* a refusal after this is followed by a call of data.admit */
	io_wq_enqueue(work, result)
}

/* Offers the work until the queue isn't full. */
inline enqueue_with_room()
{
	offer();
	if
	:: result == BUSY ->
#ifdef IN_LINE
		line ! me;
		offer();
#endif
		do
		:: result == BUSY -> told[me]; offer()
		:: else -> break
		od;
#ifdef IN_LINE
		line ?? eval(me);
#ifndef BREAK_LINE_STOPS
		wake_first()
#endif
#endif
	:: else
	fi
}

/* Enqueues its share of the works, or has it refused by a queue that ends. */
active [PRODUCERS] proctype producer()
{
	LOCALS;
	LOCALS_OF_CANCEL;
	byte me = _pid - SLOTS, work = _pid - SLOTS;
	mtype result = OK;

	do
	:: work < WORKS ->
		enqueue_with_room();
		if
		:: result == SHUTDOWN -> finished[work] = true; work_is_over(work)
		:: else
		fi;
		work = work + PRODUCERS
	:: else -> break
	od;
	atomic { producing-- }
}

#ifdef LIMITS
/* Lowers the limit, as far as the works that block leave one worker, and raises it. */
active proctype limiter()
{
	LOCALS;

	io_wq_lock();
	io_pool_set_max_workers(BLOCKERS + 1);
	io_wq_unlock();
	io_wq_lock();
	io_pool_set_max_workers(LIMIT);
	io_wq_unlock()
}
#endif

/* Ends the queue, in one of its ways, and waits for its threads' end. */
active proctype ender()
{
	LOCALS;
	LOCALS_OF_CANCEL;

	if
	:: atomic { producing == 0 && unfinished == 0 -> skip };
		io_wq_exit_start()
#ifdef EARLY_END
	:: io_wq_exit_start()
	:: begin_exit()
#endif
	fi;
	producing == 0;
	nr_threads == 0; /* io_wq_join_threads */
	assert(unfinished == 0 && pending == 0 && len(runnable) == 0 && nr_workers == 0)
}
