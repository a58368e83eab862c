"""enqueue, enqueue_hashed, cancel and flush against a simple model of the queue."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import iowq
from support import DEADLINE, wait_until


@dataclass
class Item:
    """A work as the model sees it. Its callable blocks until it is let go."""

    number: int
    key: int | None
    cancellable: bool
    state: str = "pending"
    entered: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    work: iowq.Work | None = None

    def __call__(self) -> None:
        self.entered.set()
        assert self.let_go.wait(DEADLINE)


class QueueMachine(RuleBasedStateMachine):
    """The model: a list of works in order; the first `concurrency` startable ones run.

    A work is startable unless earlier work of its key is unfinished. Which run
    is determined after each step, so the queue is waited for, then compared.
    """

    concurrency = 3

    def __init__(self) -> None:
        super().__init__()
        self.wq = iowq.WorkQueue(self.concurrency)
        self.items: list[Item] = []
        self.runnable: list[Item] = []

    def in_state(self, *states: str) -> list[Item]:
        return [item for item in self.items if item.state in states]

    def start_what_can_start(self) -> None:
        """Runnable works start in order: of arrival, or of when their key came free."""
        for item in list(self.runnable):
            if len(self.in_state("running")) == self.concurrency:
                break
            self.runnable.remove(item)
            item.state = "running"

    def holder(self, key: int) -> Item | None:
        return next(
            (
                i
                for i in self.items
                if i.key == key and (i.state == "running" or i in self.runnable)
            ),
            None,
        )

    def add(self, key: int | None, cancellable: bool) -> Item:
        item = Item(len(self.items), key, cancellable)
        if key is None or self.holder(key) is None:
            self.runnable.append(item)
        self.items.append(item)
        return item

    def leave(self, item: Item, state: str) -> None:
        """The item ends; the next one of its key, if it held it, becomes runnable."""
        held = item.key is not None and (item.state == "running" or item in self.runnable)
        if item in self.runnable:
            self.runnable.remove(item)
        item.state = state
        if held:
            waiting = [i for i in self.in_state("pending") if i.key == item.key]
            if waiting:
                self.runnable.append(waiting[0])

    def view(self, cancellable: bool) -> iowq.WorkQueue | iowq.QueueExecutor:
        return self.wq if cancellable else self.wq.uncancellable

    @rule(cancellable=st.booleans())
    def enqueue(self, cancellable: bool) -> None:
        item = self.add(None, cancellable)
        item.work = self.view(cancellable).enqueue(item)
        self.start_what_can_start()

    @rule(key=st.integers(0, 2), cancellable=st.booleans())
    def enqueue_hashed(self, key: int, cancellable: bool) -> None:
        item = self.add(key, cancellable)
        item.work = self.view(cancellable).enqueue_hashed(key, item)
        self.start_what_can_start()

    @precondition(lambda self: self.in_state("running"))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.in_state("running")))
        item.let_go.set()
        self.leave(item, "done")
        self.start_what_can_start()
        wait_until(item.work.done)  # type: ignore[union-attr]

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.items))
        assert item.work is not None
        answer = self.wq.cancel(item.work)
        if item.state == "pending":
            assert answer is iowq.Cancel.OK
            self.leave(item, "cancelled")
            self.start_what_can_start()
        elif item.state == "running":
            assert answer is iowq.Cancel.RUNNING
            self.end_cancelled(item)
        else:
            assert answer is iowq.Cancel.NOTFOUND

    def end_cancelled(self, item: Item) -> None:
        """It waits for an event, which cancel ends, unless it is uncancellable."""
        if item.cancellable:
            self.leave(item, "cancelled")
            self.start_what_can_start()
            wait_until(item.work.done)  # type: ignore[union-attr]

    @rule(key=st.integers(0, 2))
    def cancel_if_of_key(self, key: int) -> None:
        chosen = [i for i in self.in_state("pending", "running") if i.key == key]
        works = {item.work for item in chosen}
        self.wq.cancel_if(works.__contains__)
        for item in [i for i in chosen if i.state == "pending"]:
            self.leave(item, "cancelled")
        for item in [i for i in chosen if i.state == "running"]:
            self.end_cancelled(item)
        self.start_what_can_start()

    @rule()
    def cancel_all(self) -> None:
        self.wq.cancel_all()
        for item in self.in_state("pending"):
            item.state = "cancelled"
        self.runnable.clear()
        for item in self.in_state("running"):
            self.end_cancelled(item)

    @rule()
    def flush(self) -> None:
        unfinished = self.in_state("pending", "running")
        try:
            self.wq.flush(timeout=0.01)
        except TimeoutError:
            assert unfinished
        else:
            assert not unfinished

    @rule()
    def finish_all_and_flush(self) -> None:
        for item in self.in_state("pending", "running"):
            item.let_go.set()
            item.state = "done"
        self.runnable.clear()
        self.wq.flush(timeout=DEADLINE)

    @invariant()
    def states_agree(self) -> None:
        for item in self.in_state("running"):
            assert item.entered.wait(DEADLINE), "a work that can run was not started"
        for item in self.items:
            assert item.work is not None
            assert item.work.pending() == (item.state == "pending")
            assert item.work.running() == (item.state == "running")
            assert item.work.cancelled() == (item.state == "cancelled")
            assert item.work.done() == (item.state in ("done", "cancelled"))
            if item.state != "cancelled":
                assert item.entered.is_set() == (item.state in ("running", "done"))

    @invariant()
    def counts_agree(self) -> None:
        wait_until(lambda: self.wq.stats().running == len(self.in_state("running")))
        stats = self.wq.stats()
        assert stats.enqueued == len(self.items)
        assert stats.pending == len(self.in_state("pending"))
        assert stats.workers <= self.concurrency

    def teardown(self) -> None:
        for item in self.items:
            item.let_go.set()
        self.wq.close()
        assert len(self.wq._keys) == 0


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
