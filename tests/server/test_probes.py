"""Questions that are answered whatever the load: a few of each asker."""

from hpcgate.admission.askers import Stranger
from hpcgate.server.probes import AT_ONCE, EVERY, Probes


def test_a_few_of_each_asker_are_allowed_and_as_many_again_later() -> None:
    """Without an end strangers who asked for liveness left users one part in fifty of what they had alone."""
    now = 0.0
    probes = Probes(lambda: now)
    one, other = Stranger("192.0.2.1", bearer=False), Stranger("192.0.2.2", bearer=False)
    for _ in range(2):
        assert probes.allow(one)
        assert [probes.take(one) for _ in range(AT_ONCE + 3)] == [True] * AT_ONCE + [False] * 3
        assert not probes.allow(one)
        assert probes.take(other)
        now += EVERY
