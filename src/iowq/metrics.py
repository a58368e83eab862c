"""What queues count, for Prometheus and OpenTelemetry, by the names that :class:`iowq.Stats` has.

Queues that are closed or gone are no longer reported.
"""

from ._metrics.for_opentelemetry import opentelemetry
from ._metrics.for_prometheus import prometheus

__all__ = ["opentelemetry", "prometheus"]
