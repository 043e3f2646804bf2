"""Mirror progress into Celery's result backend, for clients who poll, without ever undoing a final state."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from celery import Celery
from celery.exceptions import OperationalError

from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import encode

if TYPE_CHECKING:
    from celery_realtime.progress import Progress

STATE = "PROGRESS"
REMEMBERED = 10000

#: Redis alone can compare and set in one step; KEYS[1] the result, ARGV the new value and its life in seconds.
_STORE_UNLESS_ENDED = """
local stored = redis.call('GET', KEYS[1])
if stored then
  local readable, meta = pcall(cjson.decode, stored)
  local ended = {SUCCESS = 1, FAILURE = 1, REVOKED = 1}
  if readable and type(meta) == 'table' and ended[meta.status] then return 0 end
end
if tonumber(ARGV[2]) > 0 then
  redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""


class MirroredProgress(NamedTuple):
    """Progress of a job that waits to be stored; encoded when it is, since most reports are replaced by newer ones.

    Attributes:
        job_id: The job.
        report: What to store.
        rank: None, for the queue: it is no status.
        progress: True, for the queue: a newer report of the same job replaces it.
    """

    job_id: str
    report: Progress
    rank: int | None = None
    progress: bool = True


class _Target(NamedTuple):
    request: Any
    ended: bool = False


class ProgressMirror:
    """Store PROGRESS states in the result backend of an app.

    Args:
        app: The Celery app; its backend is asked for in the thread that stores, since Celery's backends are
            per thread (celery/app/base.py, ``Celery.backend``).
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._targets: BoundedDict[str, _Target] = BoundedDict(REMEMBERED)

    def expect(self, job_id: str, request: Any) -> None:
        """Remember the request of a job whose progress will come."""
        self._targets[job_id] = _Target(request)

    def ended(self, job_id: str) -> None:
        """Store no more of this job: its final state is, or is about to be, in the backend."""
        if self._targets.get(job_id) is not None:
            self._targets[job_id] = _Target(None, ended=True)

    def store(self, reports: list[MirroredProgress]) -> int:
        """Store the progress of jobs that have not ended; returns how many of the first ones are done with."""
        for done, event in enumerate(reports):
            target = self._targets.get(event.job_id)
            if target is None or target.ended:
                continue
            try:
                self._store_one(event, target.request)
            except self._outages():
                return done
        return len(reports)

    def _outages(self) -> tuple[type[BaseException], ...]:
        return (OSError, OperationalError, *getattr(self._app.backend, "connection_errors", ()))

    def _store_one(self, event: MirroredProgress, request: Any) -> None:
        backend = self._app.backend
        meta = msgspec.json.decode(encode(event.report))
        if _is_json_redis(backend):
            _store_unless_ended(backend, event.job_id, meta, request)
        else:
            backend.store_result(event.job_id, meta, STATE, request=request)


def _is_json_redis(backend: Any) -> bool:
    module = sys.modules.get("celery.backends.redis")
    return module is not None and isinstance(backend, module.RedisBackend) and backend.serializer == "json"


def _store_unless_ended(backend: Any, job_id: Any, meta: Any, request: Any) -> None:
    stored = backend._get_result_meta(result=meta, state=STATE, traceback=None, request=request)
    value = backend.encode({**stored, "task_id": job_id})
    expires = int(backend.expires or 0)
    backend.client.eval(_STORE_UNLESS_ENDED, 1, backend.get_key_for_task(job_id), value, expires)
