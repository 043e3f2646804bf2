"""Print what becomes of progress, and of connections, with django-celery-results: ``python -m`` with a file's name."""

from __future__ import annotations

import json
import sys
import threading
from types import SimpleNamespace
from typing import Any

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_results"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": sys.argv[1],
            "OPTIONS": {"timeout": 60},
            "CONN_MAX_AGE": None,
        }
    },
    USE_TZ=True,
)
django.setup()

from celery import Celery  # noqa: E402
from celery.app.task import Context  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402

from celery_realtime.jobs.progress import Progress  # noqa: E402
from celery_realtime.jobs.progress_mirror import MirroredProgress, ProgressMirror  # noqa: E402
from celery_realtime.jobs.progress_stores import store_of  # noqa: E402
from celery_realtime.jobs.stored_results import StoredResults  # noqa: E402

call_command("migrate", verbosity=0)
app = Celery("django", backend="django-db", set_as_current=False)
store = store_of(app.backend)
assert store is not None


def state(job_id: str) -> tuple[str, Any]:
    meta = app.backend.get_task_meta(job_id, cache=False)
    return meta["status"], meta["result"]


def after(*states: str) -> tuple[str, Any]:
    """Store states of a job, then progress, and return what is stored."""
    request = Context(id="-".join(["job", *states]))
    for stored in states:
        app.backend.store_result(request.id, {"by": "celery"}, stored, request=request)
    store(app.backend, request, {"progress": 40})
    return state(request.id)


opened: list[tuple[str, Any]] = []
connection_created.connect(
    lambda connection, **_: opened.append((threading.current_thread().name, connection)), weak=False
)
seen = {"-".join(states) or "none": after(*states) for states in [(), ("STARTED",), ("SUCCESS",), ("ABORTED",)]}
twice = Context(id="twice")
for percent in (10, 20):
    store(app.backend, twice, {"progress": percent})
seen["twice"] = state("twice")
app.backend.store_result("twice", "done", "SUCCESS", request=twice)
seen["ended"] = state("twice")

mirror = ProgressMirror(queue_size=10)
for name, is_eager in (("by a worker", False), ("by its caller", True)):
    mirror.expect("p", SimpleNamespace(backend=app.backend), Context(id=name, is_eager=is_eager))
    mirror.store([MirroredProgress("p", name, Progress(40))])
    seen[name] = state(name)

results = StoredResults(app)
seen["asked"] = [results.ask([("twice", None)], 30.0)["twice"]["status"] for _ in range(2)]  # type: ignore[index]
seen["opened"] = [name for name, _ in opened if name.startswith("celery-realtime")]
seen["left open"] = [
    name for name, connection in opened if connection.connection is not None and name.startswith("celery-realtime")
]
print(json.dumps(seen))  # noqa: T201
