"""What a job has said in its streams, as chunks come: each character or item once, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

#: Chunks of a stream that wait behind a hole.
MOST_HELD = 2000


@dataclass(frozen=True)
class StreamState:
    """What a job has said in a stream.

    Attributes:
        name: The stream's.
        kind: ``text`` or ``json``.
        attempt: The attempt of the job that it is of.
        generation: Which start of the stream it is of: a retry starts it anew, with a higher number.
        start: Where ``value`` begins: above 0 if what was before has been let go.
        position: Where it ends, in characters or items.
        value: A text, or a tuple of items.
        state: ``open``, ``closed``, ``failed`` or ``cancelled``.
    """

    name: str
    kind: str
    attempt: int
    generation: int
    start: int
    position: int
    value: Any
    state: str


OnChunk = Callable[[StreamState, Any], Any]


class StreamStates:
    """The streams of one job, and chunks that wait for what is missing before them.

    Args:
        on_chunk: Called with a stream that has changed, and with what is new of it.

    Attributes:
        view: By name, the streams.
    """

    def __init__(self, on_chunk: OnChunk) -> None:
        self._on_chunk = on_chunk
        self._streams: dict[str, StreamState] = {}
        self._held: dict[str, list[dict[str, Any]]] = {}
        self.view: Mapping[str, StreamState] = MappingProxyType(self._streams)

    @property
    def are_complete(self) -> bool:
        """Whether nothing waits for what is missing before it."""
        return not self._held

    def drop_held(self) -> None:
        """Forget what waits: what is missing is about to be asked for."""
        self._held = {}

    def take(self, chunk: dict[str, Any], *, may_add: bool) -> bool:
        """Take a chunk; returns whether nothing waits for what is missing before it.

        Args:
            chunk: The chunk.
            may_add: False while the stream is read: then it waits for that.
        """
        name, known = chunk["stream"], self._streams.get(chunk["stream"])
        if known is not None and chunk["generation"] < known.generation:
            return True
        if known is None or chunk["generation"] > known.generation:
            self._held.pop(name, None)
        if chunk["position"] <= self._reached(chunk) and may_add:
            self.add(chunk)
            return self.release(name)
        held = self._held.setdefault(name, [])
        held.append(chunk)
        del held[:-MOST_HELD]
        return not may_add

    def _reached(self, chunk: dict[str, Any]) -> int:
        known = self._streams.get(chunk["stream"])
        return known.position if known is not None and known.generation == chunk["generation"] else 0

    def release(self, name: str, *, everything: bool = False) -> bool:
        """Take what waits of a stream and follows, or all of it; returns whether nothing waits any more."""
        held = sorted(self._held.pop(name, ()), key=lambda chunk: (chunk["generation"], chunk["position"]))
        for place, chunk in enumerate(held):
            if chunk["position"] > self._reached(chunk) and not everything:
                self._held[name] = held[place:]
                return False
            self.add(chunk, leaps=True)
        return True

    def add(self, chunk: dict[str, Any], *, leaps: bool = False) -> None:
        """Add a chunk to its stream.

        Args:
            chunk: The chunk; what of it is known counts once.
            leaps: Whether one that begins behind what there is stands for itself, as what was before has been let go.
        """
        name, known = chunk["stream"], self._streams.get(chunk["stream"])
        if known is not None and chunk["generation"] < known.generation:
            return
        content = chunk["chunk"] if chunk["kind"] == "text" else tuple(chunk["chunk"])
        is_same = known is not None and known.generation == chunk["generation"]
        start, value, at = 0, content[:0], 0
        if known is not None and is_same:
            start, value, at = known.start, known.value, known.position
        reached, state = chunk.get("end", chunk["position"] + len(content)), chunk["state"]
        is_new_state = known is None or state != known.state
        if is_same and reached <= at and not (is_new_state and (not content or (leaps and state != "open"))):
            return
        rest = content[max(0, at - chunk["position"]) :]
        if chunk["position"] > at:
            if not leaps:
                return
            start, value = chunk["position"], content
        else:
            value = value + rest
        identity = name, chunk["kind"], chunk["attempt"], chunk["generation"]
        stream = self._streams[name] = StreamState(*identity, start, max(at, reached), value, state)
        self._on_chunk(stream, rest)
