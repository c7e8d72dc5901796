"""The soak, for about one minute."""

from rich.console import Console

from tests.faults.soak import soak


def test_a_minute_of_faults_leaves_nothing_behind() -> None:
    report = soak(45, print)
    report.show(Console())
    assert not report.problems
    good = sum(count for outcome, count in report.outcomes.items() if outcome.endswith(": ok"))
    assert good > 500
    assert len(report.faults) > 1
