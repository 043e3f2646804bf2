"""What is said in streams is printed once, line by line or as it comes, and what was let go is told."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from celery_realtime.cli import spoken
from celery_realtime.cli.output import printer
from celery_realtime.cli.spoken import News, Speech, SpeechAsEvents, SpeechAsIs, SpeechAsLines
from celery_realtime.client import StreamState

NOTES: list[str] = []


def state(begin: int, chunk: Any, **more: Any) -> tuple[StreamState, Any]:
    """Return a stream that has grown by a chunk, and the chunk."""
    fields = {"name": "s", "kind": "text", "attempt": 0, "generation": 1, "start": 0, "state": "open", **more}
    return StreamState(**fields, position=begin + len(chunk), value=chunk), chunk


class Spoken:
    """Says chunks, and knows what is printed of them."""

    def __init__(self, speech: Speech, capsys: pytest.CaptureFixture[str]) -> None:
        self._speech = speech
        self._capsys = capsys
        self._news = News()

    def say(self, *chunk: Any, job: str = "job", **more: Any) -> str:
        said = self._news.of("p", job, *state(*chunk, **more))
        if said is not None:
            self._speech.say(said)
        return self._capsys.readouterr().out

    def end(self) -> str:
        self._speech.end()
        return self._capsys.readouterr().out


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Spoken:
    return Spoken(SpeechAsLines(is_terminal=False), capsys)


@pytest.fixture
def grown(capsys: pytest.CaptureFixture[str]) -> Spoken:
    return Spoken(SpeechAsLines(is_terminal=True), capsys)


@pytest.fixture
def alone(capsys: pytest.CaptureFixture[str]) -> Spoken:
    NOTES.clear()
    return Spoken(SpeechAsIs(is_terminal=False, note=NOTES.append), capsys)


START = f"{'':14}job  s  "


def test_into_a_pipe_lines_are_printed_as_a_whole(lines: Spoken) -> None:
    assert lines.say(0, "ab") == ""
    assert lines.say(2, "c\nd\n\ne") == f"{START}abc\n{START}d\n{START}\n"
    assert lines.say(8, "f", state="closed") == f"{START}ef\n{START}(closed)\n"


def test_on_a_terminal_lines_grow_and_each_speaker_has_lines_of_its_own(grown: Spoken) -> None:
    assert grown.say(0, "ab") == f"{START}ab"
    assert grown.say(2, "c\n") == "c\n"
    assert grown.say(4, "d") == f"{START}d"
    assert grown.say(0, "x", name="t") == f"\n{'':14}job  t  x"
    assert grown.say(5, "e\nf") == f"\n{START}e\n{START}f"
    assert grown.end() == "\n"
    assert grown.end() == ""


def test_a_line_without_an_end_is_not_held_for_ever(lines: Spoken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken, "LONGEST_LINE", 10)
    assert lines.say(0, "x" * 10) == ""
    assert lines.say(10, "y") == f"{START}{'x' * 10}y\n"
    assert lines.say(11, "z") == ""
    assert lines.end() == f"{START}z\n"


def test_what_is_known_is_printed_once_and_what_was_let_go_is_told(lines: Spoken) -> None:
    assert lines.say(0, "a\n") == f"{START}a\n"
    assert lines.say(0, "a\nb\n") == f"{START}b\n"
    assert lines.say(0, "a\nb\n") == ""
    assert lines.say(10, "c\n", start=10) == f"{START}(6 characters were let go)\n{START}c\n"
    assert lines.say(10, "c\n", start=10, state="closed") == f"{START}(closed)\n"
    assert lines.say(10, "c\n", start=10, state="closed") == ""


def test_a_stream_that_begins_anew_says_so_and_what_comes_late_of_the_one_before_is_left_out(lines: Spoken) -> None:
    assert lines.say(0, "a\n") == f"{START}a\n"
    anew = {"generation": 2, "attempt": 1}
    assert lines.say(0, "b\n", **anew) == f"{START}(begins anew, attempt 1)\n{START}b\n"
    assert lines.say(2, "late\n") == ""
    assert lines.say(2, "c\n", **anew) == f"{START}c\n"


def test_streams_of_two_jobs_are_two(lines: Spoken) -> None:
    assert lines.say(0, "a") == lines.say(0, "b", job="another") == ""
    assert lines.say(1, "\n") == f"{START}a\n"
    assert lines.say(1, "\n", job="another") == f"{'':14}another  s  b\n"


def test_items_are_lines_and_those_of_a_log_are_as_in_a_log(lines: Spoken) -> None:
    assert lines.say(0, ({"a": "ü\x1b"}, 5), kind="json") == f'{START}{{"a": "ü\\u001b"}}\n{START}5\n'
    record = {"time": "2024-01-15T10:30:00.000Z", "level": "INFO", "logger": "x", "message": "a\tb\x1b[2J\nc", "n": 1}
    start = f"{'':14}job  log  "
    said = lines.say(0, (record,), kind="json", name="log")
    assert said == f"{start}10:30:00.000  INFO  x  a    b [2J  n=1\n{start}    c\n"
    assert lines.say(1, ({"message": "alone"}, "none"), kind="json", name="log") == f'{start}alone\n{start}"none"\n'


def test_one_stream_alone_is_printed_as_it_is(alone: Spoken) -> None:
    assert alone.say(0, "a\x1b\t\r\n b") == "a\x1b\t\r\n b"
    assert alone.say(20, "c", start=20) == "c"
    assert NOTES == ["s: 13 characters were let go"]
    assert alone.say(21, "", start=20, state="closed") == ""
    assert alone.end() == ""


def test_one_stream_alone_is_obeyed_in_nothing_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    alone = Spoken(SpeechAsIs(is_terminal=True, note=NOTES.append), capsys)
    assert alone.say(0, "a\x1b[2J\nb") == "a [2J\nb"
    assert alone.end() == "\n"


def test_a_line_of_json_says_where_a_chunk_begins(capsys: pytest.CaptureFixture[str]) -> None:
    events = Spoken(SpeechAsEvents(printer(as_json=True)), capsys)
    data = json.loads(events.say(5, ("a", "b"), kind="json", start=5, state="closed"))["data"]
    assert (data["position"], data["chunk"], data["state"], data["job_id"]) == (5, ["a", "b"], "closed", "job")


def test_what_the_encoding_does_not_have_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    western = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", western)
    said = News().of("p", "job", *state(0, "wörld €\n"))
    assert said is not None
    SpeechAsLines(is_terminal=False).say(said)
    assert western.buffer.getvalue().decode("latin-1") == f"{START}wörld \\u20ac\n"  # type: ignore[attr-defined]
