"""Answer browsers on a Socket.IO server: the class that applications subclass, with its rules and entry points."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from celery_realtime import auth
from celery_realtime.exceptions import SubscribeError
from celery_realtime.lazy import Lazy
from celery_realtime.loops import BackgroundLoop
from celery_realtime.settings import Settings
from celery_realtime.web import decisions
from celery_realtime.web.access import Access, Identification
from celery_realtime.web.admission import Admission
from celery_realtime.web.answers import AnswerBudget, Sender
from celery_realtime.web.connects import Arriving, ConnectTurns
from celery_realtime.web.decisions import Decision
from celery_realtime.web.doubts import Doubts
from celery_realtime.web.further_jobs import FurtherJobs
from celery_realtime.web.gate import Gate
from celery_realtime.web.housekeeping import Housekeeper
from celery_realtime.web.http import PlainHttp
from celery_realtime.web.in_turn import KIND_OF, KINDS, OVERFULL, InTurn, first_of
from celery_realtime.web.job_requests import JobRequests, SingleJobs
from celery_realtime.web.lags import Lags
from celery_realtime.web.membership import Clients, Membership
from celery_realtime.web.messages import REQUESTS
from celery_realtime.web.orders import Orders
from celery_realtime.web.rerun_requests import Prepare, RerunRequests
from celery_realtime.web.revocations import Revocations
from celery_realtime.web.seams import follow_up_events, handlers_of, intercept_events, queue_events
from celery_realtime.web.sessions import Limits, Sessions
from celery_realtime.web.shared_reads import SharedReads
from celery_realtime.web.stock_manager import StockManager
from celery_realtime.web.stream_answers import StreamAnswers, StreamRequests
from celery_realtime.web.stream_source import StreamSource
from celery_realtime.web.subscribing import AfterAnswer, Subscriptions
from celery_realtime.web.surroundings import unchanged
from celery_realtime.web.turns import Turn, Turns

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

logger = logging.getLogger(__name__)

Authenticate = Callable[[Any, dict[str, Any]], Any]
Authorize = Callable[[Any, str], Any]
Read = Callable[[Any, str, int], Any]
ReadOn = Callable[[str, Any], Any]

#: Stands in a handler's arguments where the client asked for no acknowledgement; no client can send it.
NO_ACKNOWLEDGEMENT = object()


class Rules(msgspec.Struct, frozen=True):
    """The application's rules, as callables; each is sync or async, and replaces the method of the same purpose.

    Attributes:
        authenticate: ``(token, environ) -> user id``, or None to refuse; replaces ``_validate_token``.
        authorize: ``(user_id, project_id) -> bool``; replaces ``_validate_project_access``.
        authorize_cancel: ``(user_id, project_id, job_id) -> bool``; replaces ``_validate_cancel_access``.
        audience: ``(user_id, project_id) -> str``, the audience that ``event_filter`` is asked for.
        around: ``(rule) -> rule``: what each rule is called in, methods of the handlers included, such as the
            application context of a web framework.
        authorize_rerun: ``(user_id, project_id, job_id) -> bool``; replaces ``_validate_rerun_access``.
    """

    authenticate: Authenticate | None = None
    authorize: Authorize | None = None
    authorize_cancel: Callable[[Any, str, str], Any] | None = None
    audience: Callable[[Any, str], Any] | None = None
    around: Callable[[Callable[..., Any]], Callable[..., Any]] = unchanged
    authorize_rerun: Callable[[Any, str, str], Any] | None = None


class Sources(msgspec.Struct, frozen=True):
    """Where answers come from.

    Attributes:
        read: ``(project_id, epoch, offset) -> snapshot``, where there is a history.
        jobs: Answers questions about single jobs, where something can.
        revocations: Tokens that open a project no more.
        read_on: ``(project_id, page) -> snapshot``, further jobs, or those of a tuple of ids, where there is a history.
        streams: Reads what jobs say bit by bit, where there is a history.
        prepare_rerun: ``(project_id, job_id) -> publish``, where messages of jobs can be kept.
    """

    read: Read | None = None
    jobs: JobRequests | None = None
    revocations: Revocations = msgspec.field(default_factory=Revocations)
    read_on: ReadOn | None = None
    streams: StreamSource | None = None
    prepare_rerun: Prepare | None = None


class Client(msgspec.Struct, frozen=True):
    """One connected client, as :meth:`SocketIOEventHandlers.clients` reports it.

    Attributes:
        user: Its user, as the authenticator named it.
        expires_in: Seconds until its token expires; None if it never does.
        topics: What it is subscribed to: project ids, and job ids (None for all jobs of the project).
    """

    user: Any
    expires_in: float | None
    topics: list[tuple[str, str | None]]


class Figures(msgspec.Struct, frozen=True):
    """How many there are, or have been, on a server.

    Attributes:
        clients: Clients that are connected.
        subscriptions: What they are subscribed to.
        accepted: Subscriptions that were accepted, by what was recovered, see
            :class:`~celery_realtime.web.subscribing.Subscriptions`.
        refusals: Requests and connections that were refused, by code.
        ended: Connections that were ended because they sent too much, or did not read.
    """

    clients: int
    subscriptions: int
    accepted: Mapping[str, int]
    refusals: Mapping[str, int]
    ended: int


class OwnRules:
    """What is decided where the application has no rule of its own; subclasses may. All may be coroutine functions.

    Args:
        secret_key: What tokens of ``issue_token`` are signed with; None for no such tokens.
    """

    def __init__(self, secret_key: str | tuple[str, ...] | None) -> None:
        self._secret_key = secret_key

    def _validate_token(self, token: Any) -> Any:
        """Return the id of the user whom a token names, or None to refuse the connection."""
        return auth.verify_token(self._secret_key, token) if self._secret_key else None

    def _validate_project_access(self, user_id: Any, project_id: str) -> Any:
        """Tell whether a user may see a project; by default, whether the user's token says so."""
        return project_id in getattr(user_id, "projects", ())

    def _validate_cancel_access(self, user_id: Any, project_id: str, job_id: str) -> Any:  # noqa: ARG002
        """Tell whether a user, who may see the project, may cancel a job of it; by default nobody may."""
        return False

    def _validate_rerun_access(self, user_id: Any, project_id: str, job_id: str) -> Any:  # noqa: ARG002
        """Tell whether a user, who may see the project, may have a job of it run again; by default nobody may."""
        return False


class SocketIOEventHandlers(OwnRules):
    """Handle connections and requests on a synchronous Socket.IO server.

    Subclass it to decide who may connect (:meth:`_validate_token`), what they may see
    (:meth:`_validate_project_access`), cancel (:meth:`_validate_cancel_access`) and have run again
    (:meth:`_validate_rerun_access`); all may also be coroutine functions.

    Args:
        server: The :class:`socketio.Server`.
        settings: The settings: ``namespace``, ``secret_key``, and the limits on what clients may ask.
        rules: The application's rules as callables.
        sources: Where answers come from.
        manager: The server's client manager; None where it is a stock one.
    """

    _run: Callable[[Decision[Any]], Any] = staticmethod(decisions.call)
    _share: Callable[[Read], Callable[..., Any]] = SharedReads

    def __init__(
        self,
        server: Any,
        settings: Settings | None = None,
        *,
        rules: Rules = Rules(),  # noqa: B008 - it is frozen
        sources: Sources | None = None,
        manager: ClientManager | None = None,
    ) -> None:
        settings, sources = settings or Settings(), sources or Sources()
        super().__init__(settings.secret_key)
        self.server, self.namespace = server, settings.namespace
        self._manager: ClientManager = (manager := manager or StockManager())
        self._clients = clients = _clients_of(server, settings, manager)
        around, audience = rules.around, rules.audience and rules.around(rules.audience)
        access = Access(around(rules.authorize or self._validate_project_access), audience, sources.revocations)
        self._revocations = sources.revocations
        self._admission = Admission(clients, self._identification(rules), access, self._revocations)
        may_cancel = around(rules.authorize_cancel or self._validate_cancel_access)
        self._jobs = SingleJobs(sources.jobs, clients, access=access, authorize_cancel=may_cancel, manager=manager)
        may_rerun, prepare = around(rules.authorize_rerun or self._validate_rerun_access), sources.prepare_rerun
        self._reruns = RerunRequests(self._jobs, prepare, clients=clients, access=access, authorize=may_rerun)
        read, read_on = _readers(sources, type(self)._share, manager)
        #: What clients report of their lag.
        self.lags = Lags(clients.sessions, wanted=settings.metrics)
        streams = StreamAnswers(sources.streams, manager)
        self._streams = StreamRequests(streams, clients, access=access, jobs=self._jobs, manager=manager)
        self._subscriptions = Subscriptions(
            clients,
            access=access,
            jobs=self._jobs,
            manager=manager,
            read=read,
            streams=streams,
            extras=self.lags.invitation,
        )
        self._further_jobs = FurtherJobs(clients, access=access, manager=manager, read_on=read_on)
        self._gate = gate = Gate(server, settings)
        #: Answers plain HTTP.
        self.http = PlainHttp(server, settings, gate)
        owner_of, longest = gate.owner_of, settings.max_request
        self._in_turn = InTurn(Turns(KINDS), owner_of, max_request=longest, lane=self._lane, start=self._start)
        self._gate.on_gone(self._in_turn.forget)
        self._connects = ConnectTurns(server, self._gate.on_gone)
        self._doubts = doubts = Doubts(
            clients, manager, access=access, revocations=self._revocations, begin=self._begin
        )
        self._orders = Orders(clients, self._revocations, self._doubts, manager.slow_clients)
        #: Ends expired tokens, silent connections and slow clients.
        self.housekeeper = Housekeeper(server, self._run, clients=clients, manager=manager, doubts=doubts, gate=gate)
        self._first_client = Lazy(lambda: None)
        self._follows_up = False

    def _identification(self, rules: Rules) -> Identification:
        needs_token = rules.authenticate is None
        chosen = rules.around(rules.authenticate or (lambda token, _environ: self._validate_token(token)))
        return Identification(chosen, needs_token=needs_token, revocations=self._revocations)

    @property
    def loops(self) -> list[BackgroundLoop]:
        """What runs in the background for this server."""
        return [self.housekeeper.loop, self.housekeeper.pings.loop]

    def clients(self) -> dict[str, Client]:
        """Return the clients that are connected to this server, by Socket.IO session id."""
        return {
            session.sid: Client(session.user, session.expires_in, sorted(session.rooms.copy(), key=repr))
            for session in self._clients.sessions.all()
        }

    @property
    def figures(self) -> Figures:
        """How many clients there are, and what has become of their requests."""
        sessions = self._clients.sessions.all()
        subscriptions = sum(len(session.rooms) for session in sessions)
        refusals = self._clients.sender.refusals
        return Figures(len(sessions), subscriptions, self._subscriptions.accepted, refusals, self._gate.ended)

    # -- registration -------------------------------------------------------------------------------------------

    def register(self) -> None:
        """Register the handlers; a ``connect`` or ``disconnect`` handler that is there already runs after ours."""
        earlier = handlers_of(self.server, self.namespace)
        self._register("connect", self.followed_by("connect", earlier.get("connect")))
        self._register("disconnect", self.followed_by("disconnect", earlier.get("disconnect")))
        for request in REQUESTS:
            self._register(request, getattr(self, f"on_{request}"))
        self._register(OVERFULL, self._refuse_overfull)
        self._follows_up = follow_up_events(self.server, self._follow_up, self._in_turn.answering)
        if self._follows_up:
            queue_events(self.server, self._in_turn.begin)
        intercept_events(self.server, self._changed_event)
        self.housekeeper.watch(self._note_connection)
        self._manager.on_order(self._heard)
        self._manager.on_gap(self.decide_again)
        self._manager.on_slow_client(self.housekeeper.part_with)

    def _register(self, event: str, handler: Callable[..., Any]) -> None:
        self.server.on(event, handler=handler, namespace=self.namespace)

    def _changed_event(self, namespace: str, id: int | None, data: Any) -> list[Any] | None:
        """Mark subscriptions that ask for no acknowledgement, and drop what only the server can know."""
        is_ours = namespace == self.namespace
        if not _is_event(data) or (is_ours and data[0] in ("connect", "disconnect")):
            logger.debug("ignored a packet that is no event of a client's")
            return None
        return _marked(data, id, self._in_turn if self._follows_up else None) if is_ours else list(data)

    def _follow_up(self, data: list[Any]) -> Any:
        """Do what comes after an answer; the client has it, or it is in the client's queue."""
        after, turn = first_of(AfterAnswer, data), first_of(Turn, data)
        return None if after is None and turn is None else self._run(_end_answer(self._in_turn, after, turn))

    def _lane(self, _kind: str | None) -> AbstractContextManager[None]:
        """Answer a request of a kind in the block; of use on an asyncio server."""
        return nullcontext()

    def _start(self, start: Callable[[], Any]) -> None:
        """Begin a request whose turn has come because another's client has gone."""
        start()

    def _refuse_overfull(self, sid: str, *_: Any) -> Any:
        """Refuse a request while too many of its kind wait."""
        return self._acknowledge(sid, _too_many())

    def _note_connection(self) -> None:
        """Note that a connection has come; of use on an asyncio server."""

    def followed_by(self, event: str, theirs: Callable[..., Any] | None) -> Callable[..., Any]:
        """Return the handler of ``connect`` or ``disconnect``, with the application's own behind it."""
        ours: Callable[..., Any] = getattr(self, f"on_{event}")
        if theirs is None:
            return ours
        forget = self._clients.sessions.close

        def both(sid: str, *args: Any) -> Any:
            return self._run(_both(ours, theirs, sid, args, forget))

        return both

    def on_first_client(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` when the first client comes, by when a server has forked; with the next one if it fails."""
        self._first_client = Lazy(hook)

    def carry_out(self, order: dict[str, Any]) -> Any:
        """Carry out an order that the application gave to all web servers of the channel; from any thread."""
        decision = self._orders.accept(order)
        if decision is not None:
            self._run(decision)

    def _heard(self, order: dict[str, Any]) -> None:
        self.carry_out(order)
        self._revocations.note_heard()

    def carry_out_missed(self, orders: list[dict[str, Any]]) -> None:
        """Carry out orders that are on record, each of which may have been before, and return when that is done."""
        self._run(self._orders.accept_missed(orders))

    def decide_again(self, generation: int | None = None) -> Any:
        """Have access decided again before anything more is passed on, as ``Doubts.doubt_all``; from any thread."""
        self._doubts.doubt_all(generation)

    def _begin(self, decision: Decision[Any]) -> None:
        """Make a decision in the background; from any thread."""
        self.server.start_background_task(self._run, decision)

    # -- events -------------------------------------------------------------------------------------------------

    def on_connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        """Let a client in whose token is good; of the connections that come at once, those of each address in turn.

        Raises:
            socketio.exceptions.ConnectionRefusedError: It is not, with the code in its data.
        """
        with self._connects.deciding(sid, environ, auth, self.server.eio.create_event) as arriving:
            arriving.event.wait()
            return self._run(self._connect(sid, environ, auth, arriving))

    def _connect(self, sid: str, environ: dict[str, Any], given: Any, arriving: Arriving) -> Decision[None]:
        arriving.check(self._clients.sender.refusal_to_connect)
        yield from self._admission.connect(sid, environ, given, self._manager)
        self._gate.note_user(environ, self._clients.sessions.user_of(sid))
        self._first_client.get()

    def on_disconnect(self, sid: str, *_reason: Any) -> Any:
        """Forget a client."""
        self._clients.sessions.close(sid)
        self.housekeeper.note_departure(self.server.manager.eio_sid_from_sid(sid, self.namespace))
        self._manager.slow_clients.forget(sid)
        self._manager.newcomers.forget(sid)
        self._doubts.forget(sid)

    def on_subscribe_project(self, sid: str, data: Any = None, *rest: Any) -> Any:
        """Subscribe a client to a project; return the acknowledgement, or send it as events where none is asked for."""
        return self._run(self._subscribe(self._subscriptions.subscribe_project, sid, data, rest))

    def on_unsubscribe_project(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Unsubscribe a client from a project; return the acknowledgement."""
        return self._acknowledge(sid, self._subscriptions.unsubscribe_project(sid, data))

    def on_subscribe_job(self, sid: str, data: Any = None, *rest: Any) -> Any:
        """Subscribe a client to one job; as :meth:`on_subscribe_project`."""
        return self._run(self._subscribe(self._subscriptions.subscribe_job, sid, data, rest))

    def _subscribe(self, subscribe: Callable[..., Any], sid: str, data: Any, rest: tuple[Any, ...]) -> Decision[Any]:
        after = first_of(AfterAnswer, rest)
        follow_up = after or AfterAnswer()
        request = subscribe(sid, data, replays=NO_ACKNOWLEDGEMENT in rest, after=follow_up)
        answer = yield from self._clients.sender.acknowledge(sid, request)
        if after is None:
            yield from follow_up.decide()
        return answer

    def on_unsubscribe_job(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Unsubscribe a client from one job; return the acknowledgement."""
        return self._acknowledge(sid, self._subscriptions.unsubscribe_job(sid, data))

    def on_read_jobs(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Return further jobs of a project that a client is subscribed to, in the acknowledgement."""
        return self._acknowledge(sid, self._further_jobs.read_jobs(sid, data))

    def on_read_stream(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Return what a job has said in a stream from a position on, in the acknowledgement."""
        return self._acknowledge(sid, self._streams.read(sid, data))

    def on_get_result(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Return how a job ended, from the result backend, in the acknowledgement."""
        return self._acknowledge(sid, self._jobs.result(sid, data))

    def on_cancel_job(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Cancel a job; the acknowledgement says what has come of it."""
        return self._acknowledge(sid, self._jobs.cancel(sid, data))

    def on_rerun_job(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Have a job run again; the acknowledgement names the new one."""
        return self._acknowledge(sid, self._reruns.rerun(sid, data))

    def on_refresh_token(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Let a client stay that shows a new token; return the acknowledgement."""
        return self._acknowledge(sid, self._admission.refresh(sid, data, self._environ_of))

    def on_report_lag(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Take what a client reports of its lag; return the acknowledgement, with this server's clock."""
        return self._acknowledge(sid, self.lags.take(sid, data))

    def _environ_of(self, sid: str) -> Any:
        return self.server.get_environ(sid, namespace=self.namespace)

    def _acknowledge(self, sid: str, decision: Decision[dict[str, Any]]) -> Any:
        return self._run(self._clients.sender.acknowledge(sid, decision))


def _clients_of(server: Any, settings: Settings, manager: ClientManager) -> Clients:
    sessions = Sessions(Limits.of(settings))
    return Clients(
        sessions,
        Membership(server, settings.namespace, sessions),
        Sender(server, settings.namespace),
        AnswerBudget(sessions, manager.slow_clients),
    )


def _readers(
    sources: Sources, share: Callable[[Read], Callable[..., Any]], manager: ClientManager
) -> tuple[Read | None, ReadOn | None]:
    """Return what reads a project, and what reads on, where there is a history; each once for all that ask meanwhile.

    Without what is older than what this server has shown. Of a project only one read is under way
    (:mod:`~celery_realtime.web.shared_reads`), so that this server begins with the oldest snapshot that a client is
    given, whichever of them is answered first.
    """
    read, read_on = sources.read, sources.read_on
    if read is None or read_on is None:
        return None if read is None else share(_reviewed(read, manager)), None

    def read_page(place: tuple[str, Any], *_: Any) -> Any:
        return manager.catch_up.review(place[0], read_on(*place))

    pages = share(read_page)
    return share(_reviewed(read, manager)), lambda project_id, page: pages((project_id, page), "", -1)


def _reviewed(read: Read, manager: ClientManager) -> Read:
    def reviewed(project_id: str, *position: Any) -> Any:
        snapshot = read(project_id, *position)
        manager.catch_up.seed(project_id, snapshot.epoch, snapshot.offset)
        return manager.catch_up.review(project_id, snapshot)

    return reviewed


def _call_with_fitting(handler: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call an application's handler with as many of the arguments as it takes: older ones have no last one."""
    try:
        inspect.signature(handler, follow_wrapped=False).bind(*args)
    except TypeError:
        return handler(*args[:-1])
    return handler(*args)


def _end_answer(in_turn: InTurn, after: AfterAnswer | None, turn: Turn | None) -> Decision[None]:
    try:
        if after is not None:
            yield from after.decide()
    finally:
        if turn is not None:
            yield from in_turn.leave(turn)


def _too_many() -> Decision[dict[str, Any]]:
    raise SubscribeError("too many requests of this kind wait; wait for answers", "too_many_requests")
    yield


def _marked(data: list[Any], id: int | None, in_turn: InTurn | None) -> list[Any]:
    """Return a client's event with what its handler has to know; ``in_turn`` is None where requests do not wait."""
    is_subscription = data[0] in ("subscribe_project", "subscribe_job")
    marks: list[Any] = [NO_ACKNOWLEDGEMENT] if is_subscription and id is None else []
    if in_turn is not None and data[0] in KIND_OF:
        marks += [*([AfterAnswer()] if is_subscription else []), *in_turn.marks(data[0])]
    elif not is_subscription:
        return list(data)
    return [*[*data, None][:2], *marks]


def _both(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    sid: str,
    args: tuple[Any, ...],
    forget: Callable[[str], object],
) -> Decision[Any]:
    """Forget a client that the application's own handler refuses, and pass on what that returned."""
    yield functools.partial(ours, sid, *args)
    outcome: Any = False
    try:
        outcome = yield functools.partial(_call_with_fitting, theirs, (sid, *args))
    finally:
        if outcome is False:
            forget(sid)
    return outcome


def _is_event(data: Any) -> bool:
    """Tell whether a packet is an event as clients send it: a name, and what comes with it."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], str)
