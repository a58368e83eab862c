"""iowq.topology(), with and without libnuma."""

from __future__ import annotations

import os

import iowq
from support import run_python


def test_covers_the_cpus_that_the_process_may_use() -> None:
    topology = iowq.topology()
    cpus = [cpu for node in topology.nodes for cpu in node.cpus]
    assert sorted(cpus) == sorted(os.sched_getaffinity(0))


def test_libnuma_serves() -> None:
    topology = iowq.topology()
    assert topology.problem is None, "libnuma.so.1 is needed: apt-get install libnuma1"
    assert None not in [node.memory for node in topology.nodes]
    assert any(node.memory for node in topology.nodes)


def test_without_libnuma_there_is_one_node_and_a_reason() -> None:
    result = run_python("""
        import os
        os.environ["IOWQ_LIBNUMA"] = "no-such-library.so"
        import iowq
        topology = iowq.topology()
        print(len(topology.nodes), topology.nodes[0].id, topology.nodes[0].memory)
        print(topology.problem)
        with iowq.WorkQueue(2) as wq:
            wq.enqueue(print, "works")
    """)
    lines = result.stdout.splitlines()
    assert lines[0] == "1 None None"
    assert "no-such-library.so" in lines[1]
    assert lines[2] == "works"
