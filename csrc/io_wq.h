/*
 * io_wq: io_uring's worker pool in user space.
 *
 * A queue runs works on POSIX threads: a pool per NUMA node, threads that grow
 * when work blocks and shrink when it doesn't, limits of their own for work that
 * may block for ever, hashed work that never runs in parallel with work of the
 * same key, and cancel that reaches running work through a signal. The interface
 * is that of Linux' first fs/io-wq.h (commit 771b53d033e8, Jens Axboe, 2019), with
 * some of the later ones'; what differs says so and says why.
 *
 * Functions return 0 or a negative errno, unless they say otherwise. All of
 * them may be called from any thread, also from inside a work.
 *
 * build.py reads the declarations for Python from this file, so it holds plain
 * declarations only; the preprocessor's lines are for C alone.
 */
#ifndef IO_WQ_H
#define IO_WQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct io_wq;

/* Flags of a work. In Linux' first io-wq the upper eight bits held a folded hash; keys are
 * compared whole here (see io_wq_enqueue_hashed), so no bits are set aside. */
enum {
	IO_WQ_WORK_CANCEL = 1, /* cancel was asked for; written by the queue */
	IO_WQ_WORK_HASHED = 4, /* was enqueued by io_wq_enqueue_hashed */
	IO_WQ_WORK_UNCANCELLABLE = 8, /* once running it is never interrupted; set it before enqueueing */
	/* May block for ever (sockets, pipes), so that it is counted against a limit
	 * of its own and takes no worker from other, bounded work (files). Set it
	 * before enqueueing. Later kernels' flag and number. */
	IO_WQ_WORK_UNBOUND = 32,
	/* Has waited until a full queue admits it: see io_wq_set_waiters. Set it before enqueueing. */
	IO_WQ_WORK_WAITED = 64,
};

/* The node that a work is for: (n + 1) << IO_WQ_WORK_NODE_SHIFT among the flags, before
 * enqueueing, n being the kernel's number of the node. 0: that of the enqueueing CPU. */
enum { IO_WQ_WORK_NODE_SHIFT = 16 };

enum io_wq_cancel {
	IO_WQ_CANCEL_OK,       /* cancelled before started */
	IO_WQ_CANCEL_RUNNING,  /* found, running, and attempted cancelled */
	IO_WQ_CANCEL_NOTFOUND, /* work not found */
};

struct io_wq_list {
	struct io_wq_list *next, *prev;
};

/* A key that has work: see hash.c. Private to the queue. */
struct io_wq_key {
	struct io_wq_key *next, **link;
	void *id;
	struct io_wq_list waiting;
};

/*
 * One work, embedded in a struct of its owner. Queueing allocates nothing.
 *
 * From the call that enqueues it until its func has returned, the memory is
 * the queue's and must stay valid. The owner learns that from free_work (see
 * struct io_wq_data) if there is one, which may come after a flush; else from io_wq_flush
 * or io_wq_destroy; func itself can't tell.
 */
struct io_wq_work {
	struct io_wq_list list;            /* private */
	void (*func)(struct io_wq_work **); /* see io_wq_enqueue */
	unsigned flags;                    /* IO_WQ_WORK_*; io_wq_work_cancelled reads it */
	int error;                         /* if cancelled before started: the errno why */
	unsigned state;                    /* private, as all below */
	unsigned pool;
	struct io_wq *wq;
	uint64_t seq;
	int64_t enqueued_ns;
	struct io_wq_key key;
};

#define INIT_IO_WORK(work, _func) \
	do { \
		(work)->func = _func; \
		(work)->flags = 0; \
		(work)->error = 0; \
		(work)->state = 0; \
	} while (0)

/* What io_wq_create needs beside the concurrency. All zero means: defaults. */
struct io_wq_data {
	const char *name;         /* begins the threads' names, as in iowq-0/3 (unbounded: iowq-0/u3);
				   * NULL: "iowq" */
	unsigned unbounded;       /* workers per node for unbounded work, at most, up to
				   * IO_WQ_CONCURRENCY_MAX; 0: that (the kernel: RLIMIT_NPROC) */
	unsigned max_pending;     /* with that many pending works the queue is full: enqueueing
				   * says EBUSY; 0: never */
	int parallel;             /* works run on all CPUs of a node at once; 0: on one, and while its
				   * work doesn't block no other worker is woken (an interpreter's
				   * lock lets one run, say) */
	unsigned idle_timeout_ms; /* an idle worker's life, but for each node's last bounded
				   * one, which stays; 0: 5000 */
	size_t stack_size;        /* of each thread, bytes; 0: the system's default */
	int cancel_signal;        /* 0: the highest free one, from SIGRTMAX-2 down */
	int cancel_error;         /* errno that cancelled work's system calls return; 0: EINTR */
	unsigned cancel_grace_ms; /* after such a return, for clean-up; 0: 1000 */
	int cancel_insists;       /* work that goes on after its grace has no other, until
				   * it is claimed (see interrupt) */

	/* Hooks, each NULL or called with ctx; io_wq.c's states say when.
	 * Of the first three only worker_busy may wait long (an interpreter's lock, say). */
	void *ctx;
	void (*worker_start)(void *ctx, const char *name); /* first in a thread */
	void (*worker_busy)(void *ctx);                    /* before it takes work */
	void (*worker_idle)(void *ctx);                    /* before it waits */
	void (*worker_stop)(void *ctx);                    /* last in a thread */
	/* The queue no longer touches this work: its owner may free or reuse
	 * it. Called by the thread that ran func (as later kernels' free_work). */
	void (*free_work)(struct io_wq_work *work);
	/* The queue was full for somebody, and now admits works, or takes no more at
	 * all: whoever was refused may try again. All of them are to be told: there
	 * is one call after any number of refusals. Called, not locked, by a thread
	 * of the queue, or by whoever cancels work or stops the queue, never by who
	 * enqueues; a lock that it takes may thus be held around enqueueing. */
	void (*admit)(void *ctx);
	/* Cancelled work can't be ended by the signal: it computes, waits for a lock,
	 * or its caller is not trusted. Called by a thread of the queue, not
	 * locked, at growing intervals until the work has ended; io_wq_claim_work. */
	void (*interrupt)(void *ctx, struct io_wq *wq);
};

enum { IO_WQ_CONCURRENCY_MAX = 32768 };

/*
 * Makes a queue with workers on each NUMA node that the calling thread may run on.
 * concurrency: workers per node for bounded work, at most; 1 .. IO_WQ_CONCURRENCY_MAX.
 * data: defaults if NULL; copied, name too. Threads start with the first work.
 * Returns NULL with errno: EINVAL (an argument, or no thread can have such a stack), ENOMEM,
 * EBUSY (no signal).
 */
struct io_wq *io_wq_create(unsigned concurrency, const struct io_wq_data *data);

/*
 * Changes how many workers each node may have: values[0] for bounded work,
 * values[1] for unbounded; 0 leaves a limit as it is. Afterwards values holds the
 * former limits. (As io_uring_register_iowq_max_workers.)
 * More: pending work gets workers at once. Fewer: running work goes on, but a
 * worker too many starts no other work and ends.
 * Errors: EINVAL (above IO_WQ_CONCURRENCY_MAX; nothing was changed), ESHUTDOWN
 * (after fork, in the child).
 */
int io_wq_max_workers(struct io_wq *wq, unsigned values[2]);

/*
 * Changes which CPUs the workers may use, of those that the thread that made the queue
 * could: bit c % W of mask[c / W] stands for CPU c, with W bits in a long. NULL: all of
 * them. New works go where they may run from now on; workers with work are moved, too.
 * (As the later kernels' function of this name.)
 * Errors: EINVAL (none is left; nothing was changed), ESHUTDOWN (after fork, in the child).
 */
int io_wq_cpu_affinity(struct io_wq *wq, const unsigned long *mask, unsigned words);

/* Stops the queue (io_wq_stop without a time limit) and frees it. From inside
 * one of its works it is io_wq_put. After fork, in the child, it does nothing:
 * the threads stayed in the parent, and so did the work. */
void io_wq_destroy(struct io_wq *wq);

/* Refuses new work from now on (enqueueing says ESHUTDOWN); what is pending
 * still runs, and when the last work has finished the threads end. Waits for
 * nothing, may be called by a work. The queue stays valid until io_wq_put. */
void io_wq_exit_start(struct io_wq *wq);

/*
 * The first half of io_wq_destroy: refuses new work, cancels pending work,
 * lets running work end, and that which other threads cancel; joins every thread. The
 * queue stays valid, and empty, until io_wq_put. timeout_ms < 0: no limit.
 * Errors: ETIMEDOUT; EINTR (a signal's handler ran: call again); EDEADLK (called
 * by one of its works: nothing was done).
 */
int io_wq_stop(struct io_wq *wq, int timeout_ms);

/* The second half: gives up the caller's hold of the queue without waiting. If
 * threads are left, work is cancelled and refused as in io_wq_stop, and the
 * last thread to end frees the queue. */
void io_wq_put(struct io_wq *wq);

/*
 * Queues work on the node of the calling CPU, or the one that its flags name; of each
 * kind, bounded and unbounded, first in, first started.
 * Never waits for a running work.
 *
 * A node that has no CPU that the workers may use has none: its works are those of the
 * nearest node that does.
 *
 * The queue calls work->func(&work) once, on a worker. func may leave another
 * initialised work in *work: dependent work, run next on the same worker, for
 * which a flush also waits. Dependent work is not hashed (as in Linux)
 * and not counted anew: whether it is bounded or not makes no difference.
 *
 * Errors: ESHUTDOWN (the queue was stopped; the work is untouched). EINVAL (the flags name
 * a node that the queue has no pool for; the work is untouched). EBUSY (it is
 * full, see data.max_pending; the work is untouched; data.admit says when to try
 * again): never said to a work of this queue, which would wait for itself, so that
 * more than max_pending may be pending then. EAGAIN and
 * other errors of pthread_create: no worker is alive and none can be made; the
 * work was completed as cancelled with that error, func has returned.
 */
int io_wq_enqueue(struct io_wq *wq, struct io_wq_work *work);

/*
 * The same, but works with equal keys never run in parallel, and start in the
 * order they were enqueued in, whatever their nodes and kinds. Works whose keys differ
 * never wait for each other (Linux' first io-wq folds all into 64 bits, where two
 * can collide). key is compared, never followed; NULL is a key too.
 */
int io_wq_enqueue_hashed(struct io_wq *wq, struct io_wq_work *work, void *key);

/* So many wait until a full queue admits their works. While anybody does, works that have
 * not waited (IO_WQ_WORK_WAITED) are refused with EBUSY, as by a full queue, so that nobody
 * comes in before those who were there first. */
void io_wq_set_waiters(struct io_wq *wq, unsigned waiting);

/* A flush in three steps, for callers that must do something between two waits. The
 * struct is the caller's, from start until end has returned; end does nothing
 * to one that wasn't started but zeroed. */
struct io_wq_flush {
	struct io_wq_list list; /* private, as all below */
	struct io_wq *wq;
	uint64_t seq;
	uint32_t remaining;
};

/* Waits until all work enqueued before the call has finished, cancelled work
 * included, and not for work enqueued later. timeout_ms < 0: no limit.
 * Errors: ETIMEDOUT; EINTR (a signal's handler ran); EDEADLK (called by one of
 * its works, which would wait for itself). */
int io_wq_flush(struct io_wq *wq, int timeout_ms);
int io_wq_flush_start(struct io_wq *wq, struct io_wq_flush *flush);
int io_wq_flush_wait(struct io_wq_flush *flush, int timeout_ms);
void io_wq_flush_end(struct io_wq_flush *flush);

/*
 * Cancels one work.
 * IO_WQ_CANCEL_OK: it was pending and is off the queue; the calling thread has
 *   run its func, once, with IO_WQ_WORK_CANCEL set and error ECANCELED.
 * IO_WQ_CANCEL_RUNNING: IO_WQ_WORK_CANCEL is set and its worker is signalled, again
 *   and again until func returns, since a signal just before a system call is
 *   lost: an interruptible call sees EINTR. Completion posts normally.
 * IO_WQ_CANCEL_NOTFOUND: it has finished, or isn't this queue's.
 * The work's memory must be valid; the work need never have been enqueued.
 */
enum io_wq_cancel io_wq_cancel_work(struct io_wq *wq, struct io_wq_work *cwork);

/* Cancels all work that is pending or running, as io_wq_cancel_work does. Work
 * enqueued meanwhile may or may not be reached; the queue goes on. */
void io_wq_cancel_all(struct io_wq *wq);

/* The same for all pending work only: running work is left alone. */
void io_wq_cancel_pending(struct io_wq *wq);

/*
 * Cancels the works that match: all of them, or the first found (pending work
 * before running) unless cancel_all. match is called with the queue locked: it
 * must be quick and call no io_wq_ function.
 * Returns IO_WQ_CANCEL_OK if pending work was cancelled, else RUNNING if running
 * work was, else NOTFOUND. (Later kernels' io_wq_cancel_cb.)
 */
enum io_wq_cancel io_wq_cancel_cb(struct io_wq *wq, int (*match)(struct io_wq_work *, void *data),
				  void *data, int cancel_all);

/*
 * With data.cancel_error, what a system call that cancelled work is blocked in returns
 * depends on who called the C library. It is done to calls that may fail at any time,
 * never to futex.
 * UNKNOWN: EINTR, and no more: the caller may try again for ever.
 * TRUSTED: data.cancel_error. The caller takes any error well: the interpreter, libraries
 *   that are known to.
 * CUT_OFF: the connection is shut down, if it is one, and the call returns EINTR: the caller
 *   finds its peer gone. For libraries that would keep a connection whose call has failed,
 *   and take the late answer for the next question's.
 * NAPS: as TRUSTED; but its sleeps return EINTR, quickly one after the other.
 */
enum io_wq_caller {
	IO_WQ_CALLER_UNKNOWN,
	IO_WQ_CALLER_TRUSTED,
	IO_WQ_CALLER_CUT_OFF,
	IO_WQ_CALLER_NAPS,
};

/* Says that about those whose file names begin with prefix; the last that was said counts. (Of the C
 * library, and of a sanitizer's, whoever called them is judged.)
 * Errors: ENOMEM, ENOSPC (some 100 are the most). */
int io_wq_judge_caller(const char *prefix, enum io_wq_caller caller);

/* Trusts the object, program or library, that has this address among its code. */
int io_wq_trust_object(const void *address);

/*
 * For a work's func, around a call of which it knows more than the queue can see.
 * WAIT: the caller waits for a lock, and can tell a time-out that came too early: cancel
 *   makes a wait that has a time limit time out (a futex returns ETIMEDOUT).
 * HIDES_ERRORS: the caller is a library that takes errors badly, so that its caller asks
 *   io_wq_section_end what happened. Any call that may fail returns data.cancel_error,
 *   trusted or not; a poll that has a time limit times out.
 * Sections nest: what io_wq_section_begin returns is given to io_wq_section_end, which
 * returns whether a call in a section that hides errors was ended. No-ops on other threads.
 */
enum io_wq_section { IO_WQ_SECTION_NONE, IO_WQ_SECTION_WAIT, IO_WQ_SECTION_HIDES_ERRORS };
enum io_wq_section io_wq_section_begin(enum io_wq_section section);
int io_wq_section_end(enum io_wq_section before);

/*
 * Around a call of a function that may make system calls, or have others make some. The function
 * that calls io_wq_stack_begin calls that one itself, before io_wq_stack_end. The queue does so
 * with each work's func. Where the C library has no unwinding tables (musl), who makes a system
 * call is known only on what of the stack is below the innermost mark, and only if all callers that
 * the stack tells of there are of one kind: so a mark is best set where few are. own: an address
 * in code of the caller's own, that is passed through as the C library is, and takes any
 * error; or NULL. before: what holds again after the end. No-ops elsewhere.
 */
struct io_wq_stack {
	uintptr_t end, own; /* private */
};
void io_wq_stack_begin(struct io_wq_stack *before, const void *own);
void io_wq_stack_end(const struct io_wq_stack *before);

/* For a work's func: whether a call of this work has been made to return
 * data.cancel_error, or the work was claimed. 0 on other threads. */
int io_wq_worker_interrupted(void);

/*
 * For whoever ends a work by other means than the signal (an exception, say).
 * Returns 1 if this running work is to be ended now, by the caller: nothing else
 * will interrupt it for the grace period. 0: it isn't running, was interrupted
 * lately, is shielded, or was neither cancelled nor is its time up.
 */
int io_wq_claim_work(struct io_wq *wq, struct io_wq_work *work);
int io_wq_worker_claim(void); /* the calling work */

/*
 * Notice, before a work is interrupted. A work's func that has something to be done first
 * (another thread is to tell a server to stop, say) wants notice: then nothing interrupts
 * it, but data.interrupt is called, until notice has been given. want: 0 takes it back.
 * No-op on other threads.
 */
void io_wq_worker_want_notice(int want);

/* Gives it. Begun: from now on the work counts as interrupted, whatever it ends with. Given:
 * the work has the grace period to end by itself, and is interrupted after that. */
void io_wq_give_notice(struct io_wq *wq, struct io_wq_work *work, int given);

/* For a work's func, and no-ops on other threads. Nothing interrupts the work until
 * each shield has been taken down again; then a cancel that came meanwhile goes on. */
void io_wq_worker_shield(void);
void io_wq_worker_unshield(void);
/* Whether the calling work is shielded, or was enqueued as uncancellable. */
int io_wq_worker_shielded(void);
/*
 * The reverse of a shield, for a part of what is shielded as a whole: takes all shields down, also
 * that of uncancellable work, and returns how many there were, which cover puts up again. They
 * nest, in shields and the other way round. When cover returns, nothing is on its way any more.
 */
unsigned io_wq_worker_expose(void);
void io_wq_worker_cover(unsigned shields);

/*
 * For a work's func: interrupts the work, as cancel does but without the flag,
 * from that instant of CLOCK_MONOTONIC on, until another deadline is set. 0: none.
 * A work begins without one. When it returns, nothing of the last deadline is
 * on its way any more.
 * Errors: EINVAL (not a worker); those of pthread_create: no thread to watch the time.
 */
int io_wq_worker_set_deadline(int64_t ns);
/* The deadline, 0 if there is none, or -1 if the caller isn't a work. */
int64_t io_wq_worker_deadline(void);
/* The same for a work that runs, from any thread; what is on its way may still come.
 * Errors: ESRCH (it doesn't run); those of pthread_create. */
int io_wq_set_deadline(struct io_wq *wq, struct io_wq_work *work, int64_t ns);
/* Whether cancel was asked for the calling work. */
int io_wq_worker_cancelled(void);

/*
 * Lends the calling thread, whoever made it, a worker's part, until it ends: work counts as running on
 * it, and all that is said here of a work that runs, and of its func, holds for what the thread does
 * meanwhile. func is not called, and free_work isn't either. A thread is a guest of one
 * queue at a time; a worker may be one while its own work isn't to be interrupted, and is the
 * guest alone meanwhile. The queue isn't freed before its guests have left.
 * Errors: EBUSY (it is one already), ESHUTDOWN (the queue was stopped), ENOMEM.
 */
int io_wq_guest_begin(struct io_wq *wq, struct io_wq_work *work);
/* When it returns, nothing that was meant for the work is on its way any more. Of a thread that
 * has ended, or will never run again, another one may say so. */
void io_wq_guest_end(struct io_wq *wq, struct io_wq_work *work);

/* For a work's func: whether io_wq_worker_claim might return 1 now. */
int io_wq_worker_is_due(void);

/* For a work's func: 1 if cancel was asked for, else 0. */
int io_wq_work_cancelled(const struct io_wq_work *work);

/* A work calls these around a section that may block, so that another worker
 * takes over at once; blocking that nobody announced is noticed, but later.
 * They nest, stand for the calling thread (the kernel's task_struct), and do nothing on
 * a thread that isn't a worker. */
void io_wq_worker_sleeping(void);
void io_wq_worker_running(void);

/*
 * A work calls these around a wait for another work of its queue. Meanwhile its worker doesn't
 * count against the limit (io_wq_max_workers), so that works that wait for each other on all
 * workers don't keep the awaited ones from running. work: the awaited one; NULL: some.
 * Returns 1, and is to be followed by io_wq_worker_await_end; or 0: there is no need, since the
 * caller is no work of this queue; or an error:
 * EDEADLK: the work has the key of the caller's, so that it can't start before that ends;
 * EAGAIN: all workers wait so, and no other one can be made.
 */
int io_wq_worker_await(struct io_wq *wq, const struct io_wq_work *work);
void io_wq_worker_await_end(void);

/* For a work's func: how it ends, for the statistics; IO_WQ_FINISHED unless it says so.
 * (A work that was cancelled before it started needn't say so.) */
enum io_wq_outcome { IO_WQ_FINISHED, IO_WQ_FAILED, IO_WQ_CANCELLED };
void io_wq_worker_set_outcome(enum io_wq_outcome outcome);

/* For a work's func: free_work of this work will run no foreign code, nor wait. So it may be
 * called when the worker has its next work already, which saves a turn of the lock. */
void io_wq_worker_frees_quickly(void);

/* Bounds of the waiting times that are counted: bucket i has those below 2^i us. */
enum { IO_WQ_WAITS = 32 };

/* Counts at one instant; nodes, and bounded and unbounded work, are added up. All of
 * enqueued has been cancelled, has finished, is running or pending. */
struct io_wq_stats {
	uint64_t enqueued;  /* since the queue was made, as all uint64_t */
	uint64_t started;
	uint64_t finished;  /* func has returned, failed works included */
	uint64_t failed;
	uint64_t cancelled; /* before they started, or as io_wq_worker_set_outcome said */
	unsigned pending;   /* not started: runnable, or behind work of their key */
	unsigned longest;   /* the most that were ever pending */
	unsigned running;   /* started, not finished: blocked ones too */
	unsigned blocked;   /* of these, those that said, or seem, to wait for something */
	unsigned workers;   /* threads alive, in any state */
	unsigned idle;      /* workers that wait for work */
	uint64_t created;   /* threads */
	uint64_t retired;
	uint64_t waits[IO_WQ_WAITS]; /* from enqueued to started: one work in 32 is timed */
};
void io_wq_get_stats(struct io_wq *wq, struct io_wq_stats *stats);
/* And, at the same instant, of each node of the queue's topology, by its index in an array of
 * as many; longest is the queue's, there too. */
void io_wq_get_node_stats(struct io_wq *wq, struct io_wq_stats *stats, struct io_wq_stats *nodes);

/* A worker, as a visitor sees it: valid during the visit. */
struct io_wq_worker_info {
	struct io_wq_work *work; /* what it runs, or NULL */
	int tid;                 /* 0: its thread hasn't started yet */
	int cancelled;           /* its work is to be ended */
	int shielded;
	int needs_injection; /* to be ended, but not by a signal, or not within a second; or it is to
			   * have notice first */
};
/* Calls visit for each worker, or for each pending work. The queue is locked: visit
 * must be quick and call no io_wq_ function. */
void io_wq_visit_workers(struct io_wq *wq,
			 void (*visit)(const struct io_wq_worker_info *info, void *data), void *data);
void io_wq_visit_pending(struct io_wq *wq, void (*visit)(struct io_wq_work *work, void *data),
			 void *data);

/*
 * Lets other processes see what this one's queues do: io_wq_page.h says how. From the next worker that
 * starts on there is a page, and a thread that sleeps until somebody asks, for as long as any queue
 * has workers. Without descriptors, memory or threads for that there is none, and all else goes on.
 * What a look costs is paid by the process while somebody looks: a queue is locked once for each of its
 * workers that has work, and for 512 of its keys at a time.
 * hooks: constant; each is called with the queue locked: it must be quick and call no io_wq_ function.
 */
struct io_wq_watch_hooks {
	/* Writes what a running work is. Returns the instant of CLOCK_MONOTONIC, ns, at which it was
	 * started, or 0. The work may end meanwhile, but isn't given back. */
	int64_t (*describe_work)(const struct io_wq_work *work, char *text, size_t size);
	/* Writes what the key of this work is, which is pending or runs. */
	void (*describe_key)(const struct io_wq_work *work, char *text, size_t size);
	/* Returns how many works of the pending work's key have not ended; 0: the queue is to count them
	 * itself, up to 1,000. */
	unsigned (*count_key)(const struct io_wq_work *work);
};
void io_wq_let_watch(const struct io_wq_watch_hooks *hooks);

/* For who watches: wakes the process whose page this is, which is mapped here. */
void io_wq_ask_page(void *page);

/* The system call that a thread of this process is blocked in. */
struct io_wq_blocked_call {
	long nr;
	unsigned long args[6];
	const char *name;   /* NULL: not one that cancel can end */
	int has_descriptor; /* whether args[0] is one */
};
/* Returns 1 if the thread is blocked in a call, 0 if not, or a negative errno. */
int io_wq_get_blocked_call(int tid, struct io_wq_blocked_call *call);

/* What cancel can do on this machine: IO_WQ_CAN_*. */
enum {
	IO_WQ_CAN_SEE_CALLS = 1,   /* /proc tells what a thread is blocked in */
	IO_WQ_CAN_END_CALLS = 2,   /* the processor is known */
	IO_WQ_CAN_FIND_CALLERS = 4, /* the C library tells who called it, or the stack does */
};
unsigned io_wq_cancel_support(void);

/* The signal that interrupts this queue's workers. */
int io_wq_cancel_signal(const struct io_wq *wq);

/* The machine as a new queue would see it: the nodes with CPUs that the caller may use. */
struct io_wq_topology;
struct io_wq_topology *io_wq_topology_create(void); /* NULL with errno */
void io_wq_topology_destroy(struct io_wq_topology *topology);
unsigned io_wq_topology_nodes(const struct io_wq_topology *topology);
int io_wq_topology_node_id(const struct io_wq_topology *topology, unsigned index);
/* All CPUs' numbers are below that. */
unsigned io_wq_topology_nr_cpus(const struct io_wq_topology *topology);
/* Whether the process may run on this CPU and it belongs to the node: 1 or 0. */
int io_wq_topology_node_has_cpu(const struct io_wq_topology *topology, unsigned index, unsigned cpu);
/* Bytes of memory on the node, or -1 if unknown. */
int64_t io_wq_topology_node_memory(const struct io_wq_topology *topology, unsigned index);
/* How far the second node's memory is from the first one's CPUs: 10 is a node's own. */
int io_wq_topology_distance(const struct io_wq_topology *topology, unsigned from, unsigned to);
/* NULL if libnuma serves, else why there is one node without binding. */
const char *io_wq_topology_problem(const struct io_wq_topology *topology);
/* The file that libnuma was loaded from, or NULL. */
const char *io_wq_topology_library(const struct io_wq_topology *topology);
/* What a queue has pools for; as long as the queue. */
const struct io_wq_topology *io_wq_get_topology(const struct io_wq *wq);

#ifdef __cplusplus
}
#endif
#endif
