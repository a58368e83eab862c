/* Which queues others may look at, and what they see: see watch.c. */
#ifndef IO_WQ_WATCH_H
#define IO_WQ_WATCH_H

#include "core/internal.h"
#include "io_wq_page.h"

/* ---- watch.c. A worker's thread begins, or ends; not locked. */
void io_watch_enter(struct io_wq *wq);
void io_watch_leave(struct io_wq *wq);

void io_watch_before_fork(void);
void io_watch_after_fork(bool in_child);

/* ---- page.c */
struct io_shared_page {
	struct io_wq_page *page;
	int fd;
	dev_t device; /* with inode: whether fd is still the page's */
	ino_t inode;
};

int io_page_open(struct io_shared_page *shared); /* 0, or a negative errno */
void io_page_close(struct io_shared_page *shared);
void io_page_close_in_child(struct io_shared_page *shared);
/* Until somebody asks, or *ending, which io_page_end makes it look at. */
void io_page_wait(struct io_wq_page *page, uint32_t answered, const uint32_t *ending);
void io_page_end(struct io_wq_page *page);
void io_page_write(struct io_wq_page *page, const struct io_wq_page_snapshot *snapshot,
		   uint32_t request);

/* ---- look.c: what a snapshot consists of */
struct io_look {
	const struct io_wq_watch_hooks *hooks;
	struct io_wq_page_snapshot snapshot;
	const struct io_worker *workers[IO_WQ_PAGE_WORKERS]; /* those in it */
};

void io_look_at_queue(struct io_wq *wq, struct io_look *look);
void io_look_at_calls(struct io_wq_page_snapshot *snapshot);

/* ---- look_at_call.c: writes what a thread is blocked in, if it is */
void io_look_at_call(int tid, char *text, size_t size);

#endif
