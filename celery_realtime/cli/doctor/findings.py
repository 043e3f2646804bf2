"""What may be wrong with a set-up, each with the mend: all that the doctor can find."""

from __future__ import annotations

from typing import Any

import msgspec

#: How grave a finding is. An error keeps events from somebody; a warning may do so some day; a note is good to know.
#: Of what is unknown the doctor could not find out.
ERROR, WARNING, NOTE, UNKNOWN = "error", "warning", "note", "unknown"


class Kind(msgspec.Struct, frozen=True):
    """A kind of finding.

    Attributes:
        name: What machines go by.
        severity: ``error``, ``warning``, ``note`` or ``unknown``.
        about: What is wrong.
        mend: What to do.
    """

    name: str
    severity: str
    about: str
    mend: str


class Finding(msgspec.Struct, frozen=True):
    """Something that was found.

    Attributes:
        name: Of its kind.
        severity: Of its kind.
        text: What is wrong here.
        mend: What to do.
    """

    name: str
    severity: str
    text: str
    mend: str

    @property
    def is_problem(self) -> bool:
        """Whether it is an error or a warning."""
        return self.severity in (ERROR, WARNING)


KINDS = (
    # -- the doctor itself
    Kind(
        "check-failed",
        UNKNOWN,
        "A check ended with an exception, so that nothing is known of its subject.",
        "Look at the error; if it is not about your set-up, report it as a bug.",
    ),
    Kind(
        "check-timed-out",
        UNKNOWN,
        "A check has not come to its end in time.",
        "Something on the way hangs: look at the other findings, and give it longer with --timeout.",
    ),
    Kind("client-missing", UNKNOWN, "The web server cannot be tried.", "pip install 'celery-realtime[client]'"),
    # -- settings
    Kind(
        "settings-refused",
        ERROR,
        "A setting has a bad value; workers and web servers refuse to start with it.",
        "The message says which setting, and what it takes.",
    ),
    Kind(
        "disabled",
        WARNING,
        "realtime_enabled is False, so nothing is reported.",
        "Set it to False for tests only.",
    ),
    Kind(
        "broker-in-memory",
        ERROR,
        "The broker is memory://, which ends at the border of a process: no event of a worker gets to a web server.",
        "Set broker_url, or realtime_url, to a Redis or RabbitMQ.",
    ),
    Kind(
        "no-history",
        WARNING,
        "There is no history: pages that load late see nothing of earlier events, what is lost on the way stays lost,"
        " and jobs of killed workers stay running.",
        "Set realtime_history_url to a Redis.",
    ),
    Kind(
        "stock-wire",
        NOTE,
        "realtime_wire is 'stock': each event is a message of its own, and stock managers emit what they receive out of"
        " order.",
        "Unless a web server of yours has python-socketio's own KombuManager, leave realtime_wire at 'frames'.",
    ),
    # -- secrets
    Kind(
        "no-secret",
        NOTE,
        "realtime_secret_key is not set, so no token can be made or verified here.",
        "If your web server has rules of its own, that is well: pass --token to try it. If not, set the secret.",
    ),
    Kind(
        "weak-secret",
        WARNING,
        "realtime_secret_key is short or has few different characters: whoever guesses it can act as any user.",
        'Make a longer one: python3 -c "import secrets; print(secrets.token_hex())"',
    ),
    Kind(
        "token-invalid",
        ERROR,
        "The token that was passed does not verify with realtime_secret_key, or has expired.",
        "Make a new one: celery -A proj realtime token USER --project PROJECT; both sides need the same secret.",
    ),
    # -- versions
    Kind(
        "version-too-old",
        ERROR,
        "A package is older than what this one needs.",
        "Upgrade it; pip check lists all that do not fit together.",
    ),
    Kind(
        "version-with-fault",
        WARNING,
        "The installed version of a package has a known fault.",
        "The text names a version without it, or the way round it.",
    ),
    # -- the broker
    Kind(
        "broker-unreachable",
        ERROR,
        "The broker that events travel over cannot be reached from here.",
        "Start it, or correct broker_url or realtime_url; the error says which part fails.",
    ),
    Kind(
        "broker-forbids",
        ERROR,
        "The broker's user may not do what it has to.",
        "Grant the rights in docs/deployment.md, 'Rights on the broker'.",
    ),
    Kind(
        "broker-evicts",
        ERROR,
        "The broker's Redis evicts keys when its memory is used up: queued jobs, and who listens to what, get lost.",
        "CONFIG SET maxmemory-policy noeviction, and in its configuration file.",
    ),
    Kind(
        "no-fanout",
        ERROR,
        "An event that was published on the channel has not come back to who listens there.",
        "On Redis let the user subscribe to the channel (ACL: &/0.socketio). Proxies in front of Redis must pass on"
        " SUBSCRIBE. On RabbitMQ look for an exchange of this name and another type.",
    ),
    Kind(
        "not-sent",
        ERROR,
        "An event could not be sent.",
        "The log, and the other findings, say why: the broker or the history does not accept it.",
    ),
    # -- Redis, wherever it is used
    Kind(
        "history-evicts",
        WARNING,
        "The history's Redis evicts keys when its memory is used up: histories start over, leases and cancellations get"
        " lost.",
        "Give the history a Redis with maxmemory-policy noeviction, or enough memory.",
    ),
    Kind(
        "memory-full",
        ERROR,
        "A Redis has used its memory up, and refuses to store.",
        "Raise its maxmemory, or lower realtime_history_ttl and realtime_history_size.",
    ),
    Kind(
        "memory-short",
        WARNING,
        "A Redis has used nine tenths of its memory.",
        "Raise its maxmemory, or lower realtime_history_ttl and realtime_history_size.",
    ),
    Kind(
        "maxclients-reached",
        ERROR,
        "A Redis has next to no room for more connections: this package does not connect to it then, and events wait.",
        "Raise its maxclients, or look for what keeps connections open: CLIENT LIST.",
    ),
    Kind(
        "maxclients-near",
        WARNING,
        "More than half of a Redis's connections are in use, so this package closes its own after each use.",
        "Raise its maxclients.",
    ),
    Kind(
        "redis-read-only",
        ERROR,
        "A Redis is a replica, which takes no writes.",
        "Connect to its master, or find that by Sentinels.",
    ),
    Kind(
        "redis-too-old",
        ERROR,
        "A Redis is older than 5, and has no streams.",
        "Use Redis 5 or newer, or Valkey, for the history.",
    ),
    Kind(
        "clock-skew",
        WARNING,
        "The clock of this machine and that of another one differ: tokens are too early or too late there, and times of"
        " events contradict each other.",
        "Have both keep their time by NTP.",
    ),
    # -- the history
    Kind(
        "history-unreachable",
        ERROR,
        "The history cannot be reached from here: events wait for it, and pages cannot subscribe.",
        "Start its Redis, or correct realtime_history_url (by default that of the result backend or the broker).",
    ),
    Kind(
        "history-refuses",
        ERROR,
        "The history's Redis can be reached, and refuses to store events: they are sent without a place in it.",
        "The error says why. Its user needs scripts (EVAL, EVALSHA, SCRIPT) and the keys that begin with"
        " celery-realtime:.",
    ),
    # -- workers
    Kind(
        "no-worker",
        WARNING,
        "No worker answers.",
        "Start one, and look whether it is connected to this broker; one of the solo pool answers between jobs only.",
    ),
    Kind(
        "worker-without-realtime",
        ERROR,
        "A worker runs without this package, or with an older version: its jobs are not reported.",
        "Have its app make a Realtime(app), and restart it.",
    ),
    Kind(
        "worker-disabled",
        ERROR,
        "A worker runs with realtime_enabled = False.",
        "Set it to False for tests only, and restart the worker.",
    ),
    Kind(
        "worker-elsewhere",
        ERROR,
        "A worker sends events to another place than is listened at here: another database, virtual host, key prefix,"
        " channel, namespace or format.",
        "Give workers and web servers the same realtime_url, realtime_channel, realtime_namespace and realtime_wire.",
    ),
    Kind(
        "worker-silent",
        ERROR,
        "A worker has been asked to send an event, and it does not arrive at the channel that is listened to here.",
        "Compare the URLs of both: a host name may mean another server there. Look into the worker's log.",
    ),
    Kind(
        "worker-history-elsewhere",
        ERROR,
        "A worker stores events in another history than is read here.",
        "Give workers and web servers the same realtime_history_url, or the same result backend.",
    ),
    Kind(
        "worker-version",
        WARNING,
        "A worker runs another version of this package.",
        "Restart it after an upgrade; docs/upgrading.md says what the two understand of each other.",
    ),
    Kind(
        "worker-shards",
        WARNING,
        "A worker divides projects into another number of shards than is set here.",
        "Give workers and web servers the same realtime_shards.",
    ),
    Kind(
        "pool-cannot-cancel",
        NOTE,
        "The pool of a worker cannot end a job that runs: cancel_job stops only tasks with cancellable=True, and jobs"
        " that have not begun.",
        "Use the prefork pool, or make tasks cancellable.",
    ),
    # -- the web server
    Kind(
        "web-unreachable",
        ERROR,
        "The web server does not answer.",
        "Start it, or correct --url.",
    ),
    Kind(
        "web-not-socketio",
        ERROR,
        "The web server answers, but not as a Socket.IO server.",
        "Serve the sockets at this path (--path), and have the proxy pass the path on unchanged.",
    ),
    Kind(
        "web-not-ours",
        ERROR,
        "The Socket.IO server does not answer to subscribe_project in the namespace that is set here.",
        "Call realtime.init_socketio(server) on the server that is served, with the same realtime_namespace.",
    ),
    Kind(
        "no-upgrade",
        WARNING,
        "The server offers no WebSockets, so all clients poll.",
        "In threads install simple-websocket, or serve it with gevent or ASGI; leave transports and allow_upgrades.",
    ),
    Kind(
        "no-websocket",
        ERROR,
        "Polling works, and the upgrade to a WebSocket does not: something on the way does not pass it on.",
        "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection 'upgrade'.",
    ),
    Kind(
        "polling-off",
        NOTE,
        "The server takes WebSockets only: clients behind proxies that pass none on cannot connect.",
        "If that is meant, have pages connect with transports: ['websocket'].",
    ),
    Kind(
        "not-sticky",
        ERROR,
        "Requests of one polling client reach servers, or processes, that do not know it.",
        "Use sticky sessions (docs/deployment.md, 'A load balancer'), one process a server, or transports:"
        " ['websocket'] in the page.",
    ),
    Kind(
        "cors-refused",
        ERROR,
        "Pages of this origin are refused.",
        "Name it in cors_allowed_origins of the Socket.IO server; for pages of its own, have the proxy pass on Host and"
        " X-Forwarded-Proto.",
    ),
    Kind(
        "cors-open",
        WARNING,
        "Pages of any origin may connect, with your users' cookies.",
        "Name the origins in cors_allowed_origins, in place of '*'.",
    ),
    Kind(
        "cors-twice",
        ERROR,
        "Answers have Access-Control-Allow-Origin twice, which browsers refuse.",
        "Let either the framework's CORS middleware or the Socket.IO server answer: cors_allowed_origins=[] turns off"
        " the latter.",
    ),
    Kind(
        "deflate",
        NOTE,
        "WebSockets are compressed, which servers with init_socketio do not agree to: a client takes up to three times"
        " as much memory, an event more time, and a small message may inflate without a bound.",
        "Call realtime.init_socketio on the server that is served, and turn compression off in what stands before it.",
    ),
    Kind(
        "no-tls",
        WARNING,
        "Tokens travel over plain HTTP to another host.",
        "Serve it over https.",
    ),
    Kind(
        "token-refused",
        ERROR,
        "The web server refuses the token.",
        "Its realtime_secret_key is another, its clock is off, or it has rules of its own: then pass --token.",
    ),
    Kind(
        "project-refused",
        ERROR,
        "The web server refuses the project to this token.",
        "Pass --project with one that the token's user may see.",
    ),
    Kind(
        "web-unavailable",
        ERROR,
        "The web server cannot read the project now.",
        "Its history cannot be reached from there, or a rule raised: its log has the error.",
    ),
    Kind(
        "web-namespace",
        ERROR,
        "The web server does not serve the namespace that is set here.",
        "Give both the same realtime_namespace.",
    ),
    Kind(
        "web-without-history",
        ERROR,
        "The web server has no history, and there is one here.",
        "Give it the same realtime_history_url, or the same result backend.",
    ),
    Kind(
        "web-history-elsewhere",
        ERROR,
        "The web server reads another history than is written to here.",
        "Give workers and web servers the same realtime_history_url, or the same result backend.",
    ),
    Kind(
        "web-version",
        WARNING,
        "The web server runs another version of this package.",
        "Upgrade web servers before workers, as docs/upgrading.md says, and restart them all.",
    ),
    Kind(
        "web-deaf",
        ERROR,
        "An event that is heard on the channel here has not come to a client of the web server.",
        "It listens elsewhere (realtime_url, realtime_channel, the database number), or not at all: its log says 'not"
        " hearing'. Ask it for /health/ready.",
    ),
    Kind(
        "stock-manager",
        WARNING,
        "The web server has python-socketio's own manager, which neither puts events in order nor knows single jobs.",
        "Make it with client_manager=realtime.client_manager(), and leave realtime_wire at 'frames'.",
    ),
)

CATALOG = {kind.name: kind for kind in KINDS}


def finding(name: str, text: str = "", mend: str = "") -> Finding:
    """Return something that was found.

    Args:
        name: Of its kind.
        text: What is wrong here; by default what the kind is about.
        mend: What to do here, by default that of the kind.
    """
    kind = CATALOG[name]
    return Finding(name, kind.severity, text or kind.about, mend or kind.mend)


def as_dict(found: Finding) -> dict[str, Any]:
    """Return a finding for JSON."""
    return msgspec.structs.asdict(found)
