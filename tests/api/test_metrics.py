"""``iowq.metrics``, read by the real clients."""

from __future__ import annotations

import gc
import urllib.request
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

import iowq
import iowq.metrics
from iowq._metrics.for_prometheus import _collectors
from support import DEADLINE, Blocker, is_gone, wait_until

COUNTERS = ("enqueued", "started", "finished", "failed", "cancelled", "created", "retired")
LEVELS = ("pending", "running", "blocked", "workers", "idle")


def _fail() -> None:
    raise LookupError("no such row")


def _use(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    """Works of all outcomes, and one that runs, and two that are pending."""
    for _ in range(200):
        wq.submit(int)
    wq.submit(_fail)
    wq.flush()
    wq.submit(blocker)
    blocker.wait_entered()
    futures = [wq.submit(int) for _ in range(3)]
    futures[0].cancel()


class Server:
    """Prometheus' own, on a port of its own, and what scrapes it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._server, self._thread = start_http_server(0, "127.0.0.1", self.registry)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def read(self, kind: str = "text/plain") -> str:
        url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        request = urllib.request.Request(url, headers={"Accept": kind})
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return str(answer.read().decode())

    def samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in parse(self.read()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def value(self, name: str, queue: str) -> float:
        return sum(v for labels, v in self.samples().get(name, []) if labels["queue"] == queue)

    def has(self, queue: str) -> bool:
        return any(labels["queue"] == queue for labels, _ in self.samples().get("iowq_workers", []))


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_prometheus_has_what_stats_has(server: Server, blocker: Blocker) -> None:
    with iowq.WorkQueue(1, name="rows") as wq:
        iowq.metrics.prometheus(wq, registry=server.registry)
        _use(wq, blocker)
        stats = wq.stats()
        samples = server.samples()
        for name in COUNTERS:
            assert sum(v for _, v in samples[f"iowq_{name}_total"]) == getattr(stats, name), name
        for name in LEVELS:
            assert sum(v for _, v in samples[f"iowq_{name}"]) == getattr(stats, name), name
        assert samples["iowq_longest"] == [({"queue": "rows"}, stats.longest)]
        nodes = {"" if node is None else str(node) for node in stats.nodes}
        assert {labels["node"] for labels, _ in samples["iowq_pending"]} == nodes
        buckets = {labels["le"]: v for labels, v in samples["iowq_waits_seconds_bucket"]}
        assert buckets["+Inf"] == sum(stats.waits) >= 5
        assert sorted(buckets.values()) == list(buckets.values())
        blocker.release()


def test_prometheus_types_and_openmetrics(server: Server, blocker: Blocker) -> None:
    with iowq.WorkQueue(1, name='"odd"\n\\') as wq:
        iowq.metrics.prometheus(wq, registry=server.registry)
        _use(wq, blocker)
        for read, kind in (
            (parse, "text/plain"),
            (parse_openmetrics, "application/openmetrics-text"),
        ):
            types = {family.name: family.type for family in read(server.read(kind))}
            assert {types[f"iowq_{name}"] for name in COUNTERS} == {"counter"}
            assert {types[f"iowq_{name}"] for name in (*LEVELS, "longest")} == {"gauge"}
            assert types["iowq_waits_seconds"] == "histogram"
        assert server.value("iowq_running", '"odd"\n\\') == 1
        blocker.release()


def test_prometheus_some_queues_and_all(server: Server) -> None:
    with iowq.WorkQueue(1, name="one") as one, iowq.WorkQueue(1, name="two") as two:
        collector = iowq.metrics.prometheus(one, registry=server.registry)
        assert (server.has("one"), server.has("two")) == (True, False)
        assert iowq.metrics.prometheus(two, registry=server.registry) is collector
        assert (server.has("one"), server.has("two")) == (True, True)
        with iowq.WorkQueue(1, name="later") as later:
            assert not server.has("later")
            iowq.metrics.prometheus(registry=server.registry)
            later.submit(int).result()
            assert server.value("iowq_finished_total", "later") == 1
        assert not server.has("later")
    assert not server.has("one")


def test_prometheus_adds_up_queues_of_one_name(server: Server) -> None:
    with iowq.WorkQueue(1, name="same") as one, iowq.WorkQueue(1, name="same") as two:
        for wq in one, two:
            iowq.metrics.prometheus(wq, registry=server.registry)
            wq.submit(int).result()
        wait_until(lambda: server.value("iowq_finished_total", "same") == 2)


def test_prometheus_default_registry() -> None:
    from prometheus_client import REGISTRY

    with iowq.WorkQueue(1, name="default") as wq:
        collector = iowq.metrics.prometheus(wq)
        try:
            labels = {"queue": "default"}
            assert REGISTRY.get_sample_value("iowq_longest", labels) == 0
        finally:
            REGISTRY.unregister(collector)
            _collectors.clear()


def test_prometheus_refuses(server: Server) -> None:
    with pytest.raises(TypeError, match="wq must be a WorkQueue or None, not int: 5"):
        iowq.metrics.prometheus(5, registry=server.registry)  # type: ignore[arg-type]
    Counter("iowq_enqueued", "Somebody else's.", registry=server.registry)
    with pytest.raises(ValueError, match="iowq_enqueued"):
        iowq.metrics.prometheus(registry=server.registry)


def test_queues_and_registries_are_let_go_of(server: Server) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    wq = iowq.WorkQueue(1, name="gone")
    registry = CollectorRegistry()
    for where in server.registry, registry:
        iowq.metrics.prometheus(wq, registry=where)
    iowq.metrics.opentelemetry(wq, meter=meter)
    references: list[weakref.ref[Any]] = [weakref.ref(wq), weakref.ref(registry)]
    del wq, registry, where
    gc.collect()
    assert all(is_gone(reference) for reference in references)
    assert not server.has("gone")
    assert not _points(reader, "iowq.workers")


# ---- OpenTelemetry


def _metrics(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def _points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    metric = _metrics(reader).get(name)
    return list(metric.data.data_points) if metric else []


def test_opentelemetry_has_what_stats_has(blocker: Blocker) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    with iowq.WorkQueue(1, name="rows") as wq:
        iowq.metrics.opentelemetry(wq, meter=meter)
        _use(wq, blocker)
        stats = wq.stats()
        metrics = _metrics(reader)
        for name in (*COUNTERS, *LEVELS):
            data = metrics[f"iowq.{name}"].data
            assert sum(point.value for point in data.data_points) == getattr(stats, name), name
            assert data.is_monotonic == (name in COUNTERS)
            assert {point.attributes["queue"] for point in data.data_points} == {"rows"}
        assert metrics["iowq.pending"].unit == "{work}"
        assert metrics["iowq.workers"].unit == "{thread}"
        (longest,) = metrics["iowq.longest"].data.data_points
        assert (longest.value, longest.attributes) == (stats.longest, {"queue": "rows"})
        waits = {
            point.attributes["le"]: point.value for point in metrics["iowq.waits"].data.data_points
        }
        assert waits[max(waits)] == sum(stats.waits)
        blocker.release()


def test_opentelemetry_some_queues_and_all() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")

    def names() -> set[str]:
        return {point.attributes["queue"] for point in _points(reader, "iowq.workers")}

    with iowq.WorkQueue(1, name="one") as one, iowq.WorkQueue(1, name="two"):
        iowq.metrics.opentelemetry(one, meter=meter)
        assert names() == {"one"}
        iowq.metrics.opentelemetry(meter=meter)
        assert {"one", "two"} <= names()
    assert not {"one", "two"} & names()
    with pytest.raises(TypeError, match="wq must be a WorkQueue or None"):
        iowq.metrics.opentelemetry(5, meter=meter)  # type: ignore[arg-type]
