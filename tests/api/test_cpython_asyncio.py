"""CPython's tests of asyncio that use an executor, with the queue as the loop's own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import re
import sys
import unittest
from collections.abc import Iterator
from types import CodeType
from unittest import mock

import pytest

import cpython
from cpython_queue import WorkQueue

THIS = sys.version_info[:2]

#: A test that names one of these is about executors.
NAMES = {
    "ThreadPoolExecutor",
    "run_in_executor",
    "set_default_executor",
    "shutdown_default_executor",
    "to_thread",
}

#: Tests that have asyncio use its executor: to look names up, and to read files.
INDIRECT = {
    "test_base_events": (
        "create_connection_(bluetooth|ipv6_scope|no_inet_pton|service_name)"
        "|create_datagram_endpoint_no_addrinfo|getnameinfo"
        "|_sock_sendfile_native_failure|sock_sendfile_(fallback.*|no_fallback)"
    ),
    "test_events": (
        "create_connection_local_addr_(nomatch_family|skip_different_family)"
        "|create_datagram_endpoint_sock|create_server_dual_stack"
    ),
    "test_selector_events": "sock_connect_resolve_using_socket_params",
    "test_sendfile": "sendfile_(fallback_close_peer_in.*|force_fallback|ssl.*)",
    "test_sock_lowlevel": "create_connection_sock",
    "test_streams": "unhandled_.*",
    "test_tasks": "run_coroutine_threadsafe.*",
    "test_unix_events": "sock_sendfile_(blocking.*|cancel.|ex.*|iobuffer|not_.*|os_error_.*)",
}

#: Tests of what loops refuse to do with an executor. They make none.
REFUSALS = {
    "call_coroutine",
    "close",
    "not_implemented",
    "not_implemented_async",
    "set_default_executor_" + ("error" if THIS >= (3, 11) else "deprecation_warnings"),
}

#: It is among those of INDIRECT by its name alone.
USES_NONE = "run_coroutine_threadsafe_and_cancel"


def _collect() -> dict[str, unittest.TestCase]:
    cases = cpython.cases_of(cpython.classes_of(cpython.import_tests("test_asyncio")))
    return {name: case for name, case in cases.items() if _uses_executor(name, case)}


def _uses_executor(name: str, case: unittest.TestCase) -> bool:
    module = name.partition(".")[0]
    if _short_name(case) == USES_NONE:
        return False
    if re.fullmatch(INDIRECT.get(module, ""), _short_name(case)):
        return True
    method = getattr(case, case._testMethodName)
    names = {name for code in _codes_in(inspect.unwrap(method).__code__) for name in code.co_names}
    return bool(names & NAMES) and "ProcessPoolExecutor" not in names


def _short_name(case: unittest.TestCase) -> str:
    return case._testMethodName.removeprefix("test_")


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of those that are defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_in(constant)


CASES = cpython.if_installed(_collect)


def test_all_are_there() -> None:
    tests = _collect()
    assert {_short_name(case) for case in tests.values()} >= REFUSALS
    modules = {*INDIRECT, "test_futures", "test_threads"} - {"test_streams"}
    assert modules <= {name.partition(".")[0] for name in tests}


@pytest.mark.parametrize("case", cpython.parameters(CASES))
def test_cpython(case: unittest.TestCase) -> None:
    asyncio.set_event_loop(None)  # as an earlier test does, on which one of them depends
    made = WorkQueue.made
    with (
        mock.patch.object(concurrent.futures, "ThreadPoolExecutor", WorkQueue),
        cpython.distinct_ports(),
    ):
        cpython.run(case)
    assert (WorkQueue.made == made) is (_short_name(case) in REFUSALS)
