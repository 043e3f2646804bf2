"""Write the AsyncAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

import celery_realtime
from celery_realtime.web.messages import (
    EVENTS,
    HTTP_ANSWERS,
    HTTP_EVENTS,
    REQUESTS,
    Auth,
    Connected,
    ConnectionRefused,
    CustomData,
    Refused,
)
from tests.tools.wire.schemas import Schema, Schemas, all_schemas, is_struct, summary

HEAD = "# Generated from celery_realtime/web/messages.py: make wire\n"

DESCRIPTION = """\
What travels between the web server of an application that uses celery_realtime and its clients: browsers, and whatever
else speaks Socket.IO 5 (over Engine.IO 4, on WebSockets or by polling); and, in channels of their own, server-sent
events and JSON over plain HTTP.

Each message is an event of Socket.IO, whose name is the message's `name`, with the payload as its one argument. A reply
is the argument of the acknowledgement. What connects is the payload of a CONNECT packet, the `auth` of clients. All is
said from the server's side: it receives requests, and sends events.

It describes servers of this version, without an `event_filter`, which may take members away, change them or add some.
Readers ignore members that they do not know: in an upgrade two versions run side by side. `docs/events.md` and
`docs/streams.md` say more of what each event means.
"""

CHANNEL = "namespace"
#: The channels of plain HTTP: that of events, and by its path that of each answer.
HTTP_CHANNEL = "http_events"
HTTP_CHANNELS = {"/jobs": "http_jobs", "/jobs/{job_id}": "http_job"}
#: What their paths begin with, unless the application says otherwise.
PREFIX = "/celery-realtime"
#: Their queries.
QUERIES: dict[str, dict[str, str]] = {
    HTTP_CHANNEL: {
        "project": "The project; or that of the job, if several use its id.",
        "job": "The one job to follow.",
        "streams": "`true` for the streams of all jobs of the project, too.",
        "last_event_id": "The last position that the client has, `epoch:offset`; as the header `Last-Event-ID`.",
    },
    "http_jobs": {"project": "The project.", "from": "The `next` of the answer before, for further jobs."},
    "http_job": {"project": "The project, if several use the id."},
}
TOKEN = "As in the header `Authorization: Bearer ...`."
#: What is said of messages that are no struct.
WORDS = {
    "agent_batch": "What has travelled together, in order, for clients that have asked for `batch`.",
    "/jobs": "The jobs of a project, or further ones.",
    "/jobs/{job_id}": "A job as a snapshot has it, with its whole result; less if the history has forgotten it.",
    "*": "An event of the application, under a name of its own: one of the job's, or of a project's.",
}

#: The message that stands for all events of the application.
CUSTOM = "custom"
#: Those of connections, and of refusals.
OF_CONNECTIONS = ("connect", "connected", "connection_refused", "refused")


class _Dumper(yaml.SafeDumper):
    """Writes each thing out where it stands, and texts of several lines as they are."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Refer to nothing by an anchor."""
        return True


def _represent_text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _represent_text)


def text() -> str:
    """Return the file."""
    return HEAD + str(yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def document() -> dict[str, Any]:
    """Return the document."""
    schemas = all_schemas()
    messages = _messages(schemas)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "celery_realtime",
            "version": celery_realtime.__version__,
            "description": DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "web": {
                "host": "example.com",
                "pathname": "/socket.io/",
                "protocol": "wss",
                "description": "The web server, at the path of its Socket.IO server; `ws` without TLS.",
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            },
            "http": {
                "host": "example.com",
                "pathname": PREFIX,
                "protocol": "https",
                "description": "The same server, for plain HTTP, where the application has put its routes.",
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("bearer", "token")],
            },
        },
        "channels": {CHANNEL: _channel(), **_http_channels()},
        "operations": {**_operations(), **_http_operations()},
        "components": {
            "messages": messages,
            "schemas": schemas.named,
            "securitySchemes": {
                "token": {
                    "type": "httpApiKey",
                    "in": "query",
                    "name": "token",
                    "description": "In the `auth` object, see the operation `connect`; or in the query string.",
                },
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _channel() -> Schema:
    query = {"token": {"description": "As in `auth`."}, "EIO": {"const": "4"}, "transport": {"const": "websocket"}}
    return {
        "address": "/",
        "title": "The Socket.IO namespace",
        "description": "`/`, or that of the setting `namespace`.",
        "servers": [{"$ref": "#/servers/web"}],
        "messages": _listed([*OF_CONNECTIONS, *EVENTS, CUSTOM, *REQUESTS, *map(_answer_of, REQUESTS)]),
        "bindings": {"ws": {"method": "GET", "query": {"type": "object", "properties": query}}},
    }


def _listed(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _http_channels() -> dict[str, Schema]:
    """Return the channels of plain HTTP."""
    of_http: Schema = {"servers": [{"$ref": "#/servers/http"}]}
    of_events = {
        "address": "/events",
        "title": "Server-sent events",
        "description": "`GET`: each message is an event by its name. Its id is the position, `epoch:offset`.",
        **of_http,
        "messages": _listed([*HTTP_EVENTS, CUSTOM, "refused"]),
    }
    channels = {HTTP_CHANNEL: of_events}
    for path, name in HTTP_CHANNELS.items():
        answers = _listed([_answer_of(name), "refused"])
        channels[name] = {"address": path, "title": "JSON", "description": "`GET`.", **of_http, "messages": answers}
        if "{job_id}" in path:
            channels[name]["parameters"] = {"job_id": {"description": "Celery's task id."}}
    return channels


def _http_operations() -> dict[str, Schema]:
    follow = {
        "action": "send",
        "channel": _place(channel=HTTP_CHANNEL),
        "messages": [_place(name, HTTP_CHANNEL) for name in (*HTTP_EVENTS, CUSTOM, "refused")],
        "bindings": _query_of(HTTP_CHANNEL),
    }
    return {
        "http_follow": follow,
        **{
            name: {
                "action": "send",
                "channel": _place(channel=name),
                "messages": [_place(answer, name) for answer in (_answer_of(name), "refused")],
                "bindings": _query_of(name),
            }
            for name in HTTP_CHANNELS.values()
        },
    }


def _query_of(channel: str) -> Schema:
    """Return how a channel of plain HTTP is asked for."""
    words = {**QUERIES[channel], "token": TOKEN}
    properties = {name: {"type": "string", "description": said} for name, said in words.items()}
    return {"http": {"method": "GET", "query": {"type": "object", "properties": properties}}}


def _messages(schemas: Schemas) -> dict[str, Schema]:
    """Return all messages: of the connection, then events, then requests with their answers."""
    messages = {
        "connect": _message("CONNECT", "connect", Auth, schemas),
        "connected": _message("CONNECT", "connect", Connected, schemas),
        "connection_refused": _message("CONNECT_ERROR", "connect_error", ConnectionRefused, schemas),
        "refused": _message("ACK", "refused", Refused, schemas),
        **{name: _message("EVENT", name, data, schemas) for name, data in EVENTS.items()},
        CUSTOM: _message("EVENT", "*", CustomData, schemas),
        **{name: _message("SSE", name, data, schemas) for name, data in HTTP_EVENTS.items() if name not in EVENTS},
    }
    for path, name in HTTP_CHANNELS.items():
        messages[_answer_of(name)] = _message("JSON", path, HTTP_ANSWERS[path], schemas)
    for name, request in REQUESTS.items():
        messages[name] = _message("EVENT", name, request.data, schemas)
        messages[_answer_of(name)] = _message("ACK", name, request.answer, schemas)
    return messages


def _answer_of(request: str) -> str:
    return f"{request}.answer"


def _message(packet: str, name: str, data: Any, schemas: Schemas) -> Schema:
    """Return a message, as one kind of Socket.IO's packets has it, or SSE or JSON of plain HTTP."""
    words = summary(data) if is_struct(data) else WORDS[name]
    return {"name": name, "summary": words, "payload": schemas.of(data), "x-packet": packet}


def _operations() -> dict[str, Schema]:
    """Return what the server receives, and answers, and what it sends by itself."""
    operations = {"connect": _received("connect", ["connected", "connection_refused"])}
    operations |= {name: _received(name, [_answer_of(name), "refused"]) for name in REQUESTS}
    return operations | {
        name: {"action": "send", "channel": _place(), "messages": [_place(name)]} for name in (*EVENTS, CUSTOM)
    }


def _received(name: str, answers: list[str]) -> Schema:
    reply = {"channel": _place(), "messages": [_place(answer) for answer in answers]}
    return {"action": "receive", "channel": _place(), "messages": [_place(name)], "reply": reply}


def _place(message: str | None = None, channel: str = CHANNEL) -> Schema:
    """Return a reference to a channel, or to one of its messages."""
    return {"$ref": f"#/channels/{channel}" + (f"/messages/{message}" if message else "")}
