"""Breaks each promise of the core in turn, and sees that a test notices.

A test that passes whatever the code does proves nothing. Each entry below names
a promise, the change that breaks it, and the test of ``tests/core`` that fails then.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ahead import LOW_PRIORITY_SECONDS
from core_builder import MUSL_GCC, ROOT, TESTS, build_fake_numa, environment_of, link_options, run

CSRC = ROOT / "csrc"
SECONDS = 10  # a broken core may also hang


@dataclass(frozen=True)
class Break:
    """A promise, how to break it, and who must notice."""

    promise: str
    file: str
    old: str
    new: str
    test: str
    also: tuple[tuple[str, str, str], ...] = ()  # more changes: file, old, new
    compiler: tuple[str, ...] = ("gcc",)


#: Works that block shortly are known by ticks alone.
NO_PREDICTION = ("core/worker.c", "return pool->sleepy > SLEEPY_MAX / 2;", "return 0;")

#: Ticks that never end: what is noticed by a tick isn't.
NO_TICKS = (("core/worker.c", "(50 * NSEC_PER_USEC)", "(1000 * NSEC_PER_SEC)"),)

BREAKS = [
    Break(
        "a page goes with the last worker",
        "core/watch.c",
        "if (list_empty(&queues)) {",
        "if (0) {",
        "test_watch nothing_stays",
    ),
    Break(
        "a child has no page of its parent's",
        "core/watch.c",
        "io_page_close_in_child(&watcher->shared);",
        "",
        "test_watch a_child_has_its_own_page",
    ),
    Break(
        "what others write into the page is not believed",
        "core/watch.c",
        "io_page_write(page, &self->look.snapshot, answered);",
        "self->look.snapshot.nr_queues = page->snapshot.nr_queues;\n"
        "		io_page_write(page, &self->look.snapshot, answered);",
        "test_watch what_others_write_does_no_harm",
    ),
    Break(
        "the longest keys are seen first",
        "core/look.c",
        "queue->longest[place - 1].works < found.works",
        "queue->longest[place - 1].works > found.works",
        "test_watch the_longest_keys_are_seen",
    ),
    Break(
        "a descriptor that others have closed isn't closed again",
        "core/page.c",
        "status.st_ino == shared->inode)",
        "shared->inode)",
        "test_watch its_size_is_fixed",
        also=(("core/page.c", "status.st_dev == shared->device", "shared->device"),),
    ),
    Break(
        "same key never in parallel",
        "core/hash.c",
        "if (key->id == work->key.id)",
        "if (0)",
        "test_hash serial_and_in_order_per_key",
    ),
    Break(
        "first in, first out within a key",
        "core/hash.c",
        "list_add_tail(&work->list, &key->waiting)",
        "list_add(&work->list, &key->waiting)",
        "test_hash serial_and_in_order_per_key",
    ),
    Break(
        "different keys never wait for each other",
        "core/queue.c",
        "work->key.id = key;",
        "work->key.id = (void *)((uintptr_t)key & 0xfff);",
        "test_hash different_keys_never_wait_for_each_other",
    ),
    Break(
        "the next runnable work is found in O(1)",
        "core/work.c",
        "	list_del(&work->list);\n	set_state(work, IO_WORK_NONE);\n	pool->wq->pending--;",
        "	for (unsigned i = 0; i < 1u << pool->wq->keys.bits; i++)\n"
        "		for (struct io_wq_key *v = pool->wq->keys.buckets[i]; v; v = v->next)\n"
        '			list_for_each(link, &v->waiting) __asm__ volatile("" ::: "memory");\n'
        "	list_del(&work->list);\n	set_state(work, IO_WORK_NONE);\n	pool->wq->pending--;",
        "test_hash a_long_queue_costs_others_nothing",
    ),
    Break(
        "a key is serial across nodes",
        "core/queue.c",
        "work->key.id = key;",
        "work->key.id = (char *)key + io_wq_topology_current(wq->topology);",
        "test_hash serial_and_in_order_across_nodes",
    ),
    Break(
        "cancel keeps a key going",
        "core/work.c",
        "	if (holds_key)\n",
        "	if (0 && holds_key)\n",
        "test_hash cancel_leaves_the_key_in_order",
    ),
    Break(
        "works start in order",
        "core/work.c",
        "list_add_tail(&work->list, &pool->run)",
        "list_add(&work->list, &pool->run)",
        "test_enqueue starts_in_order",
    ),
    Break(
        "dependent work is run",
        "core/work.c",
        "return next == work ? NULL : next;",
        "return NULL;",
        "test_enqueue dependent_work_runs_next_on_the_same_worker",
    ),
    Break(
        "destroy cancels pending work",
        "core/queue.c",
        "	io_wq_unlock_and_cancel_pending(wq, ECANCELED);",
        "	io_wq_unlock(wq);",
        "test_enqueue destroy_cancels_pending_and_lets_running_end",
    ),
    Break(
        "a stopped queue refuses work",
        "core/queue.c",
        "	if (wq->refusing)\n		return -ESHUTDOWN;",
        "",
        "test_enqueue exit_start_runs_what_is_pending",
    ),
    Break(
        "after exit_start, threads end with the last work",
        "core/flush.c",
        "	if (--wq->unfinished == 0 && wq->refusing)",
        "	if (--wq->unfinished == 0 && 0)",
        "test_exit threads_end_with_the_last_work",
    ),
    Break(
        "exit_start ends the threads of an idle queue",
        "core/queue.c",
        "	if (!wq->unfinished) /*",
        "	if (0) /*",
        "test_exit idle_threads_end_at_once",
    ),
    Break(
        "exit_start leaves pending work alone",
        "core/queue.c",
        "	if (!wq->unfinished) /*",
        "	if (1) /*",
        "test_exit threads_end_with_the_last_work",
    ),
    Break(
        "a full queue refuses work",
        "core/queue.c",
        "	if ((wq->pending < wq->data.max_pending && in_turn) || io_wq_inside(wq))",
        "	if ((wq->pending <= wq->data.max_pending && in_turn) || io_wq_inside(wq))",
        "test_full work_is_refused_untouched_until_it_is_admitted",
    ),
    Break(
        "a work of a full queue is not refused",
        "core/queue.c",
        "	if ((wq->pending < wq->data.max_pending && in_turn) || io_wq_inside(wq))",
        "	if (wq->pending < wq->data.max_pending && in_turn)",
        "test_full a_work_of_the_queue_is_never_refused",
    ),
    Break(
        "who waits comes before those who come later",
        "core/queue.c",
        "	bool in_turn = !wq->waiters || (work->flags & IO_WQ_WORK_WAITED);",
        "	bool in_turn = true;",
        "test_full who_waits_comes_before_those_who_come_later",
    ),
    Break(
        "announcements of blocking nest",
        "core/worker.c",
        "	if (!worker || (worker->announced && --worker->announced))",
        "	if (!worker)",
        "test_workers announcements_nest",
    ),
    Break(
        "admission is told when a work starts",
        "core/worker.c",
        "io_wq_unlock_and_tell(wq)",
        "io_wq_unlock(wq)",
        "test_full work_is_refused_untouched_until_it_is_admitted",
    ),
    Break(
        "admission is told when work is cancelled",
        "cancel/cancel.c",
        "io_wq_unlock_and_tell(wq)",
        "io_wq_unlock(wq)",
        "test_full cancel_admits_works",
    ),
    Break(
        "each refusal is followed by a call",
        "core/queue.c",
        "		wq->refused_any = false;\n	io_wq_unlock(wq);\n",
        "		tell = true;\n	io_wq_unlock(wq);\n",
        "test_full no_producer_is_forgotten",
        (
            (
                "core/queue.c",
                "	wq->data.admit(wq->data.ctx);\n",
                "	wq->data.admit(wq->data.ctx), usleep(10), wq->refused_any = false;\n",
            ),
        ),
    ),
    Break(
        "admission is told unlocked",
        "core/queue.c",
        "	io_wq_unlock(wq);\n	if (!tell || !wq->data.admit)\n		return;\n",
        "	if (tell && wq->data.admit)\n		wq->data.admit(wq->data.ctx);\n	io_wq_unlock(wq);\n"
        "	return;\n",
        "test_full no_producer_is_forgotten",
    ),
    Break(
        "who waits for admission learns of the end",
        "core/queue.c",
        "		io_wq_let_threads_end(wq);\n	io_wq_unlock_and_tell(wq);",
        "		io_wq_let_threads_end(wq);\n	io_wq_unlock(wq);",
        "test_full those_who_wait_learn_of_the_end",
    ),
    Break(
        "waiting for oneself is an error",
        "cancel/cancel.c",
        "	return worker && worker->pool->wq == wq;",
        "	return worker && !worker->pool;",
        "test_enqueue waiting_for_oneself_is_an_error",
    ),
    Break(
        "cancelled work is given back, too",
        "cancel/cancel.c",
        "		io_work_free(wq, work);\n",
        "",
        "test_enqueue free_work_gives_the_memory_back",
    ),
    Break(
        "flush waits until work has finished",
        "core/flush.c",
        "flush->remaining = wq->unfinished;",
        "flush->remaining = wq->pending;",
        "test_flush waits_for_running_work",
    ),
    Break(
        "flush waits for all that came before",
        "core/flush.c",
        "if (seq <= flush->seq &&",
        "if (",
        "test_flush flushes_overlap",
    ),
    Break(
        "flush doesn't wait for later work",
        "core/flush.c",
        "flush->remaining, 1, __ATOMIC_RELEASE) == 0)",
        "flush->remaining, 1, __ATOMIC_RELEASE) == 0 && !wq->unfinished)",
        "test_flush does_not_wait_for_later_work",
        (
            (
                "core/flush.c",
                "return futex_wait_zero(&flush->remaining",
                "while (flush->wq->unfinished && "
                "deadline < 0) usleep(100); return futex_wait_zero(&flush->remaining",
            ),
        ),
    ),
    Break(
        "a signal's handler ends a flush",
        "core/futex.h",
        "return errno == EAGAIN ? 0 : -errno;",
        "return errno == ETIMEDOUT ? -errno : 0;",
        "test_flush a_signal_handler_ends_the_wait",
    ),
    Break(
        "cancelled work is flagged",
        "cancel/cancel.c",
        "		io_work_flag_cancel(work);\n",
        "",
        "test_cancel pending_work_is_cancelled_at_once",
    ),
    Break(
        "running work is flagged",
        "cancel/canceller.c",
        "	io_work_flag_cancel(worker->cur_work);\n",
        "",
        "test_cancel blocked_work_sees_eintr",
    ),
    Break(
        "cancel of pending work spares running work",
        "cancel/cancel.c",
        "void io_wq_cancel_pending(struct io_wq *wq)\n{\n",
        "void io_wq_cancel_pending(struct io_wq *wq)\n{\n	io_wq_cancel_all(wq);\n",
        "test_cancel cancel_pending_leaves_running_work_alone",
    ),
    Break(
        "the signal interrupts",
        "cancel/signal.c",
        ".sa_flags = SA_SIGINFO | SA_ONSTACK",
        ".sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART",
        "test_cancel blocked_work_sees_eintr",
    ),
    Break(
        "the signal is repeated",
        "cancel/canceller.c",
        "	if (any)\n		call_canceller(wq);",
        "	if (0 && any)\n		call_canceller(wq);",
        "test_cancel a_signal_that_comes_too_early_is_repeated",
    ),
    Break(
        "no signal leaks into the next work",
        "cancel/signal.c",
        "	while (io_worker_has_signal_on_its_way(worker)) {\n",
        "	while (0 && io_worker_has_signal_on_its_way(worker)) {\n",
        "test_cancel nothing_leaks_into_the_next_work",
        # the leak made longer: cancel goes on for a while after the work's end
        (
            ("core/work.c", "	worker->cancelling = false;\n", ""),
            ("cancel/interrupt.c", "	worker->cancelling = false;\n", ""),
        ),
    ),
    Break(
        "another queue's work is not found",
        "core/work.c",
        "__atomic_load_n(&work->wq, __ATOMIC_RELAXED) == wq;",
        "wq;",
        "test_cancel unknown_work_is_not_found",
    ),
    Break(
        "signals of others are passed on",
        "cancel/signal.c",
        "		pass_on(signal, info, context);",
        "		(void)pass_on, (void)context;",
        "test_cancel signals_of_others_are_passed_on",
    ),
    Break(
        "no signal without our handler",
        "cancel/signal.c",
        "	if (!handler_is_ours(signal)) {",
        "	if (0) {",
        "test_cancel signals_of_others_are_passed_on",
    ),
    Break(
        "a known program makes no library known",
        "cancel/caller_unwind.c",
        "	walk->kind = kind_at(ip);",
        "	walk->kind = kind_at(ip) ? kind_at(ip) : IO_CALLER_C_LIBRARY;",
        "test_callers a_known_program_makes_no_library_known",
    ),
    Break(
        "a known program makes no library known, on musl",
        "cancel/caller_stack.c",
        "		*caller = either(*caller, code->kind);",
        "		*caller = code->kind ? code->kind : *caller;",
        "test_callers a_known_program_makes_no_library_known",
        compiler=tuple(MUSL_GCC),
    ),
    Break(
        "code of no file is unknown, on musl",
        "cancel/caller_stack.c",
        "!io_code_at(call->pc - 1)",
        "0",
        "test_callers code_of_no_file_is_unknown",
        compiler=tuple(MUSL_GCC),
    ),
    Break(
        "code that was loaded meanwhile is unknown, on musl",
        "cancel/caller.c",
        "	return table && !table->is_full && table->loads == loads;",
        "	return true;",
        "test_callers a_known_program_makes_no_library_known",
        also=(("cancel/caller.c", "current->loads != loads)", "0)"),),
        compiler=tuple(MUSL_GCC),
    ),
    Break(
        "a library's connection is cut off, on musl",
        "cancel/signal.c",
        "	if (caller == IO_CALLER_CUT_OFF_OR_TRUSTED)\n",
        "	if (0)\n",
        "test_callers a_librarys_connection_is_cut_off_whoever_uses_it",
        compiler=tuple(MUSL_GCC),
    ),
    Break(
        "a mark leaves out who is above it, on musl",
        "cancel/caller_stack.c",
        "	stack = (struct io_wq_stack){ (uintptr_t)(frame + 1), (uintptr_t)own };",
        "	if (!stack.end)\n"
        "		stack = (struct io_wq_stack){ (uintptr_t)(frame + 1), (uintptr_t)own };",
        "test_callers a_mark_leaves_out_who_is_above_it",
        compiler=tuple(MUSL_GCC),
    ),
    Break(
        "each work is called with a mark, on musl",
        "core/work.c",
        "	io_wq_stack_begin(&before, NULL);",
        "	before = (struct io_wq_stack){ 0 };",
        "test_cancel only_trusted_callers_see_the_error",
        compiler=tuple(MUSL_GCC),
    ),
    Break(
        "only trusted callers see the error",
        "cancel/signal.c",
        "	return caller == IO_WQ_CALLER_UNKNOWN ? REFUSED : FAILED;",
        "	return FAILED;",
        "test_cancel only_trusted_callers_see_the_error",
    ),
    Break(
        "a cancelled call returns the error",
        "cancel/signal.c",
        "		io_arch_set_error(context, error);",
        "",
        "test_cancel only_trusted_callers_see_the_error",
    ),
    Break(
        "a futex is left alone",
        "cancel/signal.c",
        "		if (section == IO_WQ_SECTION_WAIT && io_blocked_call_times_out(call))",
        "		if (1)",
        "test_cancel a_futex_is_left_alone",
    ),
    Break(
        "clean-up has a grace period",
        "cancel/signal.c",
        "		if (io_worker_is_in_grace(worker) || !arm_call(worker))",
        "		if (!arm_call(worker))",
        "test_cancel clean_up_has_a_grace_period",
    ),
    Break(
        "a deadline interrupts",
        "cancel/interrupt.c",
        "	return deadline && monotonic_ns() >= deadline;",
        "	return deadline < 0;",
        "test_interrupt a_deadline_interrupts",
    ),
    Break(
        "the next deadline is watched",
        "cancel/canceller.c",
        "	if (round->deadline && round->deadline < now + pause)",
        "	if (0)",
        "test_interrupt a_deadline_interrupts",
    ),
    Break(
        "a shield holds the signal back",
        "cancel/interrupt.c",
        "	return __atomic_load_n(&worker->shields, __ATOMIC_RELAXED);",
        "	return worker == 0;",
        "test_interrupt a_shield_holds_the_signal_back",
    ),
    Break(
        "uncancellable work is not interrupted",
        "cancel/interrupt.c",
        "!!(worker->cur_work->flags & IO_WQ_WORK_UNCANCELLABLE)",
        "0",
        "test_interrupt uncancellable_work_is_not_interrupted",
    ),
    Break(
        "a claimed work has its grace",
        "cancel/interrupt.c",
        "io_worker_is_in_grace(worker) ||\n	    (!own",
        "(!own",
        "test_interrupt what_computes_is_out_of_reach",
    ),
    Break(
        "where errors are hidden, ended calls are told of",
        "cancel/signal.c",
        "		worker->section_ended |= section == IO_WQ_SECTION_HIDES_ERRORS;",
        "",
        "test_interrupt calls_that_hide_errors_are_ended_and_told",
    ),
    Break(
        "where errors are hidden, polls time out",
        "cancel/signal.c",
        "			*error = 0;",
        "			(void)error;",
        "test_interrupt calls_that_hide_errors_are_ended_and_told",
    ),
    Break(
        "a declared wait times out",
        "cancel/signal.c",
        "		if (section == IO_WQ_SECTION_WAIT && io_blocked_call_times_out(call))",
        "		if (0)",
        "test_interrupt a_declared_wait_times_out",
    ),
    Break(
        "what the signal can't reach is told",
        "cancel/canceller.c",
        "	round->needs_injection |= worker->needs_injection ||",
        "	round->needs_injection |=",
        "test_interrupt what_computes_is_out_of_reach",
    ),
    Break(
        "unannounced blocking is noticed",
        "core/worker.c",
        "		take_for_blocked(pool, ns);",
        "		(void)take_for_blocked;",
        "test_workers unannounced_blocking_is_noticed",
    ),
    Break(
        "announced blocking calls a worker",
        "core/worker.c",
        "	announce(IO_WORKER_RUNNING, IO_WORKER_BLOCKED);",
        "",
        "test_workers announced_blocking_calls_the_next_worker",
        NO_TICKS,
    ),
    Break(
        "concurrency is the limit",
        "core/worker.c",
        "counted_workers(pool) < pool->max_workers",
        "counted_workers(pool) <= pool->max_workers",
        "test_workers unannounced_blocking_is_noticed",
    ),
    Break(
        "unbounded work takes no worker from bounded work",
        "core/queue.c",
        "	return work->flags & IO_WQ_WORK_UNBOUND ? IO_POOL_UNBOUND : IO_POOL_BOUND;",
        "	return work->flags & 0 ? IO_POOL_UNBOUND : IO_POOL_BOUND;",
        "test_unbound blocked_unbounded_work_leaves_bounded_work_alone",
    ),
    Break(
        "unbounded work has its limit",
        "core/queue.c",
        "IO_POOL_UNBOUND), wq->data.unbounded);",
        "IO_POOL_UNBOUND), IO_WQ_CONCURRENCY_MAX);",
        "test_unbound blocked_unbounded_work_leaves_bounded_work_alone",
    ),
    Break(
        "a key is serial across both kinds",
        "core/queue.c",
        "work->key.id = key;",
        "work->key.id = (char *)key + kind_of(work);",
        "test_unbound a_key_is_serial_and_in_order_across_both_kinds",
    ),
    Break(
        "no unbounded worker stays",
        "core/worker.c",
        "pool->kind == IO_POOL_BOUND && pool->nr_workers == 1",
        "pool->nr_workers == 1",
        "test_unbound unbounded_workers_have_names_and_go_when_idle",
    ),
    Break(
        "one kind's works are handed to the other's workers",
        "core/worker.c",
        "other->nr_workers && (!heir || other->kind == pool->kind)",
        "other->nr_workers && other->kind == pool->kind",
        "test_workers one_worker_of_the_other_kind_is_enough",
    ),
    Break(
        "works are handed to workers of their kind first",
        "core/worker.c",
        "other->nr_workers && (!heir || other->kind == pool->kind)",
        "other->nr_workers && !heir",
        "test_workers a_node_gives_its_works_to_its_kind_first",
    ),
    Break(
        "few workers for work that doesn't block",
        "core/worker.c",
        "(was_blocked || pool->nr_running <= pool->width) &&",
        "(was_blocked || !was_blocked) &&",
        "test_workers few_run_again_after_blocking",
    ),
    Break(
        "works run in parallel where they can",
        "core/worker.c",
        "(was_blocked || pool->nr_running <= pool->width) &&",
        "(was_blocked || pool->nr_running <= 1) &&",
        "test_parallel who_runs_beside_others_takes_more",
    ),
    Break(
        "few workers for work that computes at length",
        "core/worker.c",
        "(worker->sampled ? worker->slept : has_slept(worker));",
        "1;",
        "test_workers work_that_computes_at_length_uses_few_workers",
    ),
    Break(
        "ticks get shorter again",
        "core/worker.c",
        "return tick > TICK_MIN ? tick / 2 : tick;",
        "return tick;",
        "test_workers short_blocking_is_noticed_after_work_that_did_not_block",
        (("core/worker.c", "(8 * TICK_MIN)", "(16 * TICK_MIN)"), NO_PREDICTION),
    ),
    Break(
        "works that block keep their workers",
        "core/worker.c",
        "(was_blocked || pool->nr_running <= pool->width) &&",
        "((was_blocked && 0) || pool->nr_running <= pool->width) &&",
        "test_workers who_was_blocked_takes_the_next_work",
        NO_TICKS,
    ),
    Break(
        "a raised limit gives pending work its workers",
        "core/worker.c",
        "	io_pool_need_worker(pool); /* can't fail: what is runnable",
        "	/* can't fail: what is runnable",
        "test_limits raised_pending_work_gets_workers_at_once",
    ),
    Break(
        "a lowered limit is kept",
        "core/worker.c",
        "	return counted_workers(pool) > pool->max_workers;",
        "	return !pool->max_workers;",
        "test_limits lowered_workers_end_after_their_work",
    ),
    Break(
        "a lowered limit ends idle workers",
        "core/worker.c",
        "	if (is_crowded(pool))\n		list_for_each",
        "	if (0)\n		list_for_each",
        "test_limits lowered_idle_workers_end_at_once",
    ),
    Break(
        "a worker that ends leaves no work behind",
        "core/worker.c",
        "	io_pool_need_worker(pool); /* can't fail: if work",
        "	/* can't fail: if work",
        "test_limits work_enqueued_while_workers_end_is_run",
    ),
    Break(
        "work that is cancelled before it started is counted",
        "core/work.c",
        "	work->wq->pools[work->pool].dropped++;\n",
        "",
        "test_stats counts_add_up",
    ),
    Break(
        "a work that says nothing about its end has finished",
        "core/stats.c",
        "	worker->outcome = IO_WQ_FINISHED;\n",
        "",
        "test_stats outcomes_are_counted",
    ),
    Break(
        "idle workers retire",
        "core/worker.c",
        "wait_unlocked(worker, stays(pool) ? WAIT_FOREVER : timeout,",
        "wait_unlocked(worker, stays(pool) || timeout ? WAIT_FOREVER : 0,",
        "test_workers idle_workers_retire_down_to_one",
    ),
    Break(
        "one worker stays",
        "core/worker.c",
        "pool->kind == IO_POOL_BOUND && pool->nr_workers == 1",
        "0",
        "test_workers idle_workers_retire_down_to_one",
    ),
    Break(
        "without a worker the caller is told",
        "core/queue.c",
        "		io_wq_unlock_and_cancel_pending(wq, -ret);",
        "		io_wq_unlock(wq);",
        "test_workers without_any_worker_the_caller_is_told",
    ),
    Break(
        "a node without workers gives its works away",
        "core/worker.c",
        "	pool = give_works_away(pool);",
        "	pool = give_works_away == 0 ? pool : 0;",
        "test_workers a_node_without_workers_gives_its_works_away",
    ),
    Break(
        "a forked child leaves the queue alone",
        "core/fork.c",
        "	return wq->fork_generation != generation;",
        "	return wq->fork_generation == ~0u;",
        "test_fork the_child_starts_anew",
    ),
    Break(
        "workers are bound to their node",
        "numa/affinity.c",
        "	if (affinity->bound)\n		sched_setaffinity(tid,",
        "	if (0)\n		sched_setaffinity(tid,",
        "test_numa a_worker_made_by_another_node_is_bound_to_its_own",
    ),
    Break(
        "a worker that strays returns",
        "core/work.c",
        "	io_worker_rebind_if_moved(worker);\n",
        "",
        "test_numa a_worker_that_was_moved_returns_to_its_node",
    ),
    Break(
        "work for a node runs there",
        "core/queue.c",
        "	if (work->flags & FLAGS_OF_NODE)\n",
        "	if (0)\n",
        "test_numa work_for_a_node_runs_there",
    ),
    Break(
        "an unknown node is an error",
        "numa/topology.c",
        "			return (int)i;\n	return -EINVAL;",
        "			return (int)i;\n	return 0;",
        "test_nodes a_node_without_a_pool_is_an_error",
    ),
    Break(
        "a changed affinity moves those who run",
        "numa/affinity.c",
        "			bind_thread(worker, worker->tid);",
        "			(void)worker;",
        "test_nodes a_running_worker_is_moved",
    ),
    Break(
        "a node without CPUs gives its works away",
        "numa/affinity.c",
        "		affinity->home = find_home(wq, node, mask, words);",
        "		affinity->home = find_home(wq, node, NULL, 0);",
        "test_numa an_affinity_may_leave_a_node_without_workers",
    ),
    Break(
        "the process' affinity is respected",
        "numa/topology.c",
        "!io_cpus_has(&topology->allowed, cpu))",
        "cpu > 1)",
        "test_numa respects_the_affinity",
    ),
    Break(
        "each node is asked for the CPUs that it has now",
        "numa/libnuma.c",
        "	if (numa->node_to_cpu_update)",
        "	static int asked;\n	if (numa->node_to_cpu_update && !asked++)",
        "test_numa workers_are_bound_to_the_node_of_the_enqueuer",
    ),
    Break(
        "a node whose distances are unknown keeps its work",
        "numa/topology.c",
        "from == to ? LOCAL : topology->numa->distance(from, to)",
        "topology->numa->distance(from, to)",
        "test_numa work_for_a_node_runs_there",
    ),
    Break(
        "free_work may wait for other work",
        "core/worker.c",
        "	io_work_done(worker, next);\n",
        "	io_work_done(worker, next);\n	if (!next) { next_work(worker); next = work; }\n",
        "test_enqueue free_work_may_wait_for_other_work",
    ),
    Break(
        "stop waits for works that others complete",
        "core/queue.c",
        "ret = io_wq_flush_until(wq, deadline);",
        "ret = 0;",
        "test_exit stop_waits_for_works_that_others_complete",
    ),
    Break(
        "nothing comes through a shield",
        "cancel/interrupt.c",
        "io_worker_settle_signals_within_work(worker); /* sent before the shield",
        "/* sent before the shield",
        "test_interrupt nothing_comes_through_a_shield",
    ),
    Break(
        "only what is exposed is interrupted",
        "cancel/interrupt.c",
        "	if (shields)\n		io_worker_settle_signals_within_work(worker);",
        "",
        "test_interrupt only_what_is_exposed_is_interrupted",
    ),
    Break(
        "nothing reaches who was a guest",
        "cancel/guest.c",
        "	io_worker_settle_signals_within_work(guest);\n",
        "",
        "test_guest a_signal_that_was_blocked_is_over_with_the_guest",
    ),
    Break(
        "a worker that is a guest is the guest alone meanwhile",
        "cancel/interrupt.c",
        "		return guest;\n	return worker",
        "		return worker ? worker : guest;\n	return worker",
        "test_guest a_worker_may_be_a_guest",
    ),
    Break(
        "a queue isn't freed before its guests have left",
        "cancel/guest.c",
        "	wq->users++;\n",
        "",
        "test_guest a_thread_is_one_guest_at_a_time",
    ),
    Break(
        "a guest accepts the signal",
        "cancel/guest.c",
        "!io_wq_signal_accept(wq->signal, true)",
        "true",
        "test_guest a_guest_may_have_blocked_the_signal",
    ),
    Break(
        "a guest's deadline can be set by another thread",
        "cancel/interrupt.c",
        "ret = ns ? io_wq_watch_deadline(wq, ns) : 0;\n		}",
        "ret = 0;\n		}",
        "test_guest others_end_what_a_guest_does",
    ),
    Break(
        "another thread may end the guest of one that is gone",
        "cancel/guest.c",
        "		if (guest->cur_work == work)\n			return guest;\n",
        "",
        "test_guest others_end_the_guest_of_a_thread_that_is_gone",
    ),
    Break(
        "a child is no guest",
        "cancel/interrupt.c",
        "if (guest && !io_wq_forked(guest->pool->wq))",
        "if (guest)",
        "test_guest a_child_is_no_guest",
    ),
    Break(
        "a shield leaves the work's own signal mask alone",
        "cancel/signal.c",
        "pthread_sigmask(SIG_SETMASK, &mask, NULL);\n}",
        "}",
        "test_interrupt a_shield_leaves_the_works_own_mask_alone",
    ),
    Break(
        "what is new is asked often among what is old",
        "cancel/canceller.c",
        "if (round.new || round.naps)",
        "if (round.naps)",
        "test_interrupt what_is_new_is_asked_often_among_what_is_old",
    ),
    Break(
        "to wait for all works in the admit hook is an error",
        "cancel/cancel.c",
        "	completions = &this; /* for data.admit, too: the works wait for who calls it */\n"
        "	io_wq_unlock_and_tell(wq);\n",
        "	io_wq_unlock_and_tell(wq);\n	completions = &this;\n",
        "test_full waiting_for_all_works_in_the_hook_is_an_error",
    ),
    Break(
        "a child can make a topology",
        "core/fork.c",
        "	io_libnuma_fork(true);",
        "",
        "test_fork a_child_is_not_left_with_half_a_library",
        also=(("core/fork.c", "	io_libnuma_fork(false);", ""),),
    ),
    Break(
        "what no signal ends is asked ever more rarely",
        "cancel/canceller.c",
        "			delay = REPEAT_MAX;",
        "			delay = REPEAT_MIN;",
        "test_interrupt what_no_signal_ends_is_asked_ever_more_rarely",
    ),
    Break(
        "which works are timed has no period",
        "core/work.c",
        "return seq * 0x9E3779B97F4A7C15u < UINT64_MAX / 32;",
        "return seq % 32 == 1;",
        "test_stats works_are_timed_wherever_they_are_in_a_burst",
    ),
    Break(
        "what a cancelled work says is not said of who cancels it",
        "core/stats.c",
        " && !io_wq_completing()",
        "",
        "test_stats outcomes_are_not_mixed_up",
    ),
    Break(
        "works have the program's timer slack",
        "core/worker.c",
        "prctl(PR_SET_TIMERSLACK, 0);",
        "",
        "test_workers works_have_the_timer_slack_of_the_program",
    ),
    Break(
        "a connection that can't be trusted is cut off",
        "cancel/signal.c",
        "	return !shutdown(io_blocked_call_descriptor(call), SHUT_RDWR);",
        "	return io_blocked_call_descriptor(call) < -1;",
        "test_callers a_connection_is_cut_off",
    ),
    Break(
        "naps bring no grace",
        "cancel/signal.c",
        "	if (end == CUT_SHORT)",
        "	if (0)",
        "test_callers naps_are_cut_short_one_after_the_other",
    ),
    Break(
        "naps are cut short fast",
        "cancel/canceller.c",
        "		if (round.new || round.naps)",
        "		if (round.new)",
        "test_callers naps_are_cut_short_one_after_the_other",
    ),
    Break(
        "works that never end hold back no others",
        "cancel/signal.c",
        "	if (!worker->signalled_at)\n",
        "",
        "test_callers works_that_never_end_hold_back_no_others",
    ),
    Break(
        "works that clean up hold back no others",
        "cancel/canceller.c",
        "	round->ending += !worker->signalled_at;",
        "	round->ending++;",
        "test_callers works_that_clean_up_hold_back_no_others",
    ),
    Break(
        "few descriptors stay open",
        "cancel/signal.c",
        "wq->call_fds < CALL_FDS_MAX",
        "1",
        "test_callers few_descriptors_stay_open",
    ),
    Break(
        "notice comes before an interruption",
        "cancel/interrupt.c",
        "	return wants_notice(worker) && !",
        "	return worker == NULL && !",
        "test_callers notice_comes_before_interruption",
    ),
    Break(
        "notice is waited for once",
        "cancel/interrupt.c",
        "	return wants_notice(worker) && !__atomic_load_n(&worker->noticed, __ATOMIC_RELAXED);",
        "	return wants_notice(worker);",
        "test_callers notice_is_given_once",
    ),
    Break(
        "works like those that slept are taken for blocked",
        "core/worker.c",
        "	return pool->sleepy > SLEEPY_MAX / 2;",
        "	return pool->sleepy > SLEEPY_MAX;",
        "test_prediction works_like_those_that_slept_are_taken_for_blocked",
    ),
    Break(
        "each tick has works sampled",
        "core/worker.c",
        "	pool->samples = SAMPLES_PER_TICK;",
        "",
        "test_prediction works_like_those_that_slept_are_taken_for_blocked",
    ),
    Break(
        "works that don't sleep any more aren't taken for blocked",
        "core/worker.c",
        "	else if (!slept_often && pool->sleepy)",
        "	else if (0)",
        "test_prediction works_that_compute_are_not",
    ),
    Break(
        "works that sleep seldom, for what they compute, aren't taken for blocked",
        "core/worker.c",
        "computed_us(&after) - computed_us(&before) < OFTEN_US;",
        "computed_us(&after) - computed_us(&before) >= 0;",
        "test_prediction works_that_sleep_seldom_are_not",
    ),
    Break(
        "works that wait for works don't count",
        "core/worker.c",
        "	return pool->nr_workers - pool->nr_awaiting;",
        "	return pool->nr_workers;",
        "test_await works_wait_on_all_workers",
    ),
    Break(
        "nor do those that wait for a work that runs",
        "core/worker.c",
        "	if (work && io_work_is_pending(pool->wq, work) && waits_for_itself(worker, work))\n",
        "	if (work && !io_work_is_pending(pool->wq, work))\n		return 0;\n"
        "	if (work && waits_for_itself(worker, work))\n",
        "test_await the_awaited_work_may_run_already",
    ),
    Break(
        "the limit holds again after such waits",
        "core/worker.c",
        "		worker->pool->nr_awaiting--;\n		if (!worker->awaiting",
        "		if (!worker->awaiting",
        "test_await the_limit_holds_again_after_waits",
    ),
    Break(
        "a work that ends within such a wait counts again",
        "core/work.c",
        "	io_worker_stop_awaiting(worker); /* if",
        "	/* if",
        "test_await the_limit_holds_again_after_works_that_end_within_a_wait",
    ),
    Break(
        "to wait for a work of the own key is an error",
        "core/worker.c",
        " && waits_for_itself(worker, work))",
        " && 0)",
        "test_await to_wait_for_the_own_key_is_an_error",
    ),
    Break(
        "to wait where no worker can be made is an error",
        "core/worker.c",
        "	if (!is_stuck(pool))",
        "	if (1 || !is_stuck(pool))",
        "test_await without_threads_the_waiter_is_told",
    ),
    Break(
        "of what was cancelled while pending only close is done",
        "io/run.c",
        "io->kind != IO_WQ_IO_CLOSE",
        "1",
        "test_io what_was_pending_does_nothing_but_closes",
    ),
    Break(
        "what may wait for ever takes no worker from files",
        "io/run.c",
        "io->work.flags |= IO_WQ_WORK_UNBOUND;",
        ";",
        "test_io cancel_ends_what_waits",
    ),
    Break(
        "of a pipe there is what there is",
        "io/transfer.c",
        "return io->kind != IO_WQ_IO_READ_FILE;",
        "return false;",
        "test_io of_a_pipe_there_is_what_there_is",
    ),
    Break(
        "a pipe that is read whole is read until its end",
        "io/transfer.c",
        "return io->kind != IO_WQ_IO_READ_FILE;",
        "return true;",
        "test_io of_a_pipe_there_is_what_there_is",
    ),
    Break(
        "who was cancelled takes nothing of a pipe",
        "io/transfer.c",
        "moved = writes ? 0 : wait_for(io, fd, POLLIN);",
        "moved = 0;",
        "test_io what_comes_after_cancel_is_the_next_ones",
    ),
    Break(
        "who reads a pipe waits for who came before",
        "io/run.c",
        "		if (!key)\n			return",
        "		if (0)\n			return",
        "test_io who_reads_a_pipe_waits_for_who_came_before",
    ),
    Break(
        "nobody waits for a disk in place",
        "io/in_place.c",
        "if (io_transfer(io, fd, RWF_NOWAIT))",
        "if (io_transfer(io, fd, 0))",
        "test_io what_is_on_the_disk_is_left_to_a_worker",
    ),
    Break(
        "who may not know what is in memory isn't told",
        "io/resident.c",
        "&& status->st_uid == geteuid()",
        "",
        "test_io what_is_on_the_disk_is_left_to_a_worker",
    ),
    Break(
        "a file that was opened in place blocks as any other",
        "io/in_place.c",
        "fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);",
        ";",
        "test_io what_is_in_memory_needs_no_worker",
    ),
    Break(
        "a write's result is what was written before the error",
        "io/transfer.c",
        "if (!error || (io->done && !is_whole))",
        "if (!error)",
        "test_io errors_are_results",
    ),
    Break(
        "after a write that was cut short those linked to it do nothing",
        "io/run.c",
        "io->result < 0 || (io->kind == IO_WQ_IO_WRITE && io->done < io->length)",
        "io->result < 0",
        "test_io a_link_breaks_at_the_first_failure",
    ),
    Break(
        "nothing of a broken link is done in place",
        "io/in_place.c",
        "	if (io_is_unlinked(io))\n		return 1;\n",
        "",
        "test_io a_link_breaks_at_the_first_failure",
    ),
]


OPTIONS = ["-std=gnu11", "-O1", "-w", "-pthread", "-DDEADLINE=5"]


def _compile(compiler: tuple[str, ...], source: Path, object_: Path, include: Path) -> None:
    command = [*compiler, *OPTIONS, f"-I{include}", "-c", str(source), "-o", str(object_)]
    run(command, LOW_PRIORITY_SECONDS)


@dataclass(frozen=True)
class Core:
    """The core as it is, compiled: of a broken one only what is changed is compiled."""

    compiler: tuple[str, ...]
    folder: Path
    objects: dict[Path, Path]  # by the source's path in csrc/


@functools.cache
def _compile_core(compiler: tuple[str, ...], parent: Path) -> Core:
    """Once in each process, of those that build broken ones."""
    folder = parent / f"intact-{os.getpid()}-{compiler[0]}"
    folder.mkdir()
    sources = [path.relative_to(CSRC) for path in CSRC.rglob("*.c")]
    objects = {source: folder / f"{source.stem}.o" for source in sources}
    for source, object_ in objects.items():
        _compile(compiler, CSRC / source, object_, CSRC)
    build_fake_numa(compiler[0], folder)
    return Core(compiler, folder, objects)


def _change(folder: Path, changes: list[tuple[str, str, str]]) -> None:
    """Makes a copy of the sources with these changes."""
    shutil.copytree(CSRC, folder, dirs_exist_ok=True)
    for file, old, new in changes:
        text = (folder / file).read_text()
        assert old in text, f"{file} has no {old!r} any more"
        (folder / file).write_text(text.replace(old, new))


def _build(core: Core, folder: Path, test: str, changes: list[tuple[str, str, str]]) -> Path:
    _change(folder, changes)
    objects = dict(core.objects)
    changed = {Path(file) for file, _, _ in changes}
    if any(path.suffix == ".h" for path in changed):
        changed = set(objects)
    for path in changed:
        objects[path] = folder / f"{path.stem}.o"
        _compile(core.compiler, folder / path, objects[path], folder)
    source = TESTS / f"{test}.c"
    program = folder / "test"
    parts = [*link_options(source), *map(str, objects.values()), str(source), "-ldl"]
    command = [*core.compiler, *OPTIONS, f"-I{folder}", *parts, "-o", str(program)]
    run(command, LOW_PRIORITY_SECONDS)
    shutil.copy(core.folder / "libfake_numa.so", folder)
    return program


def _build_both(folder: Path, broken: Break) -> tuple[Path | None, Path]:
    """The test's program with the promise kept, if that is not the core as it is, and broken."""
    core = _compile_core(broken.compiler, folder.parent)
    test, _ = broken.test.split()
    no_ticks = broken.also == NO_TICKS
    intact = _build(core, folder / "intact", test, list(broken.also)) if no_ticks else None
    changes = [*broken.also, (broken.file, broken.old, broken.new)]
    return intact, _build(core, folder / "broken", test, changes)


def _passes(program: Path, test: str) -> bool:
    try:
        result = subprocess.run(
            [str(program), test],
            env=environment_of(test, program.parent),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def _is_noticed(_folder: Path, broken: Break, programs: tuple[Path | None, Path]) -> bool:
    """A race may hide a break: one failure in thirty runs is enough."""
    intact, program = programs
    _, test = broken.test.split()
    if intact:
        assert _passes(intact, test), "fails also where the promise is kept"
    return not all(_passes(program, test) for _ in range(30))


@pytest.mark.ahead(by=_build_both)
@pytest.mark.beside(by=_is_noticed)
@pytest.mark.timeout(LOW_PRIORITY_SECONDS)
@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.promise)
def test_a_broken_promise_is_noticed(broken: Break, beside: bool) -> None:
    assert beside, broken.promise
