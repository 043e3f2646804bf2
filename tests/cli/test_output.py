"""A line of text says no more to a terminal than what is to be read."""

from __future__ import annotations

import json

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
    printer(as_json=True)("said", {"text": EVIL})
    [line] = capsys.readouterr().out.splitlines()[:1]
    assert json.loads(line)["data"]["text"] == EVIL
