"""Works and NUMA nodes, on whatever nodes the kernel has: tests/numa/test_machines.py runs this
where it has several, and says how many by IOWQ_NODES."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
from collections.abc import Iterator

import pytest

import iowq
from support import run_python

NODES = iowq.topology().nodes
IDS = [node.id or 0 for node in NODES]


def _where() -> int:
    """The node that the caller runs on, as the kernel has it."""
    cpu, node = ctypes.c_uint(), ctypes.c_uint()
    libc = ctypes.CDLL(None)
    assert libc.syscall(ctypes.c_long(_GETCPU), ctypes.byref(cpu), ctypes.byref(node), None) == 0
    return node.value


_GETCPU = {"x86_64": 309, "aarch64": 168}[os.uname().machine]


@pytest.fixture
def at_home() -> Iterator[None]:
    """Restores the calling thread's affinity."""
    cpus = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cpus)


def _lasting(nodes: tuple[iowq.Node, ...]) -> list[iowq.Node]:
    """But for the memory, which a virtual machine's host gives and takes."""
    return [dataclasses.replace(node, memory=None) for node in nodes]


def test_as_many_nodes_as_expected(wq: iowq.WorkQueue) -> None:
    assert len(NODES) == int(os.environ.get("IOWQ_NODES", len(NODES)))
    assert _lasting(wq.topology.nodes) == _lasting(NODES)
    assert "libnuma.so.1" in (wq.topology.library or "")
    for index, node in enumerate(NODES):
        assert len(node.distances) == len(NODES)
        assert [d == 10 for d in node.distances] == [i == index for i in range(len(NODES))]


def test_work_runs_on_its_node(wq: iowq.WorkQueue) -> None:
    for node in IDS:
        view = wq.on_node(node)
        assert [f.result(60) for f in [view.submit(_where) for _ in range(20)]] == [node] * 20
        assert wq.unbounded.on_node(node).submit(_where).result(60) == node
        assert wq.on_node(IDS[0]).on_node(node).hashed("k").submit(_where).result(60) == node
    wq.flush()
    nodes = wq.stats().nodes
    assert [nodes[node.id].enqueued for node in NODES] == [22] * len(NODES)
    assert sum(s.workers for s in nodes.values()) == wq.stats().workers >= len(NODES)


@pytest.mark.usefixtures("at_home")
def test_work_runs_on_the_node_that_it_is_enqueued_on(wq: iowq.WorkQueue) -> None:
    for node in NODES * 2:
        os.sched_setaffinity(0, {node.cpus[-1]})
        assert wq.submit(_where).result(60) == (node.id or 0)


def test_a_key_is_in_order_across_nodes(wq: iowq.WorkQueue) -> None:
    seen: list[int] = []
    views = [wq.on_node(node) for node in IDS]
    for number in range(300):
        views[number % len(IDS)].enqueue_hashed("key", seen.append, number)
    wq.flush(100)
    assert seen == list(range(300))


def test_a_queue_for_some_nodes(wq: iowq.WorkQueue) -> None:
    for node in NODES:
        number = node.id or 0
        with iowq.WorkQueue(4, nodes=[number]) as restricted:
            assert [n.id for n in restricted.topology.nodes] == [node.id]
            for other in IDS:
                assert restricted.on_node(other).submit(_where).result(60) == number
        wq.set_affinity(cpus=[node.cpus[0]])
        assert wq.submit(os.sched_getaffinity, 0).result(60) == {node.cpus[0]}
        assert [n.cpus for n in wq.topology.nodes] == [(node.cpus[0],)]
    wq.set_affinity()
    assert _lasting(wq.topology.nodes) == _lasting(NODES)
    for number in IDS:
        assert wq.on_node(number).submit(_where).result(60) == number


def test_affinity_changes_while_work_flows(wq: iowq.WorkQueue) -> None:
    futures = []
    for turn in range(40):
        wq.set_affinity(nodes=[IDS[turn % len(IDS)]])
        futures += [wq.on_node(IDS[i % len(IDS)]).submit(_where) for i in range(10)]
    assert {f.result(100) for f in futures} <= set(IDS)


def test_errors_name_the_argument_and_its_value(wq: iowq.WorkQueue) -> None:
    with pytest.raises(ValueError, match="node 999 is not one that this queue has workers for"):
        wq.on_node(999)
    with pytest.raises(TypeError, match=re.escape("node must be an int, not str: '1'")):
        wq.on_node("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nodes: node 999 is not one that this queue may use"):
        iowq.WorkQueue(nodes=[999])
    with pytest.raises(ValueError, match="cpus: CPU 4095 is not one that this queue may use"):
        wq.set_affinity(cpus=[4095])
    with pytest.raises(ValueError, match="nodes must not be empty"):
        wq.set_affinity(nodes=[])
    with pytest.raises(TypeError, match="nodes must be numbers in an iterable, not 0"):
        wq.set_affinity(nodes=0)  # type: ignore[arg-type]


def test_without_libnuma_there_is_one_warning_and_it_runs() -> None:
    result = run_python("""
        import os
        os.environ["IOWQ_LIBNUMA"] = "no-such-library.so"
        import warnings
        import iowq
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                with iowq.WorkQueue(2) as wq:
                    assert wq.on_node(1).submit(int).result() == 0
        print(*(w.message for w in caught), sep="\\n")
    """)
    warnings = [line for line in result.stdout.splitlines() if "NUMA" in line]
    if len(NODES) == 1:
        assert not warnings
    else:
        assert len(warnings) == 1
        assert f"{len(NODES)} NUMA nodes" in warnings[0]
        assert "no-such-library.so" in warnings[0]
