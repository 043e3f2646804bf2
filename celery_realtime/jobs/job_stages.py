"""Divide a job into stages, each with progress of its own; that of the job is their weighted mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from celery_realtime.encoding import legible, text_of
from celery_realtime.events import StageState
from celery_realtime.jobs.progress import Number, Progress, check_number, check_progress
from celery_realtime.jobs.reached import Reached
from celery_realtime.values import is_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from celery_realtime.jobs.trackers import ProgressTracker

T = TypeVar("T")

#: Stages of a job: each progress event has all of them.
MOST_STAGES = 50

#: Characters of a stage's name.
MAX_NAME = 100

#: Weights of all stages together with their progress fit into a float.
MOST_WEIGHT = 1e15

PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"


class Part:
    """What a tracker knows of a stage of its job."""

    def __init__(self, name: str, weight: Number) -> None:
        self.name = name
        self.weight = weight
        self.status = PENDING
        self.reached = Reached()

    def state(self) -> StageState:
        """Return it as events have it."""
        return StageState(self.name, self.weight, self.status, self.reached.value)


#: The stage that this context works for.
_present: ContextVar[Part | None] = ContextVar("celery_realtime_stage", default=None)


def plain_name(name: Any) -> Any:
    """Return a name as a plain text, as it is translated now; what is no text is returned as it is."""
    return text_of(name) if is_text(name) else name


def check_stage(name: object, weight: object) -> Number:
    """Return the weight of a stage.

    Raises:
        TypeError: The name is no text, or the weight no number.
        ValueError: The name is empty or too long, or the weight not above 0, or above :data:`MOST_WEIGHT`.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a stage must be a str, not {type(name).__name__}")
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"the name of a stage must have 1 to {MAX_NAME} characters, this one has {len(name)}")
    number = check_number("weight", weight, None)
    if number > MOST_WEIGHT:
        raise ValueError(f"the weight of stage {name!r} must be at most {MOST_WEIGHT:g}, not {number:g}")
    if number == 0:
        raise ValueError(f"the weight of stage {name!r} must be above 0")
    return number


def check_plan(stages: object) -> dict[str, Number]:
    """Return the weights of stages that are planned, by their names.

    Args:
        stages: Weights by names, or names alone, which weigh 1 each.

    Raises:
        TypeError: It is neither of these.
        ValueError: It is empty, has too many stages, or one that is none.
    """
    if isinstance(stages, str) or not isinstance(stages, Iterable):
        raise TypeError(f"stages must be a dict of names and weights, or a list of names, not {type(stages).__name__}")
    given: Mapping[Any, Any] = stages if isinstance(stages, Mapping) else dict.fromkeys(stages, 1)
    weights = {plain_name(name): weight for name, weight in given.items()}
    if not 0 < len(weights) <= MOST_STAGES:
        raise ValueError(f"a job may have 1 to {MOST_STAGES} stages, not {len(weights)}")
    return {name: check_stage(name, weight) for name, weight in weights.items()}


class JobStages:
    """The stages of a job in one attempt, in the order in which they were planned, or else began.

    The caller keeps threads apart.
    """

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}

    def plan(self, weights: Mapping[str, Number]) -> None:
        """Add stages that are to come, and weigh those that are known anew.

        Raises:
            ValueError: There would be too many.
        """
        for name, weight in weights.items():
            self._part(name, weight).weight = weight

    def _part(self, name: str, weight: Number) -> Part:
        name = legible(name)
        part = self._parts.get(name)
        if part is None:
            if len(self._parts) >= MOST_STAGES:
                raise ValueError(f"a job may have {MOST_STAGES} stages, and {name!r} is one more")
            part = self._parts[name] = Part(name, weight)
        return part

    def begin(self, name: str, weight: Number | None) -> Part:
        """Begin a stage, or begin it again.

        Args:
            name: Its name.
            weight: Its weight; None for that which was planned, or 1.

        Raises:
            ValueError: It runs already, or there would be too many.
        """
        part = self._part(name, 1 if weight is None else weight)
        if part.status == RUNNING:
            raise ValueError(f"stage {name!r} runs already: give each thread a stage of its own, or pass this one on")
        if weight is not None:
            part.weight = weight
        part.status, part.reached = RUNNING, Reached()
        return part

    @staticmethod
    def end(part: Part, *, failed: bool) -> None:
        """End a stage."""
        part.status = FAILED if failed else DONE
        if not failed:
            part.reached.raise_to(100)

    def present(self) -> Part | None:
        """Return the stage that this context works for, or that began last of those that run."""
        here = _present.get()
        if here is not None and here.status == RUNNING and self._parts.get(here.name) is here:
            return here
        return next((part for part in reversed(self._parts.values()) if part.status == RUNNING), None)

    def share(self) -> None:
        """Count what runs together with the processes that are forked from now on.

        Raises:
            OSError: The system has no file for it.
        """
        for part in self._parts.values():
            if part.status == RUNNING:
                part.reached.share()

    @property
    def progress(self) -> Number:
        """The weighted mean of all stages, in percent."""
        parts = self._parts.values()
        mean = round(sum(part.weight * part.reached.value for part in parts) / sum(part.weight for part in parts), 2)
        return int(mean) if mean == int(mean) else mean

    def count(self, report: Progress, part: Part | None = None) -> Progress:
        """Count a report of a stage, and return that of the job.

        Args:
            report: The report. Outside of all stages only its message counts.
            part: The stage; by default the present one.
        """
        part = self.present() if part is None else part
        if part is not None and part.status == RUNNING:
            part.reached.raise_to(report.progress)
        name = None if part is None else part.name
        states = tuple(each.state() for each in self._parts.values())
        return replace(report, progress=self.progress, stage=name, stages=states)


class Stage:
    """A stage of a job, to be entered with ``with``.

    Args:
        tracker: Of the job.
        name: Its name.
        weight: Its weight among the stages of the job; None for that which was planned, or 1.
        check: Raises if the job has been cancelled.
    """

    def __init__(
        self, tracker: ProgressTracker, name: str, weight: Number | None, check: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self._tracker = tracker
        self._weight = weight
        self._check = check
        self._part: Part | None = None
        self._token: Token[Part | None] | None = None

    def __enter__(self) -> Self:
        self._check()
        self._part = self._tracker.begin_stage(self.name, self._weight)
        self._token = _present.set(self._part)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        token, self._token = self._token, None
        if token is None or self._part is None:
            return
        try:
            _present.reset(token)
        except ValueError:  # it ends in another context than it began in
            _present.set(None)
        self._tracker.end_stage(self._part, failed=kind is not None)

    @property
    def progress(self) -> Number:
        """How far it is, in percent."""
        return 0 if self._part is None else self._part.reached.value

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``done`` or ``failed``."""
        return PENDING if self._part is None else self._part.status

    @property
    def weight(self) -> Number:
        """Its weight among the stages of the job."""
        return self._part.weight if self._part is not None else 1 if self._weight is None else self._weight

    def update_progress(
        self, progress: object = None, message: object = None, *, current: object = None, total: object = None
    ) -> None:
        """Report how far the stage is, from any thread; the arguments and errors are those of ``self.update_progress``.

        Raises:
            RuntimeError: It has not been entered.
        """
        report = check_progress(progress, message, current, total)
        self._check()
        self._tracker.report(report, part=self._entered())

    def track(self, items: Iterable[T], message: object = None, *, total: int | None = None) -> Iterator[T]:
        """Iterate, and report ``current`` of ``total`` of the stage, as ``self.track`` does.

        Raises:
            RuntimeError: It has not been entered.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        check_progress(0, message)
        if total is not None:
            check_progress(current=0, total=total)
        return self._tracked(iter(items), message, total, self._entered())

    def _tracked(self, items: Iterator[T], message: object, total: int | None, part: Part) -> Iterator[T]:
        done = 0
        for item in items:
            self._check()
            self._tracker.advance(done, total, message, part=part)
            yield item
            done += 1
        self._tracker.advance(done, done, message, part=part)

    def _entered(self) -> Part:
        if self._part is None:
            raise RuntimeError(f"stage {self.name!r} has not begun: write `with self.stage({self.name!r}):`")
        return self._part
