/*
 * The page: what another process sees of this one's queues.
 *
 * It is a memfd of this process, named IO_WQ_PAGE_NAME, sealed in size. Whoever may look into
 * /proc/PID/fd opens it there, maps it shared, and checks magic, version, size and pid. Then, for
 * each look:
 *
 *   1. adds one to request, and wakes one who waits for that word (FUTEX_WAKE, not private),
 *   2. waits until answered is what request has become,
 *   3. copies the snapshot; and again, if sequence was odd before, or another one after.
 *
 * The process answers by a thread of its own that runs no Python code and waits for nothing but
 * the queues' locks; it sleeps while nobody asks. Of what others write it believes nothing.
 *
 * Texts are UTF-8, cut to fit, maybe within a character, and end with a NUL. Times are
 * CLOCK_MONOTONIC's, in ns.
 */
#ifndef IO_WQ_PAGE_H
#define IO_WQ_PAGE_H

#include <stdint.h>

#define IO_WQ_PAGE_NAME "iowq-page"
#define IO_WQ_PAGE_MAGIC "iowqpage" /* without its NUL */

enum {
	IO_WQ_PAGE_VERSION = 1, /* another one: another layout */
	IO_WQ_PAGE_QUEUES = 32,
	IO_WQ_PAGE_WORKERS = 256,
	IO_WQ_PAGE_KEYS = 10, /* of each queue */
	IO_WQ_PAGE_WAITS = 32, /* IO_WQ_WAITS */
};

/* A key that works wait for. */
struct io_wq_page_key {
	char text[60];
	uint32_t works; /* of it, that have not ended: one of them runs, or is runnable */
};

/* A queue that has threads. See struct io_wq_stats. */
struct io_wq_page_queue {
	uint64_t id; /* no other queue of this process had it */
	uint64_t enqueued, started, finished, failed, cancelled, created, retired;
	uint64_t waits[IO_WQ_PAGE_WAITS];
	uint32_t pending, longest_pending, running, blocked, workers, idle;
	uint32_t max_workers, max_unbounded; /* of each node */
	uint32_t nodes;
	uint32_t keys;      /* that have works */
	uint32_t keys_seen; /* of these, so many were looked at for the longest */
	uint32_t nr_longest;
	struct io_wq_page_key longest[IO_WQ_PAGE_KEYS]; /* the longest first */
	char name[48];
};

enum io_wq_page_flags {
	IO_WQ_PAGE_UNBOUND = 1,
	IO_WQ_PAGE_WORKING = 2,    /* it has a work */
	IO_WQ_PAGE_WAITING = 4,    /* that waits for something, as it said, or as it seems */
	IO_WQ_PAGE_CANCELLING = 8, /* that is to be ended */
	IO_WQ_PAGE_SHIELDED = 16,
	IO_WQ_PAGE_HASHED = 32, /* that has a key */
};

/* A worker. Those that have a work come first. */
struct io_wq_page_worker {
	uint64_t queue;
	uint64_t seq;       /* of the work, among the queue's */
	int64_t started_ns; /* 0: not known */
	int32_t tid;
	int32_t node;       /* the kernel's number; -1: the machine is taken as one */
	uint32_t flags;
	uint32_t reserved;
	char work[96];      /* "": not known */
	char key[60];
	char call[100];     /* that its thread is blocked in; "": none */
};

struct io_wq_page_snapshot {
	int64_t taken_ns;
	int64_t cost_ns; /* of the process's time, without pauses: to take it */
	uint32_t nr_queues, queues_left_out;
	uint32_t nr_workers, workers_left_out;
	struct io_wq_page_queue queues[IO_WQ_PAGE_QUEUES];
	struct io_wq_page_worker workers[IO_WQ_PAGE_WORKERS];
};

struct io_wq_page {
	char magic[8];
	uint32_t version;
	uint32_t size; /* of all this */
	int32_t pid;   /* as the process itself knows it */
	uint32_t ended; /* there will be no more answers: no queue has a thread */
	uint32_t request; /* the only word that others write */
	uint32_t answered;
	uint32_t sequence; /* odd: the snapshot is being written */
	uint32_t reserved;
	struct io_wq_page_snapshot snapshot;
};

#endif
