"""Observable instruments for OpenTelemetry."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .counts import BOUNDS, COUNTERS, LEVELS, LONGEST, WAITS, Count, Reported

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from .._executor.queue import WorkQueue

    Callback = Callable[[CallbackOptions], Iterable[Observation]]


def _observe_count(reported: Reported, name: str) -> Callback:
    from opentelemetry.metrics import Observation

    def callback(_options: CallbackOptions) -> list[Observation]:
        counts = reported.snapshot().count(name)
        return [
            Observation(value, {"queue": queue, "node": node})
            for (queue, node), value in counts.items()
        ]

    return callback


def _observe_longest(reported: Reported) -> Callback:
    from opentelemetry.metrics import Observation

    def callback(_options: CallbackOptions) -> list[Observation]:
        longest = reported.snapshot().longest()
        return [Observation(value, {"queue": queue}) for queue, value in longest.items()]

    return callback


def _observe_waits(reported: Reported) -> Callback:
    from opentelemetry.metrics import Observation

    def callback(_options: CallbackOptions) -> list[Observation]:
        return [
            Observation(count, {"queue": queue, "node": node, "le": bound})
            for (queue, node), counts in reported.snapshot().waits().items()
            for bound, count in zip(BOUNDS, counts, strict=True)
        ]

    return callback


def _unit(count: Count) -> str:
    return f"{{{count.unit}}}"  # an annotation, as OpenTelemetry's conventions have it


def _make_instruments(meter: Meter, reported: Reported) -> None:
    for make, counts in (
        (meter.create_observable_counter, COUNTERS),
        (meter.create_observable_up_down_counter, LEVELS),
    ):
        for count in counts:
            observe = _observe_count(reported, count.name)
            make(f"iowq.{count.name}", [observe], _unit(count), count.about)
    longest, waits = _observe_longest(reported), _observe_waits(reported)
    meter.create_observable_gauge("iowq.longest", [longest], _unit(LONGEST), LONGEST.about)
    meter.create_observable_counter("iowq.waits", [waits], _unit(WAITS), WAITS.about)


_meters: weakref.WeakKeyDictionary[Meter, Reported] = weakref.WeakKeyDictionary()


def opentelemetry(wq: WorkQueue | None = None, *, meter: Meter | None = None) -> None:
    """Has a queue's counts observed by OpenTelemetry, whenever it reads its instruments.

    Counters are ``iowq.enqueued`` and so on; what goes up and down, ``iowq.pending``. Attributes
    are the queue's name, under which queues of one name are added up, and the NUMA node's
    number. No histogram can be observed, so ``iowq.waits`` counts the works that were pending
    for ``le`` seconds or less.

    :param wq: default: all queues of this process, also those that are still to come.
    :param meter: default: the one named ``iowq`` of the global provider.
    :raises ModuleNotFoundError: ``pip install 'iowq[opentelemetry]'``.
    """
    from opentelemetry.metrics import get_meter

    meter = get_meter("iowq") if meter is None else meter
    reported = _meters.get(meter)
    if reported is None:
        reported = Reported(wq)
        _make_instruments(meter, reported)
        _meters[meter] = reported
    else:
        reported.add(wq)
