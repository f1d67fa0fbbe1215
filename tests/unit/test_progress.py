"""What a person sees of a long job: the line of a log, and the picture of a terminal."""

import io

import pytest

from cluster.labelling.tally import Tally
from cluster.progress import ProgressReport, duration, quantity
from kdcore.store import Receipt


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_an_interval_with_the_facts() -> None:
    clock, log = Clock(), io.StringIO()
    with ProgressReport("labels", 4e6, "B", done=1e6, stream=log, clock=clock, interval_seconds=10) as report:
        report.show(lambda: ["2 working"])
        for _ in range(20):
            clock.now += 1
            report.advance(1e5)
        assert log.getvalue().splitlines() == [
            "labels: 50 %, 2 MB of 4 MB, 100 kB/s, 20 s left; 2 working",
            "labels: 75 %, 3 MB of 4 MB, 100 kB/s, 10 s left; 2 working",
        ]
        report.advance(1e6)
    assert log.getvalue().splitlines()[-1].startswith("labels: 100 %, 4 MB of 4 MB")
    assert log.getvalue().endswith("after 20 s; 2 working\n")


def test_a_log_hears_nothing_more_of_a_job_that_failed() -> None:
    log = io.StringIO()

    def failing() -> None:
        with ProgressReport("labels", 1, "B", stream=log):
            raise ValueError

    with pytest.raises(ValueError):
        failing()
    assert log.getvalue() == ""


def test_without_a_total_it_counts() -> None:
    clock, log = Clock(), io.StringIO()
    report = ProgressReport("plan", None, "samples", stream=log, clock=clock, interval_seconds=10)
    clock.now = 10
    report.advance(12_345)
    assert log.getvalue() == "plan: 12.3 k samples, 1.23 k samples/s, after 10 s\n"


def test_the_rate_is_that_of_the_last_minutes() -> None:
    clock = Clock()
    report = ProgressReport("labels", 1e9, "B", stream=io.StringIO(), clock=clock)
    for seconds, amount in ((1000, 1000), (50, 5000), (50, 5000), (50, 5000)):
        clock.now += seconds
        report.advance(amount)
    assert report.rate() == 100.0
    clock.now += 1000
    assert report.rate() < 20


def test_what_others_did_is_done_but_no_part_of_the_rate() -> None:
    clock, log = Clock(), io.StringIO()
    with ProgressReport("labels", 1000, "B", stream=log, clock=clock) as report:
        clock.now = 10
        report.advance(100)
        report.skip(500)
        assert report.rate() == 10.0
    assert log.getvalue().splitlines()[-1] == "labels: 60 %, 600 B of 1 kB, 10 B/s, 40 s left"


def test_a_terminal_gets_a_bar_and_the_facts_beneath() -> None:
    terminal = Terminal()
    with ProgressReport("labels", 100, "B", stream=terminal) as report:
        report.advance(50)
        report.show(lambda: ["replicas 3 working", "last failure unit-000001: [NaN]"])
    told = terminal.getvalue()
    assert "50 %, 50 B of 100 B" in told
    assert "replicas 3 working; last failure unit-000001: [NaN]" in told


def test_a_tally_says_what_it_counted() -> None:
    tally = Tally(units=10, before=4, replicas={"working": 2, "starting": 0, "given up": 1})
    done = Receipt("unit-1", "data/1.arrow", 1, 500, 9, "d", "u", forward_seconds=2.0, ideal_seconds=0.5)
    tally.add(done, input_bytes=1000)
    tally.record({"event": "Retry", "unit": "unit-1", "reason": "no answer"})
    tally.record({"event": "ReplicaDied", "unit": None, "replica": 3, "reason": "killed\nfor memory"})
    assert tally.facts(rate=4000.0) == [
        "2 k tokens/s",
        "units 5 of 10, 1 retried, 0 failed",
        "replicas 2 working, 1 given up",
        "MFU 25 %",
        "last failure replica 3: killed for memory",
    ]


@pytest.mark.parametrize(
    ("amount", "unit", "words"),
    [
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (999.6, "B", "1 kB"),
        (1234567, "tokens", "1.23 M tokens"),
        (5e20, "B", "5e+05 PB"),
    ],
)
def test_quantities_have_three_digits(amount: float, unit: str, words: str) -> None:
    assert quantity(amount, unit) == words


def test_durations() -> None:
    assert [duration(seconds) for seconds in (42.4, 200, 7500)] == ["42 s", "3 min 20 s", "2 h 05 min"]
