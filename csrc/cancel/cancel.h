/* Cancel, as the queue and its workers see it. The worker's fields that it needs are in
 * core/internal.h. */
#ifndef IO_WQ_CANCEL_H
#define IO_WQ_CANCEL_H

#include "io_wq.h"

#include <stdbool.h>

struct io_worker;

/* ---- cancel.c */
bool io_wq_inside(const struct io_wq *wq);
bool io_wq_completing(void);
void io_wq_unlock_and_cancel_pending(struct io_wq *wq, int error);

/* ---- canceller.c */
void io_wq_prepare_to_interrupt(struct io_wq *wq);
void io_wq_cancel_running(struct io_wq *wq, bool (*selects)(struct io_wq_work *work, void *data),
			  void *data);
void io_wq_wake_canceller(struct io_wq *wq);
int io_wq_watch_deadline(struct io_wq *wq, long long ns);

/* ---- interrupt.c */
void io_worker_begin(struct io_worker *worker);
bool io_worker_is_wanted(const struct io_worker *worker);
bool io_worker_is_due(const struct io_worker *worker);
bool io_worker_awaits_notice(const struct io_worker *worker);
bool io_worker_is_in_grace(struct io_worker *worker);

/* ---- guest.c */
void io_wq_free_guests(struct io_wq *wq);

/* ---- signal.c */
int io_wq_signal_install(int wanted);
void io_wq_signal_fork(bool before);
void io_wq_signal_unblock(int signal);
bool io_wq_signal_accept(int signal, bool accepts);
void io_worker_signal(struct io_worker *worker);
bool io_worker_has_signal_on_its_way(const struct io_worker *worker);
void io_worker_settle_signals(struct io_worker *worker);
void io_worker_settle_signals_within_work(struct io_worker *worker);
void io_worker_close_call(struct io_worker *worker);

/* ---- caller.c */
void io_callers_refresh(void);
bool io_callers_are_known(void);
void io_callers_fork(bool before);

#endif
