"""What the web side needs of a server's client manager, and python-socketio's own KombuManager as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol

from celery_realtime.web.audiences import Audiences

if TYPE_CHECKING:
    from celery_realtime.web.delivery import Emit


class SlowClients(Protocol):
    """Knows how much waits for each client."""

    def is_loaded(self, sid: str, bytes_in_flight: int) -> bool:
        """Tell whether half of what may wait for a client does, or is about to."""

    def disconnect_overloaded(self) -> None:
        """Report each client for which too much waits to the observer of slow clients."""

    def drop_progress(self, sid: str, project_id: str) -> None:
        """Drop the progress that is held back of a project for a client."""

    def due(self) -> Iterable[Emit]:
        """Return what was held back of clients that have caught up, to be emitted on this server."""

    def forget(self, sid: str) -> None:
        """Forget a client that has disconnected."""


class CatchUp(Protocol):
    """Knows up to where a project's events have been emitted on this server."""

    def expect(self, project_id: str) -> None:
        """Count a project's events from now on: a client is about to enter its room, and to read its snapshot."""

    def seed(self, project_id: str, epoch: str, offset: int) -> str | None:
        """Note the position of a snapshot that a client was given."""

    def review(self, project_id: str, snapshot: Any) -> Any:
        """Return a snapshot without what is older than the ends of jobs that this server has shown."""

    def review_job(self, project_id: str, epoch: str, job: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return a job as the history has it; None if this server has shown the end of it before."""


class Streams(Protocol):
    """Knows up to where the streams of jobs have been emitted on this server."""

    def seed(self, project_id: str, job_id: str, readings: Iterable[Any], *, are_all: bool = True) -> None:
        """Note what a client was given of streams of a job."""


class Newcomers(Protocol):
    """Holds what is emitted for clients that are being given a snapshot."""

    def hold(
        self,
        sid: str,
        project_id: str,
        room: str,
        others: Iterable[str],
        *,
        replays: bool,
        earlier: Any = None,
    ) -> Any:
        """Hold from now on what is emitted for a client that is about to enter a room."""

    def release(self, newcomer: Any) -> Iterable[Emit]:
        """Return what was held for a client that has been answered, to be emitted on this server."""

    def forget(self, sid: str) -> None:
        """Forget a client that has disconnected."""


class Suspensions(Protocol):
    """Holds what is emitted for clients whose access has to be decided again."""

    def members(self) -> list[tuple[str, str]]:
        """Return which clients of this server are in the room of which project."""

    def begin(self, sid: str, project_id: str) -> None:
        """Hold from now on what is emitted of a project for a client."""

    def release(self, sid: str, project_id: str, may: Callable[[], bool]) -> Iterable[Emit]:
        """Return what was held for a client that may have it, for as long as it may."""

    def drop(self, sid: str, project_id: str) -> None:
        """Drop what is held for a client."""

    def forget(self, sid: str) -> None:
        """Drop all that is held for a client that has disconnected."""


class Delivery(Protocol):
    """Knows which rooms of this server a message goes to, and what each audience sees of it."""

    def expect(self, project_id: str, job_id: str | None, audience: str | None) -> None:
        """Note that a client is about to enter a room."""

    @property
    def audiences(self) -> Audiences:
        """What each audience sees."""

    def forget_unwatched(self, watched: set[tuple[str, str | None]]) -> None:
        """Forget all projects and jobs but these."""


class Watched(Protocol):
    """Knows which projects the clients of this server watch."""

    def projects(self, but: AbstractSet[str] = frozenset()) -> set[str]:
        """Return those that they watch now, but for some."""


class ClientManager(Protocol):
    """The listening half of a web server, as the web side uses it.

    Attributes:
        follows_jobs: Whether clients can subscribe to single jobs.
        filters: Whether a filter of the application decides what each audience sees.
    """

    follows_jobs: bool
    filters: bool

    @property
    def slow_clients(self) -> SlowClients:
        """Knows how much waits for each client."""

    @property
    def catch_up(self) -> CatchUp:
        """Knows up to where events have been emitted."""

    @property
    def streams(self) -> Streams:
        """Knows up to where streams have been emitted."""

    @property
    def newcomers(self) -> Newcomers:
        """Holds what is emitted for clients that are being given a snapshot."""

    @property
    def suspensions(self) -> Suspensions:
        """Holds what is emitted for clients whose access has to be decided again."""

    @property
    def delivery(self) -> Delivery:
        """Knows which rooms a message goes to."""

    @property
    def watched(self) -> Watched:
        """Knows which projects the clients of this server watch."""

    @property
    def generation(self) -> int:
        """How many connections to the broker have been listened on; when it changes, messages may have been missed."""

    def wait_until_listening(self, timeout: float, project_id: str | None = None) -> Any:
        """Wait until messages arrive, those of a project too, for at most so many seconds; awaitable if asyncio."""

    def emit_here(self, emit: Emit) -> Any:
        """Emit on this server only."""

    def emit_alone(self, sid: str, emit: Emit) -> Any:
        """Emit to one client of a room what was held for it."""

    def on_order(self, observer: Callable[[dict[str, Any]], Any]) -> None:
        """Call ``observer`` with each order to all web servers of the channel."""

    def on_gap(self, observer: Callable[[int], Any]) -> None:
        """Call ``observer`` with the generation when orders may have been missed, before later events are emitted."""

    def on_slow_client(self, observer: Callable[[str, str], Any]) -> None:
        """Have ``observer`` disconnect each client that reads too slowly.

        Args:
            observer: Called in a background task with its Socket.IO and Engine.IO session ids; awaitable on an asyncio
                server.
        """


class StockManager:
    """A stock ``KombuManager`` (setting ``wire="stock"``), which emits events and does nothing else.

    It has all parts of a :class:`ClientManager` in one; none of them does anything.
    """

    follows_jobs = False
    filters = False
    generation = 0

    @property
    def slow_clients(self) -> SlowClients:
        """Know nothing of clients."""
        return self

    @property
    def catch_up(self) -> CatchUp:
        """Know nothing of positions."""
        return _NoPositions()

    @property
    def streams(self) -> Streams:
        """Know nothing of streams."""
        return _NoStreams()

    @property
    def newcomers(self) -> Newcomers:
        """Hold nothing."""
        return _NoNewcomers()

    @property
    def suspensions(self) -> Suspensions:
        """Hold nothing."""
        return _NoSuspensions()

    @property
    def delivery(self) -> Delivery:
        """Redact nothing."""
        return _WholeDelivery()

    @property
    def watched(self) -> Watched:
        """Know nothing of who watches."""
        return _NobodyWatches()

    def wait_until_listening(self, timeout: float, project_id: str | None = None) -> None:
        """Do not wait: a stock manager does not say when it listens."""

    def emit_here(self, emit: Emit) -> None:
        """Emit nothing: nothing is ever held back."""

    def emit_alone(self, sid: str, emit: Emit) -> None:
        """Emit nothing: nothing is ever held."""

    def on_gap(self, observer: Callable[[int], Any]) -> None:
        """Never call it: a stock manager does not say when it has missed something."""

    def on_order(self, observer: Callable[[dict[str, Any]], Any]) -> None:
        """Never call it: a stock manager ignores messages that it does not know."""

    def on_slow_client(self, observer: Callable[[str, str], Any]) -> None:
        """Never call it."""

    def is_loaded(self, sid: str, bytes_in_flight: int) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    def disconnect_overloaded(self) -> None:
        """Disconnect nobody."""

    def drop_progress(self, sid: str, project_id: str) -> None:
        """Do nothing."""

    def due(self) -> Iterable[Emit]:
        """Return nothing."""
        return ()

    def forget(self, sid: str) -> None:
        """Do nothing."""


class _NoPositions:
    def expect(self, project_id: str) -> None: ...

    def seed(self, project_id: str, epoch: str, offset: int) -> str | None: ...

    def review(self, _project_id: str, snapshot: Any) -> Any:
        return snapshot

    def review_job(self, _project_id: str, _epoch: str, job: dict[str, Any] | None) -> dict[str, Any] | None:
        return job


class _NoStreams:
    def seed(self, project_id: str, job_id: str, readings: Iterable[Any], *, are_all: bool = True) -> None: ...


class _NobodyWatches:
    def projects(self, but: AbstractSet[str] = frozenset()) -> set[str]:  # noqa: ARG002
        return set()


class _NoNewcomers:
    def hold(self, *_: Any, **__: Any) -> _NoNewcomer:
        return _NoNewcomer()

    def release(self, newcomer: Any) -> Iterable[Emit]:  # noqa: ARG002
        return ()

    def forget(self, sid: str) -> None: ...


class _NoSuspensions:
    def members(self) -> list[tuple[str, str]]:
        return []

    def begin(self, sid: str, project_id: str) -> None: ...

    def release(self, sid: str, project_id: str, may: Callable[[], bool]) -> Iterable[Emit]:  # noqa: ARG002
        return ()

    def drop(self, sid: str, project_id: str) -> None: ...

    def forget(self, sid: str) -> None: ...


class _NoNewcomer:
    is_outrun = False

    def place(self, epoch: str | None, offset: int | None, older_epoch: str | None = None) -> None: ...

    def place_streams(self, positions: dict[tuple[str, str], tuple[int, int]]) -> None: ...


class _WholeDelivery:
    def expect(self, project_id: str, job_id: str | None, audience: str | None) -> None: ...

    audiences = Audiences(None)

    def forget_unwatched(self, watched: set[tuple[str, str | None]]) -> None: ...
