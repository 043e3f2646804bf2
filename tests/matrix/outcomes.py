"""Every way in which a job can end: what to do for it, and what its project must be told of it in each pool."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import celery
import kombu
from celery import chain, chord

from celery_realtime.events import STATUS_OF_STATE
from tests.matrix import outcome_tasks as tasks
from tests.matrix.stage import CONCURRENCY, Configuration, Play, Told
from tests.waiting import wait_for

POOLS = tuple(CONCURRENCY)
BROKERS = ("redis", "rabbitmq")
#: Neither ends a task that runs, nor keeps to a time limit.
UNINTERRUPTED = ("threads", "solo")


@dataclass(frozen=True)
class End:
    """What a project is told of one job.

    Args:
        states: The states of its statuses, in order. Each RETRY begins an attempt, and so does ``STARTED+1``. One that
            is queued may be missing from what is told: a worker can be so quick that it is no news any more.
        error: A regular expression for the last one's error; None for no error.
        result: The last one's result.
    """

    states: str
    error: str | None = None
    result: Any = None

    @property
    def told(self) -> list[Told]:
        return list(self._told())

    def _told(self) -> Iterator[Told]:
        attempt = 0
        for word in self.states.split():
            state, plus, _ = word.partition("+")
            attempt += 1 if plus or state == "RETRY" else 0
            yield Told(STATUS_OF_STATE[state], state, attempt)

    def fits(self, last: Mapping[str, Any]) -> bool:
        """Tell whether a job's last status is as it should be."""
        error = last["error"]
        right = error is None if self.error is None else error is not None and re.search(self.error, error)
        place = Told(last["status"], last["state"], last["attempt"])
        return bool(right) and place == self.told[-1] and last["result"] == self.result


@dataclass(frozen=True)
class ByPool:
    """Something that differs between the pools."""

    otherwise: Any
    pools: Mapping[str, Any]

    def of(self, pool: str) -> Any:
        return self.pools.get(pool, self.otherwise)


def by_pool(otherwise: Any, **pools: Any) -> ByPool:
    return ByPool(otherwise, pools)


Signals = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Outcome:
    """One way to end.

    Args:
        name: In the name of the test.
        act: Starts the jobs, and does to them what they are to suffer.
        ends: What their project is told: of the job named "job", or of several by name. A tuple leaves a choice.
        late: The signals that the worker must have heard of "job" before the end counts as the end, and how often.
        pools: Where it can happen.
        brokers: Where it can happen.
        env: The worker's environment, where it must be one of its own kind.
        options: The worker's options, likewise.
        never: The brokers and pools where Celery itself cannot be relied on to go on.
        starts: How often "job" may be seen to start in one attempt, where its message is delivered more than once.
        published_again: By pool, the jobs that Celery itself publishes a second time under their id.
        possible: Whether the Celery and the kombu that are installed can do it.
    """

    name: str
    act: Callable[[Play], Any]
    ends: Any
    late: Signals | ByPool = ()
    pools: tuple[str, ...] = POOLS
    brokers: tuple[str, ...] = BROKERS
    env: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    never: tuple[tuple[str, str], ...] = ()
    starts: tuple[int, ...] | ByPool = ()
    published_again: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    possible: bool = True

    def happens(self, broker: str, pool: str) -> bool:
        return self.possible and broker in self.brokers and pool in self.pools and (broker, pool) not in self.never

    def configuration(self, pool: str) -> Configuration:
        return Configuration(pool, tuple(self.env.items()), self.options)

    def ends_in(self, pool: str) -> dict[str, tuple[End, ...]]:
        """Return what may be told of each job."""
        ends = self.ends.of(pool) if isinstance(self.ends, ByPool) else self.ends
        named = ends if isinstance(ends, Mapping) else {"job": ends}
        return {name: _choice(end.of(pool) if isinstance(end, ByPool) else end) for name, end in named.items()}

    def starts_in(self, pool: str) -> tuple[int, ...]:
        return self.starts.of(pool) if isinstance(self.starts, ByPool) else self.starts

    def late_in(self, pool: str) -> Signals:
        return self.late.of(pool) if isinstance(self.late, ByPool) else self.late


def _choice(end: Any) -> tuple[End, ...]:
    return end if isinstance(end, tuple) else (end,)


def success(result: Any = "done", states: str = "PENDING STARTED SUCCESS") -> End:
    return End(states, result=result)


def failure(error: str, states: str = "PENDING STARTED FAILURE") -> End:
    return End(states, error=error)


def send(task: Any, *args: Any, **options: Any) -> Callable[[Play], Any]:
    """Only publish the job."""
    return lambda play: play.start(task, *args, **options)


# -- what is done to jobs -----------------------------------------------------------------------------------------


def send_bad_arguments(play: Play) -> None:
    tasks.celery.send_task(tasks.succeed.name, ("too", "many"), task_id=play.id(), headers=play.header)


def send_unknown(play: Play) -> None:
    tasks.celery.send_task("no.such.task", task_id=play.id(), headers=play.header)


def send_bad_eta(play: Play) -> None:
    headers = {"id": play.id(), "task": tasks.succeed.name, "eta": "once upon a time", "retries": 0}
    play.send_raw(headers, [[], {}, {}])


def send_bad_kwargs(play: Play) -> None:
    play.send_raw({"id": play.id(), "task": tasks.succeed.name, "retries": 0}, [[], "no mapping", {}])


def send_without_task(play: Play) -> None:
    play.send_raw({"id": play.id()}, [[], {}, {}])


def requeue_once(play: Play) -> None:
    play.start(tasks.requeue_once, play.file())


def revoke_known(play: Play) -> None:
    assert play.control.revoke(play.id(), reply=True, limit=1, timeout=10, destination=[play.worker.hostname])
    play.start(tasks.succeed)


def revoke_held(play: Play) -> None:
    play.start(tasks.succeed, countdown=1.0)
    play.control.revoke(play.id())


def revoke_running(play: Play) -> None:
    play.start(tasks.hold, play.file())
    play.wait_running()
    play.control.revoke(play.id())
    let_go(play)


def let_go(play: Play) -> None:
    """Let a job end by itself once the worker has heard what it was told, as far as the pool listens meanwhile."""
    if play.pool != "solo":
        play.heed()
    play.touch()
    play.wait_end()
    play.heed()


def terminate(number: str) -> Callable[[Play], None]:
    def act(play: Play) -> None:
        play.start(tasks.hold, play.file())
        play.wait_running()
        play.control.revoke(play.id(), terminate=True, signal=number)
        if play.pool in UNINTERRUPTED:
            let_go(play)

    return act


RACES = 12


def race_terminate(play: Play) -> None:
    """Terminate jobs about when they end: some before, some after, some in between."""
    for number in range(RACES):
        name = f"race{number}"
        play.start(tasks.last, number * 0.01, name=name)
        play.wait_running(name)
        play.control.revoke(play.id(name), terminate=True)
        play.wait_end(name)
    play.heed()


def hold(task: Any, seconds: float, **options: Any) -> Callable[[Play], Any]:
    """Publish a job that ends by itself after some seconds."""
    return lambda play: play.start(task, play.file(), seconds, **options)


def die(task: Any, how: str = "kill") -> Callable[[Play], None]:
    def act(play: Play) -> None:
        play.start(task, play.file(), how, link_error=tasks.note_error.s().set(task_id=play.id("errback")))
        play.wait_running()
        play.touch()

    return act


def die_once(play: Play) -> None:
    play.start(tasks.die_once, play.file())


def leave(play: Play) -> None:
    play.start(tasks.leave)
    if play.pool == "solo":
        play.wait_worker_ended()


def expire_in_queue(play: Play) -> None:
    """Let a job wait in a queue that nobody reads until it is too late."""
    queue = f"late-{play.project}"
    expires = datetime.now(timezone.utc) + timedelta(seconds=0.2)
    play.start(tasks.succeed, queue=queue, expires=expires)
    wait_for(lambda: datetime.now(timezone.utc) > expires)
    play.control.add_consumer(queue, destination=[play.worker.hostname])
    play.wait_end()
    play.control.cancel_consumer(queue, destination=[play.worker.hostname])
    play.heed()


def fail_in_chain(play: Play) -> None:
    first, second = tasks.succeed.si().set(task_id=play.id("first")), tasks.fail.si().set(task_id=play.id())
    third, fourth = tasks.succeed.si().set(task_id=play.id("third")), tasks.succeed.si().set(task_id=play.id("fourth"))
    chain(first, second, third, fourth).apply_async(headers=play.header)


def fail_in_chord(play: Play) -> None:
    good, bad = tasks.succeed.si().set(task_id=play.id("good")), tasks.fail.si().set(task_id=play.id())
    chord([good, bad], tasks.gather.s().set(task_id=play.id("body"))).apply_async(headers=play.header)


def link(play: Play) -> None:
    play.start(tasks.succeed, link=tasks.note.s().set(task_id=play.id("callback")))


def link_error(task: Any, *args: Any, **options: Any) -> Callable[[Play], Any]:
    """Publish a job that fails, with a job to be run then."""
    return lambda play: play.start(
        task, *args, link_error=tasks.note_error.s().set(task_id=play.id("errback")), **options
    )


def shut_down_warm(play: Play) -> None:
    play.start(tasks.hold, play.file())
    play.wait_running()
    play.end_worker(signal.SIGTERM)
    play.worker.wait_for_log("Warm shutdown")
    play.touch()
    play.wait_worker_ended()


def shut_down_cold(task: Any) -> Callable[[Play], None]:
    def act(play: Play) -> None:
        play.start(task, play.file())
        play.wait_running()
        play.end_worker(signal.SIGQUIT)
        if play.pool == "threads":  # which cannot end its jobs, and waits for them
            play.worker.wait_for_log("Unrecoverable error: NotImplementedError")
            play.touch()
        if play.pool == "solo" and celery.VERSION < (5, 7):  # it has failed the job over this signal, and goes on
            play.wait_end()
            play.end_worker(signal.SIGQUIT)
        play.wait_worker_ended()
        play.touch()
        play.next_worker()

    return act


def shut_down_soft(play: Play) -> None:
    play.start(tasks.hold, play.file())
    play.wait_running()
    play.end_worker(signal.SIGQUIT)
    play.worker.wait_for_log("Initiating Soft Shutdown")
    play.touch()
    play.wait_worker_ended()


JOBS = 9


def send_many(play: Play) -> None:
    for number in range(JOBS):
        play.start(tasks.succeed, name=f"job{number}")


def outlive_visibility(play: Play) -> None:
    """Run a job until Redis has given it out a second time, and let both runs end."""
    play.start(tasks.hold_late, play.file())
    play.wait_signals("prerun", 2)
    play.touch()
    play.wait_signals("postrun", 2)


# -- in this process ----------------------------------------------------------------------------------------------


def apply(task: Any, *args: Any, **options: Any) -> Callable[[Play], None]:
    """Run a job here and now."""

    def act(play: Play) -> None:
        try:
            task.apply(args, task_id=play.id(), headers=play.header, **options)
        except ValueError:
            assert options["throw"]

    return act


def apply_always(task: Any, *args: Any, propagates: bool = False) -> Callable[[Play], None]:
    """Publish a job where all that is published runs at once."""

    def act(play: Play) -> None:
        conf = tasks.celery.conf
        conf.task_always_eager, conf.task_eager_propagates = True, propagates
        try:
            play.start(task, *args)
        except ValueError:
            assert propagates
        finally:
            conf.task_always_eager = conf.task_eager_propagates = False

    return act


# -- the table ----------------------------------------------------------------------------------------------------

BROKEN = failure("^ValueError: broken$")
REVOKED = End("PENDING REVOKED", error="^TaskRevokedError: revoked$")
EXPIRED = End("PENDING REVOKED", error="^TaskRevokedError: expired$")
TERMINATED = End("PENDING STARTED REVOKED", error="^TaskRevokedError: terminated$")
REJECTED = End("PENDING STARTED REJECTED", error="^Reject: no thanks$")
RACE = by_pool((TERMINATED, success()), threads=success(), solo=success())
LET_GO = success("let go")
LOST = End("PENDING STARTED LOST", error="^WorkerShutdown: ")
#: Green threads are cut off before or after they acknowledge, whatever was asked for: the message may come back.
CUT_OFF = (LOST, LET_GO, success("let go", states="PENDING STARTED LOST STARTED SUCCESS"))
WORKER_LOST = failure("^WorkerLostError: ")

#: Up to Celery 5.6, the main process is not told of an exit, and the child is all that reports it.
EXIT_AS_ANY_END = () if celery.VERSION >= (5, 7) else (failure("^SystemExit: 3$"),)
DIED = {"job": WORKER_LOST, "errback": success("noted")}
RETRIED = "PENDING STARTED RETRY STARTED SUCCESS"
EXHAUSTED = "PENDING STARTED RETRY STARTED FAILURE"
NOT_RUN = End("FAILURE", error="^not run: ValueError: broken$")
BODY_NOT_RUN = End("FAILURE", error="^not run: ChordError: Dependency .* raised ValueError\\('broken'\\)$")
UNSTORED = failure("(ConnectionError|OperationalError|ConnectionRefusedError|RuntimeError|BackendStoreError).*")

#: A retry needs the result backend too where green threads are: Celery 5.7 opens its result consumer to publish.
UNPUBLISHED = End("PENDING STARTED REJECTED", error="^RuntimeError: ")

#: Celery 5.7 tells of these once more, from the parent process, without the headers of the job.
TWICE = 2 if celery.VERSION >= (5, 7) else 1
STORED_FAILURE = {"exc_type": "ValueError", "exc_message": ["by hand"], "exc_module": "builtins"}

PLAIN = [
    Outcome("success", send(tasks.succeed), success()),
    Outcome("ignored_result", send(tasks.succeed_unstored), success(None)),
    Outcome("exception", send(tasks.fail), BROKEN),
    Outcome("bad_arguments", send_bad_arguments, failure("^TypeError: .*positional argument")),
    Outcome("unserialisable_result", send(tasks.unserialisable), failure("^EncodeError: ")),
    Outcome("unpicklable_exception", send(tasks.unpicklable), failure("^UnpicklableError: .*held")),
]

RETRIES = [
    Outcome("autoretry", send(tasks.autoretry), success(states=RETRIED)),
    Outcome("retry_at_once", send(tasks.retry_at_once), success(1, states=RETRIED)),
    Outcome("retries_exhausted", send(tasks.exhaust), failure("^MaxRetriesExceededError: ", EXHAUSTED)),
    Outcome(
        "retries_exhausted_with_cause",
        send(tasks.exhaust_with_cause),
        failure("^ConnectionError: never there$", EXHAUSTED),
    ),
    Outcome("retry_then_return", send(tasks.retry_and_return), success("second", RETRIED), (("success", 2),)),
    Outcome("retry_then_raise", send(tasks.retry_and_fail), success("second", RETRIED), (("postrun", 2),)),
]

BY_THEMSELVES = [
    Outcome("ignore", send(tasks.ignore), End("PENDING STARTED IGNORED")),
    Outcome("ignore_as_failure", send(tasks.store_and_ignore, "FAILURE", STORED_FAILURE), failure("^ValueError: by h")),
    Outcome("ignore_as_success", send(tasks.store_and_ignore, "SUCCESS", {"by": "hand"}), success({"by": "hand"})),
    Outcome("ignore_as_custom_state", send(tasks.store_and_ignore, "MINE", {}), End("PENDING STARTED IGNORED")),
    Outcome("reject", send(tasks.reject), REJECTED, (("failure", TWICE - 1),)),
    Outcome("reject_late_ack", send(tasks.reject_late), REJECTED, (("failure", TWICE - 1),)),
    Outcome(
        "reject_and_requeue",
        requeue_once,
        success("second run"),
        (("postrun", 2),),
        # Where each start is in a process of its own, the first may be heard of when the second one has begun.
        starts=by_pool((2,), prefork=(1, 2)),
    ),
    Outcome("replaced_by_task", send(tasks.replace_with_task), success("replacement"), (("postrun", 2),)),
    Outcome("replaced_in_second_try", send(tasks.replace_second_try), success("replacement", RETRIED)),
    Outcome(
        "replaced_by_chain_in_second_try",
        send(tasks.replace_second_try_with_chain),
        success(states="PENDING STARTED RETRY STARTED RETRY STARTED SUCCESS"),
    ),
    Outcome("replaced_by_chain", send(tasks.replace_with_chain), success("replacement"), (("postrun", 2),)),
    Outcome("replaced_by_group", send(tasks.replace_with_group), success(["one", "two"]), (("postrun", 2),)),
    Outcome("replaced_by_failing_chain", send(tasks.replace_with_failing_chain), failure("^not run: ValueError: brok")),
]

REVOKES = [
    Outcome("revoked_before_start", revoke_known, REVOKED),
    Outcome("revoked_while_held", revoke_held, REVOKED),
    Outcome("revoked_while_running", revoke_running, LET_GO),
    Outcome(
        "terminated",
        terminate("SIGTERM"),
        by_pool(TERMINATED, threads=LET_GO, solo=LET_GO),
        by_pool((("revoked", 1), ("postrun", 1)), threads=(), solo=()),
    ),
    Outcome(
        "terminated_by_sigkill",
        terminate("SIGKILL"),
        by_pool(TERMINATED, threads=LET_GO, solo=LET_GO),
        by_pool((("revoked", 1),), threads=(), solo=()),
    ),
    Outcome(
        "terminated_at_the_end",
        race_terminate,
        {
            f"race{number}": by_pool((TERMINATED, success()), threads=success(), solo=success())
            for number in range(RACES)
        },
    ),
    Outcome("expired_in_queue", expire_in_queue, EXPIRED, brokers=("redis",)),
    Outcome("expired_while_held", send(tasks.succeed, countdown=1.0, expires=0.5), EXPIRED),
]

LIMITS = [
    Outcome(
        "soft_time_limit",
        hold(tasks.hold, 2.5, soft_time_limit=1),
        by_pool(LET_GO, prefork=failure("^SoftTimeLimitExceeded: ")),
    ),
    Outcome(
        "soft_time_limit_caught",
        hold(tasks.catch_soft_limit, 2.5, soft_time_limit=1),
        by_pool(LET_GO, prefork=success("caught")),
    ),
    *(
        Outcome(
            f"hard_time_limit{suffix}",
            hold(task, 2.5, time_limit=1),
            by_pool(LET_GO, prefork=failure("^TimeLimitExceeded: "), gevent=failure("^TimeLimitExceeded: ")),
            by_pool((), prefork=(("failure", TWICE),), gevent=(("failure", 1),)),
        )
        for suffix, task in (("", tasks.hold), ("_late_ack", tasks.hold_late))
    ),
]

DEATHS = [
    Outcome("child_killed", die(tasks.die), DIED, pools=("prefork",)),
    Outcome("child_exits", die(tasks.die, "exit"), DIED, pools=("prefork",)),
    Outcome("child_killed_late_ack", die(tasks.die_late), DIED, pools=("prefork",)),
    Outcome(
        "child_killed_redelivered",
        die_once,
        success("second run"),
        (("success", 1),),
        pools=("prefork",),
        starts=(1, 2),  # the first process may end before it has said that the job runs
    ),
    Outcome(
        "sys_exit",
        leave,
        # Its process may end before it has said that the job runs.
        by_pool(
            failure("^SystemExit: 3$"),
            prefork=(WORKER_LOST, failure("^WorkerLostError: ", "PENDING FAILURE"), *EXIT_AS_ANY_END),
        ),
        by_pool((("postrun", 1),), prefork=(("postrun", 1),) if EXIT_AS_ANY_END else (("failure", 1),)),
    ),
]

MESSAGES = [
    Outcome("unregistered_task", send_unknown, failure("^NotRegistered: no.such.task$", "PENDING FAILURE")),
    Outcome("bad_eta", send_bad_eta, End("REJECTED", error="^InvalidTaskError: ")),
    Outcome("bad_kwargs", send_bad_kwargs, failure(".", "FAILURE"), (("internal_error", 1),)),
    Outcome("no_task_header", send_without_task, End("REJECTED", error=".")),
]

CANVAS = [
    Outcome(
        "chain_fails",
        fail_in_chain,
        {"first": success(), "job": BROKEN, "third": NOT_RUN, "fourth": NOT_RUN},
    ),
    Outcome("chord_header_fails", fail_in_chord, {"good": success(), "job": BROKEN, "body": BODY_NOT_RUN}),
    Outcome("callback", link, {"job": success(), "callback": success("noted done")}),
    Outcome("errback", link_error(tasks.fail), {"job": BROKEN, "errback": success("noted")}),
    Outcome(
        "errback_of_hard_time_limit",
        link_error(tasks.last, 2.5, time_limit=1),
        by_pool(
            {"job": failure("^TimeLimitExceeded: "), "errback": success("noted")},
            threads=success(),
            solo=success(),
            eventlet=success(),
        ),
        # Its parent process handles the failure once more, and calls its errbacks once more.
        published_again={"prefork": ("errback",)},
    ),
]

#: Up to 5.4, a cold shutdown fails what runs instead of giving it back, in prefork alone, and there is no soft one.
GIVES_BACK = celery.VERSION >= (5, 5)
CUTS_OFF = POOLS if GIVES_BACK else ("prefork",)
FAILED_WITH_WORKER = failure("^WorkerLostError: ")

#: These end their worker.
SHUTDOWNS = [
    Outcome("warm_shutdown", shut_down_warm, LET_GO),
    Outcome(
        "cold_shutdown",
        shut_down_cold(tasks.hold),
        by_pool(
            CUT_OFF,
            prefork=LOST if GIVES_BACK else FAILED_WITH_WORKER,
            threads=LET_GO,
            solo=failure("^NotImplementedError"),
        ),
        pools=CUTS_OFF,
    ),
    Outcome(
        "cold_shutdown_late_ack",
        shut_down_cold(tasks.hold_late),
        by_pool(
            CUT_OFF,
            prefork=LET_GO if GIVES_BACK else FAILED_WITH_WORKER,
            threads=LET_GO,
            solo=failure("^NotImplementedError"),
        ),
        pools=CUTS_OFF,
    ),
]

#: These need a worker of their own.
APART = [
    Outcome(
        "soft_shutdown",
        shut_down_soft,
        # It waits in whatever runs when the signal comes: in solo for its only thread, in green pools in the hub, which
        # cannot wait, or now and then in the job itself, which is cut off then.
        by_pool(LET_GO, solo=failure("^NotImplementedError"), eventlet=CUT_OFF, gevent=CUT_OFF),
        by_pool((), prefork=(("retry", 1),)),
        env={"SOFT_SHUTDOWN": "3"},
        possible=GIVES_BACK,
    ),
    *(
        Outcome(
            f"backend_down_{name}",
            send(task),
            end,
            late,
            env={"CELERY_RESULT_BACKEND": "stopped redis"},
            never=() if name == "success" else (("rabbitmq", "solo"),),  # this worker ends over it, or stands still
        )
        for name, task, end, late in (
            ("success", tasks.succeed, UNSTORED, (("internal_error", 1),)),
            ("failure", tasks.fail, UNSTORED, (("internal_error", 1),)),
            (
                "retry",
                tasks.retry_at_once,
                by_pool(End(EXHAUSTED, error=UNSTORED.error), eventlet=UNPUBLISHED, gevent=UNPUBLISHED),
                by_pool((("internal_error", 2),), eventlet=(("postrun", 1),), gevent=(("postrun", 1),)),
            ),
        )
    ),
    Outcome(
        "child_recycled",
        send_many,
        {f"job{number}": success() for number in range(JOBS)},
        pools=("prefork",),
        options=("--max-tasks-per-child", "2"),
    ),
    Outcome(
        "visibility_timeout",
        outlive_visibility,
        LET_GO,
        pools=("prefork", "threads"),
        brokers=("redis",),
        starts=(2,),
        env={
            "TRANSPORT_OPTIONS": json.dumps(
                {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
            )
        },
        possible=kombu.VERSION >= (5, 6),  # before, it looks each five minutes only
    ),
]

#: These need no worker.
EAGER = [
    Outcome("applied", apply(tasks.succeed), success(states="STARTED SUCCESS")),
    Outcome("applied_fails", apply(tasks.fail), failure("^ValueError: broken$", "STARTED FAILURE")),
    Outcome("applied_throws", apply(tasks.fail, throw=True), failure("^ValueError: broken$", "STARTED FAILURE")),
    Outcome("applied_retries", apply(tasks.retry_at_once), success(1, "STARTED STARTED+1 SUCCESS")),
    Outcome("always_eager", apply_always(tasks.succeed), success(states="STARTED SUCCESS")),
    Outcome("always_eager_fails", apply_always(tasks.fail), failure("^ValueError: broken$", "STARTED FAILURE")),
    Outcome(
        "always_eager_throws",
        apply_always(tasks.fail, propagates=True),
        failure("^ValueError: broken$", "STARTED FAILURE"),
    ),
    Outcome("always_eager_retries", apply_always(tasks.autoretry), success(states="STARTED STARTED+1 SUCCESS")),
]

OUTCOMES = [*PLAIN, *RETRIES, *BY_THEMSELVES, *REVOKES, *LIMITS, *DEATHS, *MESSAGES, *CANVAS, *SHUTDOWNS, *APART]
