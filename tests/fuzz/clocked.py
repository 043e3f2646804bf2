"""A history by the clock of a test, behind a connection that loses what the test says."""

from __future__ import annotations

from typing import Any, ClassVar

import redis

from celery_realtime.history.lua import Command, Runner, Script

#: What a connection may lose: commands, their answers, or the answers of commands that still arrive.
LOSSES = ("command", "answer", "late")


class Clock:
    """In place of the module ``time``."""

    now = 0.0

    @classmethod
    def time(cls) -> float:
        """Return the time of the test."""
        return cls.now


class ClockedScript(Script):
    """A script whose clock stands in a key."""

    @property
    def source(self) -> str:  # type: ignore[override]
        """Its text."""
        return Script(self.name).source.replace("redis.call('TIME')", "redis.call('HMGET', 'clock', 's', 'us')")


class ClockedRunner(Runner):
    """Runs scripts by the clock of the test, and loses what the test says."""

    #: What becomes of the next commands, the last first: see LOSSES. Those that are late come after the others.
    losses: ClassVar[list[str]] = []
    late: ClassVar[list[tuple[Runner, Any]]] = []

    def replies(self, commands: Any) -> list[Any]:
        """Run commands."""
        clocked = [_clocked(command) for command in commands]
        loss = self.losses.pop() if self.losses and commands else ""
        if loss == "late":
            self.late.append((self, clocked))
        replies = [] if loss in ("late", "command") else super().replies(clocked)
        if loss:
            raise redis.TimeoutError("no answer")
        return replies

    @classmethod
    def forget(cls) -> None:
        """Lose nothing, and have nothing to deliver."""
        cls.losses, cls.late = [], []

    @classmethod
    def deliver_late(cls) -> None:
        """Let the commands come whose answers nobody waits for any more."""
        while cls.late:
            runner, commands = cls.late.pop()
            Runner.replies(runner, commands)


def _clocked(command: Command) -> Command:
    if command.script is None:
        return command
    script = ClockedScript(command.script.name)
    return Command([command.words[0], script.sha, *command.words[2:]], script)
