"""Our counters and histograms expose what prometheus-client's own do."""

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from hpcgate.telemetry.tally import Counter, Histogram

BUCKETS = (0.005, 0.1, 1.0, 30.0)
amounts = st.lists(
    st.tuples(
        st.sampled_from(["a", 'b"\n\\']), st.one_of(st.sampled_from(BUCKETS), st.floats(0, 1e6, allow_subnormal=False))
    )
)


@given(amounts)
def test_the_same_text(observed: list[tuple[str, float]]) -> None:
    """Our counters and histograms are shown as those of prometheus_client are."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    for registry, counter, histogram in (
        (ours, Counter, Histogram),
        (theirs, prometheus_client.Counter, prometheus_client.Histogram),
    ):
        counts = counter("seen", "What was seen.", ("kind",), registry=registry)
        seconds = histogram("took_seconds", "What it took.", ("kind",), buckets=BUCKETS, registry=registry)
        for kind, amount in observed:
            counts.labels(kind).inc()
            counts.labels(kind).inc(amount)
            seconds.labels(kind).observe(amount)
    assert generate_latest(ours) == generate_latest(theirs)
