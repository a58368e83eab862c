/* What the files of the queue share. The states, and which lock guards what,
 * stand at the top of queue.c. */
#ifndef IO_WQ_INTERNAL_H
#define IO_WQ_INTERNAL_H

#include "cancel/blocked_call.h"
#include "core/list.h"
#include "core/spin.h"

#include <pthread.h>
#include <sys/types.h>

/* ---- structs; all fields are guarded by wq->lock unless they say otherwise */

enum io_work_state {
	IO_WORK_NONE,     /* not enqueued, running, or finished */
	IO_WORK_RUNNABLE, /* in its pool's run queue */
	IO_WORK_WAITING,  /* behind earlier work of its key */
};

enum io_worker_state {
	IO_WORKER_STANDBY, /* on its way to work, or watching those who run */
	IO_WORKER_RUNNING, /* has work and seems to get on with it */
	IO_WORKER_BLOCKED, /* has work and said, or seems, or is expected, to wait for something */
	IO_WORKER_IDLE,    /* waits for work */
};

struct io_worker {
	struct io_wq_list all;  /* in pool->workers or pool->spares */
	struct io_wq_list list; /* in pool->idle or pool->running, by state */
	struct io_pool *pool;
	enum io_worker_state state;
	uint32_t asleep; /* atomic, a futex: 1 while it waits and nobody woke it */
	long long woken_at; /* monotonic_ns(); 0: not since it waits */
	char name[64];
	long long rebind_tried; /* monotonic_ns(): see io_worker_rebind_if_moved */

	struct io_wq_work *cur_work; /* its func runs, or has just returned */
	uint64_t seq;                /* of the work that cur_work is, or depends on */
	struct io_wq_key key;    /* held while cur_work is hashed */
	bool hashed;
	unsigned awaiting;  /* calls of io_wq_worker_await that are open */
	unsigned announced; /* its thread's: calls of io_wq_worker_sleeping that are open */
	long sleeps; /* of its thread, ever: see has_slept */
	bool sampled; /* cur_work is: see will_sleep */
	bool slept, slept_often; /* its thread's: what the last sampled work did */
	enum io_wq_outcome outcome; /* as cur_work has said */
	bool frees_quickly;         /* its thread's: as cur_work has said */

	bool cancelling;          /* cur_work is to be interrupted until it ends */
	long long deadline;       /* monotonic_ns() from which on it is, too; 0: none */
	unsigned shields;         /* atomic; written by its thread: > 0, nothing interrupts it */
	unsigned wants_notice;    /* atomic; of its thread's hooks, before it is interrupted */
	bool noticed;             /* atomic: it has had it, since it is to be ended */
	unsigned naps;            /* atomic: that were cut short, of cur_work's */
	pid_t tid;                /* 0 until the thread has started */
	clockid_t cpu_clock;      /* how long its thread has had a processor; set with tid */
	long long computed;       /* that, in ns, when the tick began */
	int call_fd;              /* /proc/self/task/TID/syscall; < 0: not open */
	struct io_blocked_call call; /* what the signal on its way is to interrupt */
	bool call_armed;          /* atomic: the handler may read it */
	bool callers_known;       /* set with call_armed */
	bool insisting;           /* the call's end brings no grace; set with call_armed */
	bool call_refused;        /* atomic: its caller wasn't trusted */
	uint64_t wanted_lately;   /* seq of the work that was to be ended in the last round */
	long long wanted_since;   /* monotonic_ns() of that work's first round */
	bool needs_injection;        /* the sender found no call that it can end */
	enum io_wq_section section; /* atomic; its thread's */
	bool section_ended;       /* its thread's, and its handler's */
	bool interrupted;         /* atomic: it has, in this work */
	bool interrupted_lately;  /* atomic: it has, since the sender last asked */
	long long grace_until;    /* monotonic_ns() until which nothing interrupts it */
	bool grace_of_cancel;     /* else of a deadline */
	long long signalled_at;   /* monotonic_ns() of cur_work's first signal; 0: none */
	unsigned signals_sent;
	unsigned signals_handled; /* atomic; written by the handler only */
	bool was_deaf;            /* a guest's, constant: its thread had the signal blocked */
};

/* Two processors take turns with each cache line that both of them write to, which takes
 * longer than all that they do with it. So what each work changes is in few of them. */
enum { CACHE_LINE = 64 };

enum io_pool_kind { IO_POOL_BOUND, IO_POOL_UNBOUND, IO_POOL_KINDS };

/* A node's pool for one kind of work (the kernel's io_wqe with one io_wqe_acct). */
struct io_pool {
	struct io_wq_list run; /* runnable works */
	uint64_t enqueued;
	uint64_t started; /* works begun, ever: progress, to whoever watches */
	struct io_wq_list running;
	unsigned nr_running;
	unsigned width; /* so many run at once, if there is work for them: see worker.c */
	struct io_worker *standby;
	struct io_wq *wq; /* each work needs these, but not what follows */

	unsigned node; /* constant, as kind: its index in the topology */
	enum io_pool_kind kind;
	unsigned max_workers; /* at least 1 */
	unsigned nr_workers;
	unsigned nr_awaiting; /* of these: calls of io_wq_worker_await that are open */
	unsigned next_name;
	unsigned samples; /* so many of the next works are to be sampled */
	unsigned sleepy;  /* 0 to SLEEPY_MAX: how many of the last did sleep */
	struct io_wq_list idle; /* the last to fall idle first */
	struct io_wq_list workers;
	struct io_wq_list spares; /* workers whose threads have ended, for new ones */
	struct io_wq_list blocks; /* of memory on the node, that workers are in */
	long long tick;        /* ns after which the standby wakes up again */
	long long tick_end;    /* monotonic_ns() */
	uint64_t tick_started; /* started, when the tick began */
	long long quiet_ns;    /* for how long no work has been begun, in whole ticks */
	struct io_spin spin; /* of those who fall idle; atomic */

	/* for io_wq_get_stats, as enqueued */
	uint64_t failed;
	uint64_t dropped;   /* cancelled before they started */
	uint64_t cancelled; /* after that */
	uint64_t waits[IO_WQ_WAITS];
} __attribute__((aligned(CACHE_LINE)));

struct io_wq_keys {
	struct io_wq_key **buckets;
	unsigned bits;
	size_t count;
};

struct io_wq {
	pthread_mutex_t lock;
	/* not in its cache line, at which those who wait for the lock read all the time */
	uint32_t *wake __attribute__((aligned(CACHE_LINE))); /* futex to wake once it is free */
	uint64_t seq;         /* works enqueued, ever */
	unsigned unfinished;
	unsigned pending, longest;
	struct io_wq_list flushers;

	bool refusing;          /* takes no new work */
	bool exiting;           /* has no pending work, and idle threads end */
	unsigned waiters;          /* how many wait for admission: io_wq_set_waiters */
	bool refused_any;       /* it was full for somebody since data.admit was called */
	bool orphan;            /* io_wq_put: the last to leave frees */
	unsigned users;         /* flushes, and threads that complete cancelled work */
	unsigned fork_generation; /* constant: see io_wq_forked */
	struct io_wq_data data; /* constant, as name, topology and signal */
	char name[48];
	int signal;
	struct io_wq_topology *topology;
	struct io_node_affinity *affinities; /* of each node */
	bool may_spin;          /* constant: there are other processors */
	struct io_spin flush_spin; /* atomic */

	struct io_wq_keys keys;

	pthread_attr_t thread_attr; /* constant */
	uint32_t nr_threads;  /* futex: workers and the canceller */
	bool has_exited;      /* last_exited waits to be joined */
	pthread_t last_exited;

	unsigned call_fds;    /* workers that have a call_fd */
	bool has_canceller;
	long long canceller_wakes; /* monotonic_ns() at which it scans the workers */
	uint32_t canceller_asleep; /* atomic; futex */

	struct io_wq_list watched; /* watch.c's lock guards these: in its list of queues, */
	unsigned watched_workers;  /* while it has such */
	uint64_t watch_id;
	size_t watch_cursor;       /* the watcher's: see look.c */

	unsigned nr_pools;
	struct io_pool pools[]; /* each node's, one for each kind; see io_pool_index. And guests' */
};

/* Guests have no run queue and no limit: they are in a pool of their own, the last one. */
static inline struct io_pool *io_wq_guests(struct io_wq *wq)
{
	return &wq->pools[wq->nr_pools];
}

/* The index in wq->pools of a node's pool for a kind of work. */
static inline unsigned io_pool_index(unsigned node, enum io_pool_kind kind)
{
	return node * IO_POOL_KINDS + kind;
}

#define for_each_pool(pool, wq) \
	for (struct io_pool *pool = (wq)->pools; pool < (wq)->pools + (wq)->nr_pools; pool++)

/* For each worker of all pools, and each guest. Locked; none may end meanwhile. */
#define for_each_worker(worker, wq) \
	for (struct io_pool *pool_ = (wq)->pools; pool_ <= io_wq_guests(wq); pool_++) \
		for (struct io_worker *worker = container_of(pool_->workers.next, struct io_worker, all); \
		     &worker->all != &pool_->workers; \
		     worker = container_of(worker->all.next, struct io_worker, all))

/* ---- queue.c */
void io_wq_free(struct io_wq *wq);
void io_wq_let_threads_end(struct io_wq *wq);
void io_wq_unlock_and_leave(struct io_wq *wq);
void io_wq_lock(struct io_wq *wq);
void io_wq_unlock(struct io_wq *wq);
void io_wq_unlock_and_tell(struct io_wq *wq);

/* ---- fork.c */
unsigned io_wq_fork_generation(void);
bool io_wq_forked(const struct io_wq *wq);

/* ---- threads.c */
int io_wq_thread_attr_init(pthread_attr_t *attr, size_t stack_size);
int io_wq_thread_create(struct io_wq *wq, void *(*main)(void *), void *arg);
void io_wq_thread_exit(struct io_wq *wq);
int io_wq_join_threads(struct io_wq *wq, long long deadline);

/* ---- work.c */
bool io_work_is_pending(const struct io_wq *wq, const struct io_wq_work *work);
void io_work_queue(struct io_wq *wq, struct io_wq_work *work);
void io_work_take_off(struct io_wq_work *work);
void io_work_start(struct io_worker *worker);
struct io_wq_work *io_work_call(struct io_wq_work *work);
void io_work_done(struct io_worker *worker, struct io_wq_work *next);
void io_work_free(struct io_wq *wq, struct io_wq_work *work);
void io_work_flag_cancel(struct io_wq_work *work);

/* ---- hash.c */
int io_wq_keys_init(struct io_wq_keys *keys);
void io_wq_keys_free(struct io_wq_keys *keys);
bool io_wq_keys_join(struct io_wq_keys *keys, struct io_wq_work *work);
void io_wq_keys_replace(struct io_wq_key *old, struct io_wq_key *new);
struct io_wq_work *io_wq_keys_leave(struct io_wq_keys *keys, struct io_wq_key *key);

/* ---- worker.c */
extern _Thread_local struct io_worker *io_wq_current_worker;
extern _Thread_local struct io_worker *io_wq_current_guest; /* what cancel knows instead, or NULL */
int io_pool_need_worker(struct io_pool *pool);
void io_worker_wake(struct io_worker *worker);
void io_worker_stop_awaiting(struct io_worker *worker);
void io_pool_set_max_workers(struct io_pool *pool, unsigned max_workers);
void io_pool_free_workers(struct io_pool *pool);

/* ---- stats.c */
void io_pool_note_wait(struct io_pool *pool, long long ns);
void io_worker_note_outcome(struct io_worker *worker);
void io_wq_add_up(struct io_wq *wq, struct io_wq_stats *stats, struct io_wq_stats *nodes);

/* ---- flush.c */
void io_wq_finished(struct io_wq *wq, uint64_t seq);
int io_wq_flush_until(struct io_wq *wq, long long deadline);

#endif
