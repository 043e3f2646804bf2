"""Parts of streams as a writer puts them, and readers that put together what they hear, for tests."""

from __future__ import annotations

from typing import Any

import msgspec

from celery_realtime.events import Execution, Job, Outgoing, outgoing_part
from celery_realtime.stream_parts import JSON, StreamPart


class Writer:
    """Writes a stream, as a process of a job does.

    Args:
        name: Tells the writer.
        stream: The stream.
        kind: ``text`` or ``json``.
        **job: Of the job.
    """

    def __init__(self, name: str = "w", stream: str = "answer", kind: str = "text", **job: Any) -> None:
        self.name, self.stream, self.kind = name, stream, kind
        self.generation = job.pop("generation", 7)
        execution = job.pop("execution", Execution("e", 1000.0))
        self.job = Job(**{"job_id": "job", "project_id": "p", "execution": execution, **job})
        self.written = 0

    def part(self, content: Any, state: str = "") -> Outgoing:
        """Return the next part: a text, or a list of items."""
        begin, self.written = self.written, self.written + len(content)
        encoded = b"".join(msgspec.json.encode(item) + b"\n" for item in content)
        part = StreamPart(self.stream, self.kind, self.name, begin, len(content), state, self.generation)
        return outgoing_part(self.job, part, encoded if self.kind == JSON else content.encode())

    def lose(self, count: int) -> None:
        """Go on as if so much had been let go."""
        self.written += count


def told(events: list[Outgoing] | None) -> list[tuple[int, Any, str]]:
    """Return position, content and state of chunks."""
    assert events is not None
    decoded = [msgspec.json.decode(event.payload) for event in events]
    return [(data["position"], data["chunk"], data["state"]) for data in decoded]


class Reader:
    """Puts a stream together, as a client has to, and insists that nothing is told twice, or left out.

    Args:
        answer: What a subscription to its job was answered of it; None if it was not there yet.
    """

    def __init__(self, answer: dict[str, Any] | None = None) -> None:
        self.generation, self.position, self.start = 0, 0, 0
        self.value: Any = None
        self.state = "open"
        self.starts: list[int] = []
        if answer is not None:
            self.generation, self.position, self.start = answer["generation"], answer["position"], answer["start"]
            self.value, self.state = answer["value"], answer["state"]
            self.starts.append(answer["attempt"])

    def take(self, data: dict[str, Any]) -> None:
        """Take a chunk."""
        if data["generation"] != self.generation:
            assert data["generation"] > self.generation, "a chunk of an earlier start came later"
            self.generation, self.position, self.value, self.state = data["generation"], 0, None, "open"
            self.starts.append(data["attempt"])
        assert data["position"] == self.position, f"{data['position']} follows {self.position}"
        self.value = data["chunk"] if self.value is None else self.value + data["chunk"]
        self.position += len(data["chunk"])
        self.state = data["state"]
