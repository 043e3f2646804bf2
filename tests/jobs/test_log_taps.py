"""What is logged and printed reaches the log of its job alone, and the application hears what it heard before."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from celery_realtime.jobs.log_taps import Output, taps


class Recorded:
    """The log of a job."""

    def __init__(self, level: int = logging.INFO) -> None:
        self.level = level
        self.records: list[logging.LogRecord] = []
        self.prints: list[tuple[str, str]] = []

    def wants(self, _logger: logging.Logger, level: int) -> bool:
        return level >= self.level

    def take(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        logging.getLogger("studio.log").critical("what a log logs is for nobody")
        print("nor is what it prints")

    def take_print(self, output: str, text: str) -> None:
        self.prints.append((output, text))
        print("in a circle")

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def printed(self) -> str:
        return "".join(text for _, text in self.prints)


@contextmanager
def hearing(log: Recorded | None) -> Iterator[Any]:
    token = taps.begin(log)
    try:
        yield log
    finally:
        taps.end(log, token)


@contextmanager
def replaced() -> Iterator[dict[str, Any]]:
    """Put files into the places of standard output and error. Between fixtures and tests, pytest does so too."""
    before, files = (sys.stdout, sys.stderr), {"stdout": io.StringIO(), "stderr": io.StringIO()}
    sys.stdout, sys.stderr = files["stdout"], files["stderr"]
    try:
        yield files
    finally:
        sys.stdout, sys.stderr = before


class Handler(logging.Handler):
    """Keeps what a handler of the application gets, and logs and prints meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        if record.name != "studio.handler":
            logging.getLogger("studio.handler").info("from a handler")
        print("a handler prints")


@pytest.fixture
def handler() -> Iterator[Handler]:
    """A handler of the root logger, whose level is WARNING."""
    handler, root = Handler(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


# -- records --------------------------------------------------------------------------------------------------------


def test_the_applications_handlers_hear_what_they_heard_and_the_job_what_it_wants(handler: Handler) -> None:
    log, logger = Recorded(), logging.getLogger("studio.plain")
    with hearing(log):
        for say in (logger.debug, logger.info, logger.warning):
            say("said by %s", say.__name__)
        assert (logger.isEnabledFor(logging.INFO), logger.isEnabledFor(logging.DEBUG)) == (True, False)
    logger.info("after")
    logger.warning("after, too")
    assert log.messages == ["said by info", "said by warning"]
    own = "what a log logs is for nobody"
    assert handler.messages == [own, "said by warning", own, "after, too"]
    assert not logger.isEnabledFor(logging.INFO)
    assert {record.filename for record in log.records} == {"test_log_taps.py"}


def test_a_logger_that_does_not_propagate_works_as_before(handler: Handler) -> None:
    log, logger, own = Recorded(), logging.getLogger("studio.apart"), Handler()
    logger.propagate = False
    logger.addHandler(own)
    with hearing(log):
        logger.warning("here")
    assert (log.messages, own.messages) == (["here"], ["here"])
    assert "here" not in handler.messages


def test_what_a_filter_of_a_logger_drops_is_dropped_and_what_a_handler_has_changed_is_changed() -> None:
    log, logger = Recorded(), logging.getLogger("studio.filtered")

    class Redact(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg = record.msg.replace("secret", "***")

    logger.addHandler(Redact())
    logger.addFilter(lambda record: "dropped" not in record.msg)
    with hearing(log):
        logger.warning("a secret")
        logger.warning("dropped")
    assert log.messages == ["a ***"]


def test_a_record_from_elsewhere_is_handled_whatever_the_level_of_its_logger_is(handler: Handler) -> None:
    log, logger = Recorded(), logging.getLogger("studio.elsewhere")
    there = logging.makeLogRecord({"name": logger.name, "levelno": logging.INFO, "msg": "there", "process": 1})
    with hearing(log):
        logger.handle(there)
    assert "there" in handler.messages
    assert log.messages == ["there"]


def test_an_exception_of_a_handler_comes_where_it_came(handler: Handler) -> None:
    class Broken(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            raise LookupError("a handler")

    log, logger = Recorded(), logging.getLogger("studio.broken")
    logger.addHandler(Broken())
    with hearing(log):
        with pytest.raises(LookupError):
            logger.warning("first")
        logging.getLogger("studio.plain").warning("second")
    assert log.messages == ["second"]


def test_there_is_no_handler_of_ours() -> None:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    with hearing(Recorded()):
        assert root.handlers == before
        assert logging.lastResort is not None


# -- whose it is ----------------------------------------------------------------------------------------------------


def test_two_jobs_at_once_have_each_its_own() -> None:
    with replaced() as outputs:
        logs, turns = [Recorded(), Recorded()], threading.Barrier(2)

        def work(number: int) -> None:
            with hearing(logs[number]):
                for turn in range(3):
                    turns.wait(60)
                    logging.getLogger("studio.two").warning("%d %d", number, turn)
                    sys.stdout.write(f"{number} {turn}\n")
                turns.wait(60)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, log in enumerate(logs):
            assert log.messages == [f"{number} {turn}" for turn in range(3)]
            assert log.printed == "".join(f"{number} {turn}\n" for turn in range(3))
        assert sys.stdout is outputs["stdout"]


def test_coroutines_and_their_threads_are_their_jobs() -> None:
    with replaced():
        logs = [Recorded(), Recorded()]

        async def work(log: Recorded, number: int) -> None:
            with hearing(log):
                for _ in range(3):
                    await asyncio.sleep(0)
                    logging.getLogger("studio.async").warning("%d", number)
                await asyncio.to_thread(print, number)

        async def both() -> None:
            await asyncio.gather(work(logs[0], 0), work(logs[1], 1))

        asyncio.run(both())
        for number, log in enumerate(logs):
            assert log.messages == [f"{number}"] * 3
            assert log.printed == f"{number}\n"


def test_a_job_within_a_job_has_its_own_and_one_that_is_not_captured_none() -> None:
    with replaced():
        outer, inner, logger = Recorded(), Recorded(), logging.getLogger("studio.nested")
        with hearing(outer):
            print("1")
            with hearing(inner):
                print("2")
                logger.warning("2")
            with hearing(None):
                print("3")
                logger.warning("3")
            print("4")
        assert (outer.printed, outer.messages) == ("1\n4\n", [])
        assert (inner.printed, inner.messages) == ("2\n", ["2"])


def test_the_child_of_a_fork_goes_on() -> None:
    with replaced():
        log = Recorded()
        with hearing(log):
            print("before")
            child = os.fork()
            if not child:
                print("in the child")
                logging.getLogger("studio.fork").warning("there")
                os._exit(0 if (log.printed, log.messages) == ("before\nin the child\n", ["there"]) else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert log.printed == "before\n"


# -- prints ---------------------------------------------------------------------------------------------------------


def test_standard_output_and_error_are_replaced_only_while_a_job_is_captured() -> None:
    with replaced() as outputs:
        log = Recorded()
        with hearing(None):
            assert sys.stdout is outputs["stdout"]
        with hearing(log):
            assert type(sys.stdout) is Output
            print("out", 1, end=";")
            print("err", file=sys.stderr)
        assert (sys.stdout, sys.stderr) == (outputs["stdout"], outputs["stderr"])
        assert log.prints == [("stdout", text) for text in ("out", " ", "1", ";")] + [
            ("stderr", "err"),
            ("stderr", "\n"),
        ]
        assert outputs["stderr"].getvalue() == "err\n"
        assert outputs["stdout"].getvalue().replace("in a circle\n", "") == "out 1;"


def test_what_an_application_puts_there_itself_is_left_alone() -> None:
    with replaced():
        log, own = Recorded(), io.StringIO()
        with hearing(log):
            with contextlib.redirect_stdout(own):
                print("for the task itself")
            print("for all")
            sys.stdout = own
        assert sys.stdout is own
        assert (own.getvalue(), log.printed) == ("for the task itself\n", "for all\n")


def test_a_second_job_finds_the_output_replaced_and_the_last_one_puts_it_back() -> None:
    with replaced() as outputs:
        first, second = taps.begin(one := Recorded()), taps.begin(other := Recorded())
        first_output = sys.stdout
        taps.end(other, second)
        assert sys.stdout is first_output
        taps.end(one, first)
        assert sys.stdout is outputs["stdout"]
        print("later", file=first_output)  # whoever has kept it writes on
        assert outputs["stdout"].getvalue().endswith("later\n")


def test_an_output_is_what_is_under_it() -> None:
    raw = io.BytesIO()
    beneath = io.TextIOWrapper(raw, encoding="utf-8", line_buffering=True)
    output, log = Output(beneath, "stdout"), Recorded()
    token = taps.begin(log)
    try:
        assert output.write("text\n") == 5
        output.writelines(["a", "b\n"])
        output.flush()
        output.buffer.write(b"bytes \xff\n")
        output.buffer.flush()
        assert (output.encoding, output.isatty(), output.closed, output.line_buffering) == ("utf-8", False, False, True)
        output.reconfigure(line_buffering=False)
        assert beneath.line_buffering is False
        with pytest.raises(TypeError):
            output.write(b"no text")
        with pytest.raises(AttributeError):
            output.nothing_of_the_kind  # noqa: B018
        with pytest.raises(io.UnsupportedOperation):
            output.fileno()
        output.mode = "w"
        assert beneath.mode == "w"
        del output.mode
        assert list(output) == []
        with output as entered:
            assert entered is output
    finally:
        taps.end(log, token)
    assert beneath.closed
    with pytest.raises(ValueError, match="closed"):
        output.write("too late")
    assert log.printed == "text\nab\n"
    assert "over <_io.TextIOWrapper" in repr(output)


def test_an_output_that_cannot_be_copied_says_so() -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(Output(io.TextIOWrapper(io.BytesIO()), "stdout"))
    with pytest.raises(AttributeError):
        Output.__new__(Output).encoding  # noqa: B018


def test_bytes_are_shown_where_what_is_under_takes_them() -> None:
    class Lenient(io.StringIO):
        def write(self, text: Any) -> int:
            return len(text)

    log, output = Recorded(), Output(Lenient(), "stdout")
    with hearing(log):
        assert output.write(b"bytes \xff") == 7
    assert log.printed == "bytes �"


def test_without_an_output_there_is_nothing_to_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with hearing(Recorded()):
        print("nowhere")
        assert sys.stdout is None


def test_an_output_that_logs_what_is_printed_does_not_say_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class ToLogger(io.StringIO):
        def write(self, text: str) -> int:
            logging.getLogger("studio.output").warning(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", ToLogger())
    log = Recorded()
    with hearing(log):
        print("once", end="")
    assert (log.printed, log.messages) == ("once", [])


def test_a_handler_that_writes_to_standard_error_does_not_say_it_twice() -> None:
    with replaced() as outputs:
        log, logger = Recorded(), logging.getLogger("studio.stream")
        logger.propagate = False  # pytest's own handler raises
        with hearing(log):
            logger.addHandler(logging.StreamHandler(sys.stderr))
            logger.warning("once")
            logger.warning("%d", "no number")  # of which the handler complains there
        assert log.prints == []
        assert outputs["stderr"].getvalue().startswith("once\n--- Logging error ---")
