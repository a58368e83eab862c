"""A collector for Prometheus' client."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .counts import BOUNDS, COUNTERS, LEVELS, LONGEST, WAITS, Reported, Snapshot

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from .._executor.queue import WorkQueue

_LABELS = ["queue", "node"]


def _counts(snapshot: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kinds: list[tuple[Any, Any]] = [(CounterMetricFamily, COUNTERS), (GaugeMetricFamily, LEVELS)]
    for kind, counts in kinds:
        for count in counts:
            family = kind(f"iowq_{count.name}", count.about, labels=_LABELS)
            for place, value in snapshot.count(count.name).items():
                family.add_metric(place, value)
            yield family


def _longest(snapshot: Snapshot) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily("iowq_longest", LONGEST.about, labels=["queue"])
    for queue, value in snapshot.longest().items():
        family.add_metric([queue], value)
    return family


def _waits(snapshot: Snapshot) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily("iowq_waits_seconds", WAITS.about, labels=_LABELS)
    for place, counts in snapshot.waits().items():
        buckets = [(repr(bound), n) for bound, n in zip(BOUNDS, counts, strict=True)]
        family.add_metric(place, [*buckets, ("+Inf", counts[-1])], None)
    return family


def _families(snapshot: Snapshot) -> Iterable[Metric]:
    return [*_counts(snapshot), _longest(snapshot), _waits(snapshot)]


class _QueueCollector:
    """What the client asks for, by its methods' names; it tells collectors by these."""

    def __init__(self, wq: WorkQueue | None) -> None:
        self.reported = Reported(wq)

    def collect(self) -> Iterable[Metric]:
        return _families(self.reported.snapshot())

    def describe(self) -> Iterable[Metric]:
        return _families(Snapshot([]))


_collectors: weakref.WeakKeyDictionary[CollectorRegistry, _QueueCollector]
_collectors = weakref.WeakKeyDictionary()


def prometheus(
    wq: WorkQueue | None = None, *, registry: CollectorRegistry | None = None
) -> Collector:
    """Has a queue's counts collected by Prometheus' client, which reads them when it is scraped.

    Counters are ``iowq_enqueued_total`` and so on, gauges ``iowq_pending``. Labels are the
    queue's name, under which queues of one name are added up, and the NUMA node's number. How
    long works were pending is the histogram ``iowq_waits_seconds``, without a sum.

    :param wq: default: all queues of this process, also those that are still to come.
    :param registry: default: the client's own.
    :returns: the registry's collector, of which it has one for all queues.
    :raises ModuleNotFoundError: ``pip install 'iowq[prometheus]'``.
    :raises ValueError: the registry has metrics of these names that are not this module's.
    """
    from prometheus_client import REGISTRY

    registry = REGISTRY if registry is None else registry
    collector = _collectors.get(registry)
    if collector is None:
        collector = _QueueCollector(wq)
        registry.register(collector)
        _collectors[registry] = collector
    else:
        collector.reported.add(wq)
    return collector
