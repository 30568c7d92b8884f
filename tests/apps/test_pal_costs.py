"""What PALs cost is counted, and the same in every run."""

from turducken.report.bench.pals import costs


def test_calls_are_two_exits_from_l1_and_from_l2() -> None:
    found = costs("one", "cached")
    assert found == costs("one", "cached")
    by_step = {(one.level, one.step): one for one in found}
    assert by_step["L1", "call"].exits == 2
    assert by_step["L2", "call"].exits == 2
    assert by_step["L1", "unregister"].exits == 1
    assert by_step["L2", "register"].exits > by_step["L1", "register"].exits
    assert all(0 < one.instructions < 100 for one in found)
