import re

import pytest

from turducken.system.console import Console, Wanted, Watch


def filled(data: bytes) -> tuple[Console, list[str]]:
    console, lines = Console(), []
    console.subscribe(lines.append)
    for byte in data:
        console.put(byte)
    return console, lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_come_without_their_end(end: bytes) -> None:
    console, lines = filled(b"one" + end + end + b"two" + end + b"thr")
    assert lines == ["one", "", "two"]
    assert console.unfinished == "thr"


def test_text_is_all_that_was_written() -> None:
    console, _ = filled(b"one\r\ntwo")
    assert console.text == "one\r\ntwo"
    assert bytes(console.data) == b"one\r\ntwo"


def test_bytes_that_are_no_text_are_replaced() -> None:
    _, lines = filled(b"a\xffb\n")
    assert lines == ["a\ufffdb"]


def test_a_subscriber_can_leave() -> None:
    console, lines = filled(b"one\n")
    console.unsubscribe(lines.append)
    console.put(ord("\n"))
    assert lines == ["one"]


def watch_for(
    found: list[object], until: str | None = None, fail_on: str | None = None, **how: object
) -> Watch:
    patterns = (re.compile(one) if one else None for one in (until, fail_on))
    return Watch(Wanted(*patterns, **how), lambda name, line: found.append((name, line)))


def watched(*lines: str, **wanted: object) -> list[object]:
    found: list[object] = []
    watch = watch_for(found, **wanted)
    for line in lines:
        watch.line(line)
    return found


def test_a_pattern_is_found_once() -> None:
    assert watched("a", "b1", "b2", until="b") == [("until", "b1")]


def test_failure_counts_more_than_success_in_the_same_line() -> None:
    assert watched("both", until="b", fail_on="o") == [("fail-on", "both")]


def test_the_first_line_that_matches_decides() -> None:
    assert watched("good", "bad", until="good", fail_on="bad") == [("until", "good")]


def test_nothing_is_found_where_nothing_is_wanted() -> None:
    assert watched("anything") == []


def test_so_many_lines_are_waited_for() -> None:
    assert watched("ok 1", "no", "ok 1", "ok 2", until="ok", lines=2) == [("until", "ok 1")]


def test_a_line_of_each_processor_is_waited_for() -> None:
    lines = ("cpu0 done", "cpu0 done", "cpu1 done", "cpu2 done")
    assert watched(*lines, until="done", lines=2, distinct=True) == [("until", "cpu1 done")]


def test_a_prompt_counts_once_when_its_line_is_completed() -> None:
    found: list[object] = []
    watch = watch_for(found, until="login:", lines=2)
    watch.unfinished("login: ")
    watch.line("login: root")
    assert found == []
    watch.unfinished("login: ")
    assert found == [("until", "login: ")]


def test_a_line_is_judged_again_when_more_of_it_is_there() -> None:
    found: list[object] = []
    watch = watch_for(found, until="done")
    watch.unfinished("nearly ")
    watch.line("nearly done")
    assert found == [("until", "nearly done")]
