"""A line of text says no more to a terminal than what is to be read."""

from __future__ import annotations

import io
import json
import sys

import pytest

from celery_realtime.cli.output import printer

EVIL = "\x1b]0;mine\x07 \x1b[2J \x9b31m \u202etxt.exe\nnext line"


@pytest.mark.parametrize("event", ["agent_status", "agent_progress", "said"])
def test_what_a_terminal_would_obey_is_not_printed(event: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"job_id": "j1", "status": "error", "error": EVIL, "progress": 1, "message": EVIL, "task": EVIL}
    printer(as_json=False)(event, data)
    line = capsys.readouterr().out
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "next line" in line


def test_json_has_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{EVIL} \u65e5\u672c \U0001f600 \U000e0041"
    printer(as_json=True)("said", {"text": text})
    line = capsys.readouterr().out.removesuffix("\n")
    assert json.loads(line)["data"]["text"] == text
    assert line.isprintable()  # a terminal obeys nothing of it, either
    assert "\u65e5\u672c \U0001f600" in line


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_what_the_terminal_has_no_characters_for_is_printed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    data = {"text": "caf\u00e9 \u2603 \u65e5\u672c \ud800"}
    for as_json in (True, False):
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        printer(as_json)("said", data)
        sys.stdout.flush()
        text = out.getvalue().decode(encoding)
        assert text.endswith("\n")
        if as_json:
            assert json.loads(text) == {"event": "said", "data": data}
        else:
            assert "caf\u00e9 " in text
