"""Counters and histograms for the event loop alone: no locks, one call an observation.

prometheus-client's own take a lock and six calls for each, which on the way of every request costs three times as much
as all else that is counted there. What they expose is the same.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add to it; `amount` is not negative."""
        self.value += amount


class Tally:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, amount: float) -> None:
        """Take down one amount."""
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.total += amount


class Counter(Collector):
    """A counter with labels.

    Args:
        name: Its name, without ``_total``.
        documentation: What it counts.
        labels: The names of its labels.
        registry: Where it is exposed.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._series: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """Return the series of these values of the labels."""
        return self._series.setdefault(values, Count())

    def collect(self) -> Iterable[Metric]:
        """Return all series."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, series.value)
        yield family


class Histogram(Collector):
    """A histogram with labels.

    Args:
        name: Its name.
        documentation: What it measures.
        labels: The names of its labels.
        buckets: The upper bounds of its buckets, rising; infinity is added.
        registry: Where it is exposed.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = tuple(buckets)
        bounds = (*self._bounds, float("inf"))
        self._names: list[str] = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]
        self._series: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """Return the series of these values of the labels."""
        return self._series.setdefault(values, Tally(self._bounds))

    def collect(self) -> Iterable[Metric]:
        """Return all series."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, series in self._series.items():
            reached = 0
            buckets = []
            for name, count in zip(self._names, series.counts, strict=True):
                reached += count
                buckets.append((name, float(reached)))
            family.add_metric(values, buckets, series.total)
        yield family
