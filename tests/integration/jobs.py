"""A Celery app with the extension, and one task of each kind that the tests need."""

from __future__ import annotations

import contextvars
import ctypes
import logging
import multiprocessing
import os
import signal
import ssl
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from celery import Celery, Task, shared_task, signals
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger
from celery.worker import state
from celery.worker.control import control_command

from celery_realtime import JobCancelled, Realtime, get_progress_tracker

SECRET = "a secret of the tests"
PR_SET_PDEATHSIG = 1

if "DJANGO_SETTINGS_MODULE" in os.environ:
    import django

    django.setup()

celery = Celery("jobs")
celery.conf.update(broker_connection_retry_on_startup=True, result_extended=True, task_send_sent_event=False)


def verified_by(authority: str) -> dict[str, Any]:
    """Return Celery's options for a RabbitMQ behind TLS whose certificate an authority has signed."""
    return {"ca_certs": authority, "cert_reqs": ssl.CERT_REQUIRED}


celery.conf.worker_pool_restarts = "POOL_RESTARTS" in os.environ
if "REDIRECT" in os.environ:
    celery.conf.worker_redirect_stdouts = celery.conf.worker_hijack_root_logger = os.environ["REDIRECT"] == "on"
if "SOFT_SHUTDOWN" in os.environ:
    celery.conf.worker_soft_shutdown_timeout = float(os.environ["SOFT_SHUTDOWN"])
if "BROKER_AUTHORITY" in os.environ:
    celery.conf.broker_use_ssl = verified_by(os.environ["BROKER_AUTHORITY"])
if "NAMESAKES" in os.environ:
    celery.conf.control_queue_exclusive = False  # with Celery's default, RabbitMQ refuses a second worker of one name
if "START_METHOD" in os.environ:
    celery.conf.worker_pool_start_method = os.environ["START_METHOD"]
PLACE = {"master_name": "MASTER_NAME", "global_keyprefix": "KEY_PREFIX"}
place = {option: os.environ[name] for option, name in PLACE.items() if name in os.environ}
if place:
    celery.conf.broker_transport_options = celery.conf.result_backend_transport_options = place

realtime = Realtime(
    celery,
    secret_key=SECRET,
    progress_interval=float(os.environ.get("PROGRESS_INTERVAL", "0.1")),
    wire=os.environ.get("WIRE", "frames"),
    shards=int(os.environ.get("SHARDS", "1")),
    history_size=int(os.environ.get("HISTORY_SIZE", "1000")),
    health_file=os.environ.get("HEALTH_FILE"),
    lost_after=float(os.environ.get("LOST_AFTER", "30")),
    stream_interval=float(os.environ.get("STREAM_INTERVAL", "0.04")),
    **({"history_url": None} if os.environ.get("HISTORY") == "off" else {}),
    **({"history_url": os.environ["HISTORY_URL"]} if "HISTORY_URL" in os.environ else {}),
    **({"url": os.environ["REALTIME_URL"]} if "REALTIME_URL" in os.environ else {}),
    metrics="METRICS" in os.environ,
    metrics_port=int(os.environ["METRICS_PORT"]) if "METRICS_PORT" in os.environ else None,
)


if "STUCK" in os.environ:

    @signals.task_failure.connect(weak=False)
    def be_stuck(**_: Any) -> None:
        """Keep a worker's main process from doing more when it has reported the failure of a job."""
        if multiprocessing.current_process().name == "MainProcess" and os.getpid() == MAIN:
            Path(os.environ["STUCK"]).touch()
            time.sleep(120)  # noqa: TID251

    MAIN = os.getpid()


@control_command()
def cut_off(_: Any) -> dict[str, str]:
    """End the worker as an application does that embeds it: as at a SIGQUIT with Celery 5.4, nothing is given back."""
    state.should_terminate = 1
    return {"ok": "cut off"}


class OwnBase(Task):  # type: ignore[misc]
    """A user's own base class."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Override a hook without calling super()."""


@celery.task(bind=True)
def count(self: Any, steps: int = 5, pause: float = 0.02) -> dict[str, int]:
    for _ in self.track(range(steps), "Counting"):
        time.sleep(pause)  # noqa: TID251
    return {"counted": steps}


@celery.task(bind=True, keep_messages=True, label="Note {1}")
def note(self: Any, path: str, text: Any, *, fails: int = 0) -> Any:
    """Write a line into a file; fail at first, if that is wanted, and be tried again."""
    if self.request.retries < fails:
        raise self.retry((path, "changed"), {"fails": fails}, exc=ValueError("not yet"), countdown=0)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return text


@celery.task(keep_messages=True)
def note_all(texts: list[Any], path: str) -> str:
    return str(note.run(path, "+".join(map(str, texts))))


@celery.task(bind=True)
def work(self: Any, progress: float, message: str | None = None) -> str:
    self.update_progress(progress, message)
    return "worked"


@celery.task(bind=True)
def hold(self: Any, path: str, seconds: float = 20.0) -> str:
    """Say that it runs, and run until a file appears."""
    self.update_progress(10, "holding")
    deadline = time.monotonic() + seconds
    while not os.path.exists(path) and time.monotonic() < deadline:  # noqa: PTH110
        time.sleep(0.01)  # noqa: TID251
    return "let go"


@celery.task(bind=True)
def say_and_return(self: Any, lines: int = 1) -> str:
    """Say something just before it returns."""
    self.update_progress(90, "nearly done")
    for number in range(lines):
        self.emit("line", {"number": number})
    return "said"


@celery.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def die_once(self: Any, path: str) -> str:
    """Come to 80 percent and kill the process that runs it; the second time, count on from the beginning."""
    if Path(path).exists():
        for percent in (10, 20, 30):
            self.update_progress(percent)
            time.sleep(0.2)  # noqa: TID251
        return "survived"
    Path(path).touch()
    self.update_progress(80)
    self.app.realtime.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@celery.task(bind=True, acks_late=True)
def give_back_once(self: Any, path: str) -> str:
    """Come to 80 percent and have the message delivered again; the second time, come to 20 and return."""
    if Path(path).exists():
        self.update_progress(20)
        return "the second time"
    Path(path).touch()
    self.update_progress(80)
    raise Reject("later", requeue=True)


@celery.task
def die() -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


class KilledAfterwards(Task):  # type: ignore[misc]
    """Its process is killed when its result is in the backend, and nothing is reported yet."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Be killed at once, or wait for somebody to do it."""
        if args:
            Path(args[0]).touch()
            time.sleep(60)  # noqa: TID251
        os.kill(os.getpid(), signal.SIGKILL)


@celery.task(base=KilledAfterwards)
def succeed_and_die(path: str | None = None) -> dict[str, int]:
    return {"made": 1}


@celery.task(bind=True, cancellable=True)
def patient(self: Any, path: str, seconds: float = 20.0) -> str:
    """Look often enough to end by itself when it is cancelled, and tidy up then."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            self.update_progress(10, "patient")
            time.sleep(0.02)  # noqa: TID251
    except JobCancelled:
        with open(path, "w") as file:  # noqa: PTH123
            file.write("tidied up")
        raise
    return "nobody minded"


@celery.task(bind=True, cancellable=True, acks_late=True)
def patient_late(self: Any, path: str, seconds: float = 20.0) -> str:
    """Do as ``patient`` does, and let the worker fetch nothing for later."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        self.update_progress(10, "patient")
        time.sleep(0.02)  # noqa: TID251
    return "nobody minded"


@celery.task(bind=True, acks_late=True)
def hold_late(self: Any, path: str, seconds: float = 20.0) -> str:
    """Hold, and be delivered again when the worker dies."""
    return str(hold.run(path, seconds))


@celery.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def hold_or_go_back(self: Any, path: str, seconds: float = 20.0) -> str:
    """Hold, and have the worker give the message back if this process dies."""
    return str(hold.run(path, seconds))


@celery.task(bind=True, acks_late=True)
def end_differently(self: Any, folder: str) -> str:
    """Wait for a file that says how to end: at first for one, and for another when it is delivered again."""
    turn = "second" if self.request.delivery_info["redelivered"] else "first"
    if sys.platform == "linux":  # there Celery has children killed with their main process, and nowhere else
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    self.update_progress(10, turn)
    says, deadline = Path(folder) / turn, time.monotonic() + 60
    while not says.exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: TID251
    if says.read_text() == "fail":
        raise ValueError(turn)
    return turn


@celery.task(bind=True)
def hold_and_sign(self: Any, path: str, trace: str) -> str:
    """Hold, and leave a file behind."""
    hold.run(path, 60.0)
    Path(trace).touch()
    return "let go"


@celery.task(bind=True, acks_late=True)
def hold_late_and_sign(self: Any, path: str, trace: str) -> str:
    """Do the same, and be delivered again if the worker is cut off."""
    return str(hold_and_sign.run(path, trace))


@celery.task(bind=True, stall_after=0.5)
def hold_twice(self: Any, path: str) -> str:
    """Report, hold, report once more, and hold again."""
    self.update_progress(10, "first")
    hold.run(f"{path}-1")
    self.update_progress(60, "again")
    return str(hold.run(f"{path}-2"))


@celery.task(bind=True)
def fail(self: Any) -> None:
    self.update_progress(40, "about to fail")
    raise ValueError("nothing\nworks")


@celery.task(bind=True)
def report_and_abort(self: Any) -> None:
    """End in a state of the user's own."""
    self.update_progress(40, "about to be aborted")
    self.update_state(state="ABORTED", meta={"by": "hand"})
    raise Ignore


@celery.task(bind=True, max_retries=5)
def retry(self: Any, times: int = 2) -> int:
    if self.request.retries < times:
        raise self.retry(exc=ConnectionError(f"try {self.request.retries}"), countdown=0)
    return int(self.request.retries)


@celery.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=False, default_retry_delay=0, max_retries=1)
def exhaust(self: Any) -> None:
    raise ConnectionError("never there")


@celery.task
def leave_trace(path: str, text: str) -> None:
    """Write into a file that it has run."""
    with open(path, "a") as file:  # noqa: PTH123
        file.write(text)


@celery.task
def add(x: int, y: int) -> int:
    return x + y


@celery.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@celery.task
def total_counted(counts: list[dict[str, int]]) -> int:
    return sum(count["counted"] for count in counts)


@celery.task
def note_error(failed: str) -> str:
    return f"noted {failed}"


@celery.task
def named(project_id: str) -> str:
    return project_id


@celery.task(bind=True)
def hold_named(self: Any, path: str, project_id: str) -> str:
    """Report, and hold, with the project as an argument."""
    self.update_progress(10, "holding")
    return str(hold.run(path))


@celery.task(bind=True)
def announce(self: Any, text: str) -> None:
    self.emit("line", {"text": text})


@celery.task(bind=True)
def announce_wrongly(self: Any) -> str:
    try:
        self.emit("line", {"bad": object()})
    except TypeError as error:
        return str(error)
    return "sent"


@celery.task(bind=True)
def plain_state(self: Any, meta: dict[str, Any]) -> None:
    self.update_state(state="PROGRESS", meta=meta)


@celery.task(bind=True)
def track_by_id(self: Any) -> None:
    tracker = get_progress_tracker(self.request.id)
    tracker.min_update_interval = 0
    tracker.set_progress(25, "Downloading")
    tracker.increment_progress(25, "Transcribing")
    tracker.mark_complete("Complete")


@celery.task(bind=True)
def parent(self: Any) -> list[str]:
    """Publish jobs from inside a job, by every way there is."""
    ids = [add.delay(1, 1).id, add.apply_async((2, 2)).id, add.s(3, 3).apply_async().id]
    return [*ids, self.app.send_task(add.name, (4, 4)).id]


@celery.task(bind=True)
def replaced(self: Any) -> None:
    raise self.replace(add.s(20, 22))


@celery.task(bind=True)
def replaced_by_steps(self: Any, path: str) -> None:
    raise self.replace(hold.si(path, 60.0) | add.si(20, 22))


@celery.task(bind=True)
def replaced_elsewhere(self: Any, path: str, queue: str) -> None:
    raise self.replace(hold.si(path, 60.0).set(queue=queue))


@celery.task(bind=True)
def replaced_by_steps_elsewhere(self: Any, path: str, queue: str) -> None:
    raise self.replace(hold.si(path, 60.0).set(queue=queue) | add.si(20, 22).set(queue=queue))


@celery.task(bind=True)
def retried_elsewhere(self: Any, path: str, queue: str) -> str:
    if not self.request.retries:
        raise self.retry(queue=queue, countdown=0)
    self.update_progress(10, "holding")
    return str(hold.run(path, 60.0))


@celery.task
def ignore() -> None:
    raise Ignore("not needed")


@celery.task(bind=True)
def ignore_as_failure(self: Any) -> None:
    self.update_state(state="FAILURE", meta={"exc_type": "ValueError", "exc_message": ["by hand"], "exc_module": "x"})
    raise Ignore("stored by hand")


@celery.task(bind=True)
def reject(self: Any) -> None:
    raise Reject("no thanks", requeue=False)


@celery.task
def large(size: int) -> str:
    return "x" * size


@celery.task
def strange() -> Any:
    return {"when": SECRET, "what": {1, 2}.__len__()}


@shared_task(bind=True)
def shared(self: Any) -> None:
    self.update_progress(50, "shared")


@celery.task(bind=True, base=OwnBase)
def based(self: Any) -> None:
    self.update_progress(50, "based")


@celery.task(bind=True, lazy=False)
def eager_made(self: Any) -> None:
    self.update_progress(50, "eager_made")


class ClassBased(Task):  # type: ignore[misc]
    """A task that is a class."""

    name = "jobs.class_based"

    def run(self) -> None:
        self.update_progress(50, "class_based")


class_based = celery.register_task(ClassBased())


@celery.task
def spin(seconds: float) -> None:
    """Keep the interpreter busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


# What computes for long, seen from greenlets and from threads; a loop would take the processor from other tests.


@celery.task
def occupy(seconds: int) -> None:
    """Let no greenlet run for so long, in one call."""
    ctypes.CDLL(None).sleep(seconds)


@celery.task
def occupy_interpreter(seconds: int) -> None:
    """Keep the interpreter's lock for so long, in one call that lets no thread run."""
    ctypes.PyDLL(None).sleep(seconds)


#: Seconds between two reports of a task that reports busily.
REPORT_PAUSE = 0.002


@celery.task(bind=True)
def report_busily(self: Any, path: str, interval: float | None, how: str) -> int:
    """Report busily until a file is there, computing or sleeping in between, or in a thread; return how often.

    Without an interval of its own the job has that of the settings.
    """
    tracker = get_progress_tracker(self.request.id)
    if interval is not None:
        tracker.min_update_interval = interval
    numbers: list[int] = []

    def report() -> None:
        started = time.monotonic()
        while not os.path.exists(path):  # noqa: PTH110
            elapsed = time.monotonic() - started
            numbers.append(len(numbers) + 1)
            tracker.set_progress(min(elapsed, 99.0), f"report {numbers[-1]}")
            if how == "sleep":
                time.sleep(REPORT_PAUSE)  # noqa: TID251
            while time.monotonic() - started < elapsed + REPORT_PAUSE:
                sum(range(1000))

    if how == "thread":
        thread = threading.Thread(target=report)
        thread.start()
        thread.join()
    else:
        report()
    return len(numbers)


@celery.task(bind=True)
def chatter(self: Any, updates: int = 1000, lines: int = 10) -> float:
    """Report often, and return how many seconds that took."""
    started = time.perf_counter()
    for number in range(updates):
        self.update_progress(100 * number / updates, f"update {number}")
        if number % (updates // lines) == 0:
            self.emit("line", {"number": number})
    return time.perf_counter() - started


@celery.task(bind=True)
def in_stages(self: Any, fails: bool = False) -> None:
    """Go through two stages, of which the second may fail."""
    self.plan_stages({"download": 1, "transcribe": 4})
    with self.stage("download"):
        self.update_progress(50, "half of it")
    with self.stage("transcribe") as stage:
        for _ in stage.track(range(4), "Transcribing"):
            time.sleep(0.02)  # noqa: TID251
            if fails and stage.progress >= 50:
                raise ValueError("no luck")


@celery.task(bind=True)
def count_above(self: Any, times: int = 1) -> None:
    """Count in the metadata of the parent, and of the root."""
    for _ in range(times):
        self.metadata.parent.increment("children")
        self.metadata.root.append("ids", self.request.id)


@celery.task(bind=True, max_retries=1)
def keep_metadata(self: Any, children: int = 0, times: int = 1) -> Any:
    """Change one's own metadata in two attempts, have children change it too, and return what is there."""
    self.metadata.increment("attempts")
    self.metadata.set("state", {"attempt": self.request.retries})
    self.metadata.append("lines", self.request.retries)
    if not self.request.retries:
        raise self.retry(countdown=0)
    for _ in range(children):
        count_above.delay(times)
    self.metadata.delete("lines")
    return {key: self.metadata.get(key) for key in ("attempts", "state", "lines")}


@celery.task(bind=True)
def babble(self: Any, count: int, pause: float) -> int:
    """Say so many things, at a pace."""
    for number in range(count):
        if number % 5:
            self.emit("line", {"number": number})
        else:
            self.update_progress(100 * number / count, f"line {number}")
        time.sleep(pause)  # noqa: TID251
    return count


@celery.task(bind=True)
def chatter_in_threads(self: Any, threads: int = 32, lines: int = 50) -> None:
    """Emit from many threads of one process at the same time."""

    def speak(speaker: int) -> None:
        for number in range(lines):
            realtime.manager.emit_to_project(project, "spoken", {"speaker": speaker, "number": number})

    project = self.request.headers["project_id"]
    speakers = [threading.Thread(target=speak, args=(speaker,)) for speaker in range(threads)]
    for one in speakers:
        one.start()
    for one in speakers:
        one.join()


def _add_up(job_id: str, times: int, *, is_killed: bool = False) -> None:
    for _ in range(times):
        get_progress_tracker(job_id).increment_progress(1)
    if is_killed:
        os.kill(os.getpid(), signal.SIGKILL)


@celery.task(bind=True)
def add_up_in_processes(self: Any, how: str, method: str = "fork") -> None:
    """Have four processes come 20 percent further each, and end at once."""
    context, job_id = multiprocessing.get_context(method), self.request.id
    if how == "executor":
        with ProcessPoolExecutor(4, mp_context=context) as pool:
            list(pool.map(_add_up, [job_id] * 4, [20] * 4))
    elif how == "pool":  # which it ends by SIGTERM
        with context.Pool(4) as processes:
            processes.starmap(_add_up, [(job_id, 20)] * 4)
    else:
        options = {"is_killed": how == "killed"}
        children = [context.Process(target=_add_up, args=(job_id, 20), kwargs=options) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()


@celery.task(bind=True)
def speak_in_process(self: Any, method: str = "fork") -> None:
    """Have a process say something, and end at once."""
    child = multiprocessing.get_context(method).Process(target=self.emit, args=("line", {"number": 1}))
    child.start()
    child.join()


@celery.task(bind=True)
def answer(self: Any, words: int, path: str | None = None, seconds: float = 60.0) -> None:
    """Say so many words in the stream ``answer``, the second half of them when a file has appeared."""
    with self.stream("answer") as out:
        for number in range(words):
            if path is not None and number == words // 2:
                hold.run(path, seconds)
            out.write(f"wörd {number} ")


@celery.task(bind=True, max_retries=5, default_retry_delay=0)
def answer_again(self: Any) -> None:
    """Say which attempt this is, and succeed with the third."""
    with self.stream("answer") as out:
        out.write(f"attempt {self.request.retries}")
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("again"))


def log_in_every_way(number: int, path: str | None = None) -> None:
    """Log and print, in the middle of it wait for a file to appear."""
    logger = logging.getLogger("studio.plain")
    logger.debug("%d logs what is too low", number)
    logger.info("%d logs", number)
    get_task_logger("studio.task").info("%d logs as a task", number)
    print(number, "prints")
    if path is not None:
        hold.run(path)
    print(f"{number} prints to stderr\n{number} in two lines", file=sys.stderr)
    try:
        raise ValueError(f"{number} has failed")
    except ValueError:
        logger.exception("%d logs an exception", number)
    run_here = contextvars.copy_context().run
    thread = threading.Thread(target=run_here, args=(logger.info, "%d logs in a thread", number))
    thread.start()
    thread.join()
    logger.info("%d logs %d", number, "what cannot be filled in")
    print(f"{number} ends", end="")


def logged_in_every_way(number: int) -> list[tuple[str, str, str]]:
    """Return level, logger and message of the log of a job that has done so."""
    unfilled = "TypeError: %d format: a real number is required, not str"
    lines = [
        ("INFO", "studio.plain", "{} logs"),
        ("INFO", "studio.task", "{} logs as a task"),
        ("WARNING", "stdout", "{} prints"),
        ("WARNING", "stderr", "{} prints to stderr"),
        ("WARNING", "stderr", "{} in two lines"),
        ("ERROR", "studio.plain", "{} logs an exception\nValueError: {} has failed"),
        ("INFO", "studio.plain", "{} logs in a thread"),
        ("INFO", "studio.plain", f"%d logs %d (cannot be filled in: {unfilled})"),
        ("WARNING", "stdout", "{} ends"),
    ]
    return [(level, name, text.replace("{}", str(number))) for level, name, text in lines]


@celery.task(capture_logs="INFO")
def log(number: int, path: str | None = None) -> None:
    log_in_every_way(number, path)


@celery.task(capture_logs="INFO")
def log_and_fail(number: int) -> None:
    log_in_every_way(number)
    raise ValueError("as expected")


@celery.task(bind=True, max_retries=5, default_retry_delay=0, capture_logs="INFO")
def log_again(self: Any) -> None:
    """Log which attempt this is, and succeed with the third."""
    print("attempt", self.request.retries)
    if self.request.retries < 2:
        raise self.retry(exc=ValueError("again"))


@celery.task(bind=True, capture_logs="INFO")
def log_and_die(self: Any) -> None:
    """Log something, and be killed when it has been sent."""
    print("the last words")
    self.app.realtime.flush(60)
    os.kill(os.getpid(), signal.SIGKILL)


@celery.task(capture_logs="DEBUG")
def log_in_detail(word: str) -> None:
    """Log what the worker itself does not show, and what it does."""
    for name in ("studio.plain", "celery.task.plain"):
        logging.getLogger(name).debug("%s in detail", word)
    logging.getLogger("studio.plain").info("%s plainly", word)


@celery.task(capture_logs="INFO")
def log_very_much(count: int) -> None:
    for number in range(count):
        print(number)


def _log_in_process(number: int) -> None:
    logging.getLogger("studio.child").info("child %d logs", number)
    print("child", number, "prints")


@celery.task(capture_logs="INFO")
def log_in_processes() -> None:
    """Log and print in processes that this one forks, one after the other."""
    print("parent begins ", end="")
    for number in range(2):
        process = multiprocessing.get_context("fork").Process(target=_log_in_process, args=(number,))
        process.start()
        process.join()
    print("and ends")


@celery.task(bind=True)
def answer_and_die(self: Any) -> None:
    """Say something, and be killed when it has been sent."""
    self.stream("answer").write("the last words")
    self.app.realtime.flush(60)
    os.kill(os.getpid(), signal.SIGKILL)


def _write_rows(out: Any, worker: int, count: int) -> None:
    for number in range(count):
        out.write([worker, number])


@celery.task(bind=True)
def write_in_processes(self: Any, processes: int, count: int) -> None:
    """Write rows here, and in processes that this one forks."""
    with self.stream("rows", kind="json") as out:
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_write_rows, args=(out, k + 1, count)) for k in range(processes)]
        for child in children:
            child.start()
        _write_rows(out, 0, count)
        for child in children:
            child.join()


@celery.task(bind=True)
def write_streams(self: Any, streams: int, count: int, pause: float) -> None:
    """Write so many words to each of so many streams, in turn."""
    opened = [self.stream(f"s{number}") for number in range(streams)]
    for number in range(count):
        for out in opened:
            out.write(f"{number} é ")
        time.sleep(pause)  # noqa: TID251


@celery.task(bind=True)
def tell(self: Any, path: str, seconds: float = 60.0) -> None:
    """Say something in a text, in rows and in a log, and the rest of it when a file has appeared."""
    rows, log = self.stream("rows", kind="json"), self.stream("log", kind="json")
    with self.stream("answer") as out:
        out.write("first line\nsecond \x1b[31m")
        rows.write({"row": 1})
        log.write({"time": "2024-01-15T10:30:00.000Z", "level": "INFO", "logger": "studio", "message": "begun"})
        hold.run(path, seconds)
        out.write("line\nthe end")
        rows.write([None, "ü"])
        log.write(
            {"time": "2024-01-15T10:30:05.000Z", "level": "ERROR", "logger": "studio", "message": "a\nb", "left": 2}
        )
