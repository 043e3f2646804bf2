"""What travels is described once: the files that are made of it are up to date, sound, and as strict as they claim."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import jsonschema
import pytest

from celery_realtime import events
from celery_realtime.events import DETAILS, RESERVED_EVENTS, Details
from celery_realtime.web.handlers import SocketIOEventHandlers
from celery_realtime.web.messages import ERROR_EVENT, EVENTS, HTTP_EVENTS, REQUESTS
from tests import wire
from tests.processes import ROOT
from tests.programs import require
from tests.tools.wire.files import FILES
from tests.waiting import wait_for
from tests.web_servers import Web

#: Names of socket.io-client's own, which no server sends.
OF_SOCKETIO = {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}

STATUS: dict[str, Any] = {
    "event": "status_change",
    "job_id": "j",
    "project_id": "p",
    "status": "running",
    "state": "STARTED",
    "timestamp": "2024-01-15T10:30:00.000Z",
    "result": None,
    "error": None,
    "task": "t",
    "attempt": 0,
    "root_id": "j",
    "parent_id": None,
    "group_id": None,
    "worker": "celery@host",
    "epoch": "e",
    "offset": 41,
}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def at(reference: str) -> Any:
    place: Any = wire.document()
    for name in reference.removeprefix("#/").split("/"):
        place = place[name]
    return place


# -- the files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_is_what_is_generated(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), "run: make wire"


def test_the_document_is_valid_by_the_schema_of_asyncapi() -> None:
    schema = json.loads((Path(require("@asyncapi/specs")) / "schemas" / "3.0.0.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(wire.document())
    for broken in ({"asyncapi": "2.6.0"}, {"info": {}}, {"operations": {"connect": {"action": "reply"}}}):
        assert not validator.is_valid({**wire.document(), **broken})


def test_all_that_the_document_refers_to_is_there() -> None:
    named = set(references(wire.document()))
    assert len(named) > 100
    for reference in named:
        assert at(reference), reference


def test_all_that_is_described_is_used() -> None:
    named = {*references(wire.document()), "#/components/schemas/LogLine"}  # which is in a stream, as any item may be
    assert [f"#/components/{kind}/{name}" for kind in ("schemas", "messages") for name in at(f"components/{kind}")] == [
        reference
        for kind in ("schemas", "messages")
        for name in at(f"components/{kind}")
        if (reference := f"#/components/{kind}/{name}") in named
    ]


def test_operations_are_of_messages_of_their_channels() -> None:
    for operation in wire.document()["operations"].values():
        replies = operation.get("reply", {}).get("messages", [])
        for message in (*operation["messages"], *replies):
            assert message["$ref"].startswith(f"{operation['channel']['$ref']}/messages/")
    answered = {name: one for name, one in wire.document()["operations"].items() if "reply" in one}
    assert {*answered} == {"connect", *REQUESTS}


def test_each_member_and_message_says_what_it_is() -> None:
    silent = [
        f"{name}.{member}"
        for name, schema in at("components/schemas").items()
        for member, of_it in schema.get("properties", {}).items()
        if "description" not in of_it and not {"const", "$ref"} & {*of_it} and (name, member) not in SELF_EXPLAINING
    ]
    assert silent == []
    assert [name for name, message in at("components/messages").items() if not message["summary"]] == []


#: What the name, and the description of the whole, say already.
SELF_EXPLAINING: set[tuple[str, str]] = {("CustomItem", "data"), ("Refused", "error")}


# -- it is all of it --------------------------------------------------------------------------------------------


def test_each_request_has_its_handler_and_each_handler_its_request() -> None:
    handlers = {name.removeprefix("on_") for name in dir(SocketIOEventHandlers) if name.startswith("on_")}
    assert handlers - {"connect", "disconnect", "first_client"} == {*REQUESTS}


def test_each_name_that_custom_events_cannot_have_is_described() -> None:
    assert {*EVENTS, *HTTP_EVENTS} == RESERVED_EVENTS - OF_SOCKETIO
    assert ERROR_EVENT in EVENTS


def test_the_details_of_a_job_are_the_same_in_each_struct() -> None:
    of_details, of_status = (get_type_hints(one, include_extras=True) for one in (Details, events.StatusChange))
    assert {name: of_status[name] for name in DETAILS} == of_details


def test_a_status_has_all_details_of_its_job() -> None:
    times = dict.fromkeys(("eta", "expires_at", "queued_at"), "2024-01-15T10:30:00.000Z")
    texts = {"label": "a label", "queue": "celery", "rerun_of": "an earlier job"}
    numbers = {"priority": 3, "max_retries": 5, "soft_time_limit": 1.5, "time_limit": 2}
    job = events.Job(job_id="j", project_id="p", details=Details(**times, **texts, **numbers))
    data = json.loads(events.outgoing_status(events.status_change(job, "PENDING")).payload)
    assert {name: data[name] for name in DETAILS} == times | texts | numbers
    assert wire.problem_of_event("agent_status", data) is None


def test_a_status_has_no_member_that_is_not_described() -> None:
    job = events.Job(job_id="j", project_id="p", execution=events.Execution("e", 1.5))
    more = {"error": "ValueError: x", "truncated": True, "traceback": "a text", "runtime": 1.5}
    data = json.loads(events.outgoing_status(events.status_change(job, "FAILURE", **more)).payload)
    assert data.keys() == {*events.StatusChange.__struct_fields__, "event"} - {*DETAILS}
    assert wire.problem_of_event("agent_status", data) is None


# -- it is strict -----------------------------------------------------------------------------------------------


def test_what_is_not_described_does_not_pass() -> None:
    assert wire.problem_of_event("agent_status", STATUS) is None
    for wrong in (
        {"colour": "red"},
        {"status": "done"},
        {"timestamp": "yesterday"},
        {"attempt": None},
        {"offset": "1"},
    ):
        assert wire.problem_of_event("agent_status", STATUS | wrong), wrong
    for name in STATUS:
        less = {key: value for key, value in STATUS.items() if key != name}
        assert bool(wire.problem_of_event("agent_status", less)) == (name not in ("epoch", "offset")), name


def test_what_is_in_a_list_is_looked_at_too() -> None:
    item = {"event": "agent_status", "data": STATUS}
    assert wire.problem_of_event("agent_batch", [item]) is None
    assert wire.problem_of_event("agent_batch", [{"event": "agent_status", "data": STATUS | {"colour": "red"}}])
    assert wire.problem_of_event("agent_batch", [{"event": "agent_progress", "data": STATUS}])


@pytest.mark.parametrize(
    "data", [None, 7, 1.5, "text", [1, {"a": 2}], {"_realtime": {"job_id": None, "project_id": "p"}}]
)
def test_custom_events_have_any_data_and_objects_say_whose_they_are(data: Any) -> None:
    assert wire.problem_of_event("line", data) is None
    assert wire.problem_of_event("line", {"text": "hello"})
    assert wire.problem_of_event("line", {"_realtime": {"job_id": None, "project_id": "p", "more": 1}})


def test_an_answer_is_granted_or_refused() -> None:
    assert wire.problem_of_answer("unsubscribe_project", {"project_id": 7}, {"ok": True}) is None
    assert wire.problem_of_answer("unsubscribe_project", {"project_id": "p"}, {"ok": True, "more": 1})
    refusal = {"code": "forbidden", "message": "no"}
    assert wire.problem_of_answer("unsubscribe_project", None, {"ok": False, "error": refusal}) is None
    assert wire.problem_of_answer("unsubscribe_project", None, {"ok": False})


@pytest.mark.undescribed
@pytest.mark.parametrize("batch", [False, True])
def test_a_client_of_a_test_notes_what_is_not_described(web: Web, batch: bool) -> None:
    client = web.connect()
    assert client.subscribe("alpha", batch=batch)["ok"]
    web.emit("alpha", 1)
    client.wait(lambda heard: heard)
    assert wire.travelled
    assert wire.violations() == []
    told = {name: value for name, value in STATUS.items() if name not in ("epoch", "offset")}
    told |= {"colour": "red", "job_id": f"in batches: {batch}"}  # servers drop what they have emitted of a job before
    web.realtime.manager.put(events.Outgoing("alpha", "agent_status", json.dumps(told).encode(), told["job_id"], 0, 1))
    (violation,) = wait_for(wire.violations)
    assert "must not contain {'colour'} properties" in violation


# -- the pages --------------------------------------------------------------------------------------------------

BLOCK = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ("events.md", "streams.md")


def examples() -> Iterator[Any]:
    """Yield the events that the pages show, with what is left out in them left out."""
    for page in PAGES:
        for block in BLOCK.findall((ROOT / "docs" / page).read_text()):
            example = json.loads(block)
            for one in example if isinstance(example, list) else [example]:
                yield pytest.param(one, id=f"{page}-{one.get('event')!s}")


NAMES = {
    "status_change": "agent_status",
    "progress_update": "agent_progress",
    "metadata_update": "agent_metadata",
    "workflow_update": "agent_workflow",
    "stream_chunk": "agent_stream",
}


@pytest.mark.parametrize("example", [*examples()])
def test_the_examples_of_the_pages_are_as_described(example: Any) -> None:
    if "..." in json.dumps(example):
        pytest.skip("it leaves members out")
    if "level" in example:
        assert wire.problem_of_part("LogLine", example) is None
    elif "data" in example:
        assert wire.problem_of_event("agent_batch", [example]) is None
    else:
        assert wire.problem_of_event(NAMES.get(example.get("event"), "line"), example) is None
