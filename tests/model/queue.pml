/*
 * csrc/io_wq.c, work.c, flush.c, and of cancel.c what the end needs: the lock, the run
 * queue, admission, and the end.
 *
 * Nothing is made one step that isn't one in the C, but the moments of taking and
 * freeing the lock, and the kernel's. Only memory is taken to be in order, as far as
 * it isn't the lock's: the words `asleep` are atomics.
 */
bool locked;
byte wake = NONE; /* whose word to wake once the lock is free */
bool refusing, exiting, refused_any;
byte pending, unfinished, nr_threads;
byte started; /* works begun, ever */
chan runnable = [WORKS] of { byte }; /* pool->run */

/* What every thread needs that calls the inlines; `failed`: io_pool_need_worker's result. */
#define LOCALS byte to_wake = NONE, other; bool tell, failed

inline io_wq_lock()
{
	atomic { !locked -> locked = true }
}

/* What holds whenever the queue is unlocked: see worker.c. Where no thread could be made,
 * the workers that are alive are as many as can be. */
inline check()
{
	assert(locked && !failed);
#ifndef UNCHECKED
	assert(len(runnable) == 0 || standby != NONE ||
	       (nr_idle == 0 && (nr_workers >= max_workers || could_not_create)));
#endif
	assert(nr_standby == (standby != NONE))
}

inline io_wq_unlock()
{
	atomic {
		check();
#ifdef BREAK_WAKE_FORGOTTEN
		wake = NONE;
#endif
		to_wake = wake;
		wake = NONE;
		locked = false
	};
	if
	:: to_wake != NONE -> atomic { futex_wake(to_wake); to_wake = NONE }
	:: else
	fi
}

inline io_wq_unlock_and_tell()
{
	tell = refused_any && (pending < MAX_PENDING || refusing);
	if
	:: tell -> refused_any = false
	:: else
	fi;
	io_wq_unlock();
	if
	:: tell -> room_hook(); tell = false
	:: else
	fi
}

/* How each of run_works' sections ends. */
inline tell_of_work()
{
#ifdef BREAK_WORK_TELLS_NONE
	io_wq_unlock()
#else
	io_wq_unlock_and_tell()
#endif
}

/* ---- work.c */

inline io_work_queue(work)
{
	runnable ! work;
	pending++;
	unfinished++
}

inline io_work_start(work)
{
	assert(nr_workers <= max_workers);
#ifdef BREAK_WORK_STAYS
	runnable ? <work>;
#else
	runnable ? work;
#endif
	pending--;
	started++;
	late_ticks = 0
}

/* ---- flush.c */

inline io_wq_finished(work)
{
	assert(!finished[work]);
	finished[work] = true;
	unfinished--;
#ifndef BREAK_LAST_WORK_ENDS_NONE
	if
	:: unfinished == 0 && refusing -> io_wq_let_threads_end()
	:: else
	fi
#endif
}

/* ---- stop */

inline io_wq_let_threads_end()
{
	exiting = true;
#ifndef BREAK_EXIT_WAKES_NONE
	other = 0;
	do
	:: other < SLOTS ->
		if
		:: state[other] != GONE -> io_worker_wake(other)
		:: else
		fi;
		other++
	:: else -> break
	od;
	other = 0
#endif
}

inline io_wq_exit_start()
{
	io_wq_lock();
	refusing = true;
	if
	:: unfinished == 0 -> io_wq_let_threads_end()
	:: else
	fi;
	io_wq_unlock_and_tell()
}

/* io_wq_stop's part of the work, but for the wait. */
inline begin_exit()
{
	io_wq_lock();
	refusing = true;
	io_wq_let_threads_end();
	io_wq_unlock_and_cancel_pending()
}

/* cancel.c: the works taken off are completed by the caller. */
#define LOCALS_OF_CANCEL chan mine = [WORKS] of { byte }; byte taken /* works */

inline io_wq_unlock_and_cancel_pending()
{
	do
	:: len(runnable) > 0 -> runnable ? other; pending--; mine ! other
	:: else -> break
	od;
	other = 0;
	io_wq_unlock_and_tell();
	do
	:: len(mine) > 0 ->
		io_wq_lock();
		mine ? taken;
		work_is_over(taken); /* its func */
		io_wq_finished(taken);
		taken = 0;
		io_wq_unlock()
	:: else -> break
	od
}

/* ---- enqueue; result: OK, BUSY or SHUTDOWN */

mtype = { OK, BUSY, SHUTDOWN };

inline io_wq_enqueue(work, result)
{
	io_wq_lock();
	if
	:: refusing -> result = SHUTDOWN
	:: !refusing && pending >= MAX_PENDING ->
		result = BUSY;
#ifndef BREAK_REFUSAL_ARMS_NO_HOOK
		refused_any = true
#endif
	:: else ->
		result = OK;
		io_work_queue(work);
		io_pool_need_worker()
	fi;
	if
	:: failed -> failed = false; io_wq_unlock_and_cancel_pending()
	:: else -> io_wq_unlock()
	fi
}
