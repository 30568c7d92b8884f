import re

import pytest

from turducken.system.console import Console, Watch


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


def watched(*lines: str, until: str | None = None, fail_on: str | None = None) -> list[object]:
    found: list[object] = []
    patterns = (re.compile(one) if one else None for one in (until, fail_on))
    watch = Watch(*patterns, lambda name, line: found.append((name, line)))
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
