"""Have children of a pool that are not forked, but begin as interpreters of their own, go on as forked ones do.

Celery gives such a child a copy of the app, made of its configuration, and the child imports the modules of the tasks.
What is set up there belongs to the app of those modules, and the tasks run as those of the copy. So a recipe travels
with the app: it finds the Realtime where the main process has it, or else the only one that has been made in the child
for an app of that name, and has it go on with the copy. If the modules make none there, as where a function does it all
that only the main process calls, the recipe makes one with the same settings.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from celery import Celery, signals

from celery_realtime.instances import instances
from celery_realtime.jobs.seams import inherited_file
from celery_realtime.logs import describe
from celery_realtime.sending.spool import Spool

logger = logging.getLogger(__name__)

Place = tuple[str, str]


@runtime_checkable
class Moving(Protocol):
    """What is needed of a Realtime."""

    def pickled(self) -> bytes | None:
        """Return what makes another one with the same settings; None if a setting cannot be sent."""

    def join_worker(self, app: Celery, incarnation: str, spool: Spool | None) -> None:
        """Go on with an app, as a child of a worker's pool."""


class Recipe:
    """Makes, in a process that a Celery app is sent to, the Realtime that it has in this one.

    Celery calls each of an app's fix-ups with the app, and sends them along with it.

    Args:
        realtime: The Realtime.
        app: Its app.
        incarnation: Returns the id of the worker's incarnation.
        new_spool: Returns the spool of the next child, or None.
    """

    def __init__(
        self, realtime: Moving, app: Celery, *, incarnation: Callable[[], str], new_spool: Callable[[], Spool | None]
    ) -> None:
        self._realtime = realtime
        self._app = app
        self._incarnation = incarnation
        self._new_spool = new_spool

    def install(self) -> None:
        """Have it travel with the app."""
        self._app.fixups = {*(fixup for fixup in self._app.fixups if not isinstance(fixup, (Recipe, Arrival))), self}

    def __call__(self, _app: Celery) -> Recipe:
        """Do nothing, in an app that is copied within this process."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        places = [place for place in map(place_of, (self._app, self._realtime)) if place is not None]
        return Arrival, (places, self._realtime.pickled(), self._incarnation(), inherited_file(self._new_spool))


class Arrival:
    """A recipe that has arrived.

    Args:
        places: The modules that have the Realtime or its app, each with the name there.
        pickled: Makes another Realtime; None if none can be made.
        incarnation: The id of the worker's incarnation.
        file: Of the spool; what ``detach`` returns is its descriptor in this process.
    """

    def __init__(self, places: Sequence[Place], pickled: bytes | None, incarnation: str, file: Any) -> None:
        self._places = places
        self._pickled = pickled
        self._incarnation = incarnation
        self._file = file
        self._app: Celery | None = None

    def __call__(self, app: Celery) -> Arrival:
        """Wait until this process is set up as a child of a worker's pool: modules of tasks are imported by then."""
        self._app = app
        signals.worker_process_init.connect(self._join, weak=False, dispatch_uid=self._receiver)
        return self

    @property
    def _receiver(self) -> str:
        return f"celery_realtime.{id(self)}"

    def _join(self, **_: Any) -> None:
        signals.worker_process_init.disconnect(dispatch_uid=self._receiver)
        assert self._app is not None
        realtime = self._at_places() or _only_one_of(self._app.main) or self._new_one()
        if realtime is None:
            logger.error(
                "this child of the pool was not forked (worker_pool_start_method), no module has the Realtime in a "
                "variable, it is not the only one for an app of the name %r, and what it was given cannot be sent, so "
                "the child reports nothing, and update_progress fails in it; write `realtime = Realtime(app)` in the "
                "module of the app",
                self._app.main,
            )
            return
        realtime.join_worker(
            self._app, self._incarnation, None if self._file is None else Spool.of_file(self._file.detach())
        )

    def _at_places(self) -> Moving | None:
        """Return the Realtime of the modules that had it; all are imported, since one may attach what another makes."""
        values = [_value_at(*place) for place in self._places]
        found = [getattr(value, "realtime", None) if isinstance(value, Celery) else value for value in values[::-1]]
        return next((realtime for realtime in found if isinstance(realtime, Moving)), None)

    def _new_one(self) -> Moving | None:
        if self._pickled is None:
            return None
        try:
            kind, settings = pickle.loads(self._pickled)  # noqa: S301 - it came with the app, which is pickled too
            realtime: Moving = kind(**settings)
        except Exception as error:  # noqa: BLE001 - modules of the application are imported
            logger.error(
                "cannot make a Realtime in this child of the pool, so it reports nothing; see that what the Realtime "
                "is given can be imported there: %s",
                describe(error),
            )
            return None
        return realtime


def _value_at(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except Exception as error:  # noqa: BLE001 - a module of the application is imported
        logger.warning(
            "cannot import module %s in this child of the pool, so the Realtime is looked for elsewhere; see what the "
            "import needs: %s",
            *(module, describe(error)),
        )
        return None


def _only_one_of(name: str) -> Moving | None:
    """Return the Realtime of the only app of a name in this process that has one."""
    found: list[Moving] = [realtime for realtime in instances if realtime.app.main == name]
    return found[0] if len(found) == 1 else None


def place_of(value: object) -> Place | None:
    """Return the module that has a value in a variable, and the name of the variable; None if none has.

    Celery has its current app in variables too, which is another one in another process.
    """
    for module_name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and module_name.partition(".")[0] != "celery":
            for name, other in list(vars(module).items()):
                if other is value:
                    return module_name, name
    return None
