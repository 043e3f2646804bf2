"""Read the entries that the history has of jobs; common.lua describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from celery_realtime.events import PROGRESS_FIELDS, STAGE_FIELDS

#: What decoding raises for an entry of another writer, or a broken one.
UNREADABLE = (LookupError, TypeError, ValueError, RecursionError, msgspec.MsgspecError)

#: The status of a job of which only progress has been reported, and what nobody has said of such a job.
_RUNNING = {"event": "status_change", "status": "running", "state": "STARTED", "result": None, "error": None}
_UNSAID = dict.fromkeys(("root_id", "parent_id", "group_id", "worker"))

#: Where the run stands in the first line of an entry.
_RUN_PLACE = 9

#: What JSON begins with in place of its first members; SHORTER where characters stand for WORDS, too.
SHORT, SHORTER = "~", "^"
_SHORT_FORMS, _SHORT_OR_NONE = (SHORT, SHORTER), (SHORT, SHORTER, "")

#: As in append.lua.
WORDS = {
    "\1": '"status":"running","state":"STARTED","timestamp":"',
    "\2": '"status":"success","state":"SUCCESS","timestamp":"',
    "\3": '"status":"queued","state":"PENDING","timestamp":"',
    "\4": ',"result":null,"error":null,"task":',
    "\6": ',"parent_id":null,"group_id":null,"worker":',
    "\7": ',"current":null,"total":null,"task":',
}
ROOT_SIGN, ROOT = "\5", ',"root_id":'

#: The first members of a status, with room for the names that they have; and those of a root that is the job itself.
_BEGINNING = '{"event":"status_change","job_id":0,"project_id":0,'
_OWN_ROOT = ROOT + "0"

#: What progress without a count has, and as much of it as a job's state needs.
_UNCOUNTED_SIGN, _UNCOUNTED = "\7", ',"task":'


class _Reached(msgspec.Struct, gc=False):
    """What a job's state has of its latest progress."""

    progress: Any = None
    message: Any = None
    current: Any = None
    total: Any = None
    stalled: Any = False
    stage: Any = None
    stages: Any = None


_object = msgspec.json.Decoder(dict[str, Any])
_objects = msgspec.json.Decoder(list[dict[str, Any]])
_all_reached = msgspec.json.Decoder(list[_Reached])
_texts = msgspec.msgpack.Decoder(list[str | bool])
_raw = msgspec.msgpack.Decoder(list[msgspec.Raw])


def unpack(packed: Iterable[bytes]) -> list[str]:
    """Return the texts of lists in msgpack; what is missing, or no text, is empty."""
    texts: list[str] = []
    for part in packed:
        try:
            texts += [text if isinstance(text, str) else "" for text in _texts.decode(part)]
        except UNREADABLE:
            texts += [_text_of(raw) for raw in _raw.decode(part)]
    return texts


def _text_of(raw: msgspec.Raw) -> str:
    try:
        return str(msgspec.msgpack.decode(raw, type=str))
    except UNREADABLE:
        return ""


def decode_jobs(entries: Sequence[str], job_ids: Sequence[str], project_id: str) -> list[dict[str, Any]]:
    """Return the jobs of entries, without those that cannot be read."""
    usual: list[tuple[str, str, str]] = []
    others: list[tuple[str, str]] = []
    for entry, name in zip(entries, job_ids, strict=True):
        head, _, rest = entry.partition("\n")
        status, _, progress = rest.partition("\n")
        if status[:1] in _SHORT_FORMS and progress[:1] in _SHORT_OR_NONE and head:
            usual.append((name, status[1:], progress[1:]))
        else:
            others.append((entry, name))
    try:
        jobs = _decode_usual(usual, project_id)
    except UNREADABLE:
        jobs, others = [], [*zip(entries, job_ids, strict=True)]
    single = (decode_job(entry, name, project_id) for entry, name in others)
    return [*jobs, *(job for job in single if job is not None)]


def _decode_usual(parts: Sequence[tuple[str, str, str]], project_id: str) -> list[dict[str, Any]]:
    """Decode many entries in one go, which takes half of the time; it raises if one of them cannot be read."""
    if not parts:
        return []
    names, statuses, updates = zip(*parts, strict=True)
    jobs = _objects.decode(f"[{_BEGINNING}{_lengthened(f',{_BEGINNING}'.join(statuses), _OWN_ROOT)}]")
    reports = ",".join([f"{{{update}" if update else "{}" for update in updates])
    all_reached = _all_reached.decode(f"[{reports.replace(_UNCOUNTED_SIGN, _UNCOUNTED)}]")
    for place, (name, job, reached) in enumerate(zip(names, jobs, all_reached, strict=True)):
        job["job_id"], job["project_id"] = name, project_id
        if job.get("root_id") == 0:
            job["root_id"] = name
        elif ROOT_SIGN in statuses[place]:  # which is in the result then, where 0 does not stand for the job
            job.update(_whole(SHORTER + statuses[place], {"job_id": name, "project_id": project_id}))
        job["progress"], job["message"] = reached.progress, reached.message
        job["current"], job["total"] = reached.current, reached.total
        job["stalled"] = job.setdefault("status", None) == "running" and bool(reached.stalled)
        if reached.stages is not None:
            job["stage"], job["stages"] = reached.stage, reached.stages
    return jobs


def _lengthened(short: str, root: str) -> str:
    for sign, word in WORDS.items():
        short = short.replace(sign, word)
    return short.replace(ROOT_SIGN, root)


def decode_job(entry: bytes | str, job_id: str, project_id: str) -> dict[str, Any] | None:
    """Return the job of an entry: its latest status with its progress; None if the entry cannot be read."""
    names = {"job_id": job_id, "project_id": project_id}
    try:
        _, status_json, progress_json = (entry if isinstance(entry, str) else entry.decode()).split("\n", 2)
        status, progress = _whole(status_json, names), _whole(progress_json, names)
    except UNREADABLE:
        return None
    status = status or {**_UNSAID, **progress, **_RUNNING}
    if not isinstance(status.get("job_id"), str):
        return None
    status.setdefault("status", None)  # an event filter may have removed it, and all readers ask for it
    reached = {name: progress.get(name) for name in PROGRESS_FIELDS}
    if progress.get("stages") is not None:
        reached |= {name: progress.get(name) for name in STAGE_FIELDS}
    return {**status, **reached, "stalled": status.get("status") == "running" and bool(progress.get("stalled"))}


def _whole(stored: str, names: dict[str, str]) -> dict[str, Any]:
    """Return the object of JSON of which append.lua may have left out much."""
    if stored[:1] not in _SHORT_FORMS:
        return _object.decode(stored or "{}")
    rest = stored[1:]
    if stored[0] == SHORTER:
        rest = _lengthened(rest, ROOT + msgspec.json.encode(names["job_id"]).decode())
    return {"event": "status_change", **names, **_object.decode("{" + rest)}


#: What the field of a job's metadata begins with, before the job's id; common.lua has the same.
METADATA = "\0metadata:"


def add_metadata(jobs: Iterable[dict[str, Any]], stored: Mapping[str, str]) -> None:
    """Give jobs the metadata that is stored of them, by their ids."""
    for job in jobs:
        metadata = decode_metadata(stored.get(job["job_id"]))
        if metadata:
            job["metadata"] = metadata


def decode_metadata(stored: str | bytes | None) -> dict[str, Any]:
    """Return the metadata of a job, as append.lua has stored it: a member of JSON in each line."""
    text = stored.decode(errors="replace") if isinstance(stored, bytes) else stored or ""
    try:
        return _object.decode("{" + text.replace("\n", ",") + "}")
    except UNREADABLE:
        return {}


def decode_run(entry: bytes) -> str | None:
    """Return the mark of the publication that a job's entry is of; None if it has none."""
    words = entry.partition(b"\n")[0].split(b" ")
    run = words[_RUN_PLACE].decode(errors="replace") if len(words) > _RUN_PLACE else ""
    return run if run[:1].isdigit() else None
