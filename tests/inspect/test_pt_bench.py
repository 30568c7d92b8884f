"""The benchmark's subjects give right answers, in far less than a second each."""

import time

import pytest

from turducken.inspect import bench


@pytest.mark.parametrize("scattered", [False, True])
def test_eight_gigabytes_of_small_pages(scattered):
    subject = bench.make_subject(scattered=scattered)
    ranges = bench.dump(subject)
    assert ranges.total == bench.MAPPED
    assert (len(ranges) == 1) is not scattered
    for work in (bench.dump, bench.check, bench.compose_twice):
        best = min(_seconds(work, subject) for _ in range(3))
        # On an idle machine these are milliseconds, or 0.3 s scattered.
        assert best < (4.0 if scattered else 1.0), work.__name__


def _seconds(work, subject):
    start = time.process_time()
    work(subject)
    return time.process_time() - start


def test_the_subject_has_one_fault_it_maps_its_own_tables():
    report = bench.check(bench.make_subject(scattered=False))
    assert {one.rule.name for one in report.findings} == {"tables-writable", "writable-executable"}
