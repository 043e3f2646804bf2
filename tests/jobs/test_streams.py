"""What jobs say bit by bit, on a recorder: real tasks, a real outbox, no broker; and who may write it, and how."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import Ignore
from django.utils.functional import lazystr

from celery_realtime import JobCancelled
from celery_realtime.events import Cancellation, job_name
from celery_realtime.jobs.streams import MOST_WRITES, Stream
from celery_realtime.sending.sender import THREAD as SENDER
from tests.recording import Studio
from tests.stream_readers import Reader
from tests.waiting import wait_for

HEADERS = {"project_id": "p"}
names = (f"studio.streams{number}" for number in itertools.count())


@pytest.fixture
def studio() -> Studio:
    return Studio()


def run(studio: Studio, function: Callable[[Any], Any], **options: Any) -> Any:
    """Run a function as a job of project ``p``, and return the eager result."""
    function.__name__ = "body"  # Celery makes a class of that name, which "<lambda>" cannot be
    task = studio.app.task(function, **{"bind": True, "name": next(names), "shared": False, **options})
    return task.apply(headers=HEADERS)


def chunks(studio: Studio, stream: str | None = None) -> list[Any]:
    assert studio.realtime.flush(60)
    return [data for data in studio.wire.named("agent_stream") if stream in (None, data["stream"])]


def read(studio: Studio, stream: str = "answer") -> Reader:
    reader = Reader()
    for data in chunks(studio, stream):
        reader.take(data)
    return reader


# -- writing --------------------------------------------------------------------------------------------------------


def test_what_a_job_writes_is_told_whole_and_before_its_end(studio: Studio) -> None:
    def answer(task: Any) -> None:
        with task.stream("answer") as out:
            for token in ("Hello", ", ", "wörld", ""):
                out.write(token)

    result = run(studio, answer, name="studio.answer")
    assert studio.told() == ["STARTED", "agent_stream", "SUCCESS"]
    [data] = chunks(studio)
    assert data["generation"] > 0
    assert {**data, "generation": 0} == {
        "event": "stream_chunk",
        "job_id": result.id,
        "project_id": "p",
        "stream": "answer",
        "kind": "text",
        "attempt": 0,
        "generation": 0,
        "position": 0,
        "chunk": "Hello, wörld",
        "state": "closed",
        "task": "studio.answer",
    }


def test_items_are_told_as_they_are(studio: Studio) -> None:
    items = [{"a": 1}, ["b"], None, "c\nd", 1.5]

    def rows(task: Any) -> None:
        with task.stream("rows", kind="json") as out:
            for item in items:
                out.write(item)

    run(studio, rows)
    reader = read(studio, "rows")
    assert (reader.value, reader.state) == (items, "closed")


def test_a_text_that_is_translated_later_is_written_as_it_is_now(studio: Studio) -> None:
    def answer(task: Any) -> None:
        with task.stream("answer") as out:
            out.write(lazystr("Hello, "))
            out.write("you")

    run(studio, answer)
    assert read(studio).value == "Hello, you"


def test_a_long_text_comes_in_chunks_and_so_do_many_items() -> None:
    studio, text, rows = Studio(stream_chunk=100), "äöü 123 " * 200, [{"n": number} for number in range(100)]

    def write(task: Any) -> None:
        task.stream("answer").write(text)
        out = task.stream("rows", "json")
        for row in rows:
            out.write(row)

    run(studio, write)
    assert read(studio).value == text
    assert read(studio, "rows").value == rows
    assert max(len(data["chunk"]) for data in chunks(studio, "answer")) == 100
    assert len(chunks(studio, "rows")) >= 8


def test_what_is_written_leaves_while_the_job_runs(studio: Studio) -> None:
    def answer(task: Any) -> None:
        out = task.stream("answer")
        for number in range(3):
            out.write(f"{number} ")
            wait_for(lambda k=number: len(studio.wire.named("agent_stream")) > k)

    run(studio, answer)
    assert read(studio).value == "0 1 2 "
    assert len(chunks(studio)) >= 3


def test_threads_of_a_job_write_one_stream_each_in_its_order(studio: Studio) -> None:
    def answer(task: Any) -> None:
        out = task.stream("answer", kind="json")
        threads = [threading.Thread(target=lambda k=k: [out.write([k, n]) for n in range(500)]) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run(studio, answer)
    told = read(studio).value
    assert sorted(told) == [[k, n] for k in range(4) for n in range(500)]
    for k in range(4):
        assert [n for thread, n in told if thread == k] == list(range(500))


def test_a_stream_may_be_written_in_threads_that_work_for_the_job(studio: Studio) -> None:
    def answer(task: Any) -> None:
        async def both() -> None:
            await asyncio.to_thread(lambda: task.stream("answer").write("from a thread"))

        asyncio.run(both())

    run(studio, answer)
    assert read(studio).value == "from a thread"


def test_more_than_the_thread_that_sends_can_look_at_is_cut_by_the_writer(studio: Studio) -> None:
    count = 2 * MOST_WRITES + 5

    def answer(task: Any) -> None:
        out = task.stream("answer")
        for _ in range(count):
            out.write("x")

    run(studio, answer)
    assert read(studio).value == "x" * count


@pytest.mark.parametrize("kind", ["text", "json"])
def test_long_writes_are_cut_by_the_writer_before_they_fill_the_memory(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    studio = Studio(stream_interval=3600.0, stream_size=100_000)
    studio.wire.down = True

    def answer(task: Any) -> bool:
        out = task.stream("answer", kind=kind)
        for _ in range(300):
            out.write("x" * 5000)
        return out.waiting <= 110_000 and "are let go" in caplog.text

    assert run(studio, answer).get() is True
    studio.wire.down = False


def test_halves_of_pairs_that_are_no_text_are_replaced_and_whole_ones_are_not(studio: Studio) -> None:
    def answer(task: Any) -> None:
        out = task.stream("answer")
        for part in ("a\udc80b", "\ud83d", "\ude00"):
            out.write(part)

    run(studio, answer)
    reader = read(studio)
    assert reader.value in ("a�b😀", "a�b��")
    assert reader.position == len(reader.value)


def test_a_text_of_a_subclass_is_a_text(studio: Studio) -> None:
    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "another"

    run(studio, lambda task: task.stream("answer").write(Name("plain")))
    assert read(studio).value == "plain"


# -- states ---------------------------------------------------------------------------------------------------------


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "closed"), (ValueError("x"), "failed"), (JobCancelled("x"), "cancelled"), (Ignore(), "closed")],
    ids=["none", "error", "cancelled", "ignored"],
)
@pytest.mark.parametrize("in_block", [True, False])
def test_a_stream_ends_as_its_block_or_its_job_does(
    studio: Studio, error: Exception | None, state: str, in_block: bool
) -> None:
    def answer(task: Any) -> None:
        out = task.stream("answer")
        out.write("x")
        if in_block:
            with out:
                if error is not None:
                    raise error
        elif error is not None:
            if isinstance(error, JobCancelled):
                task.backend.mark_as_revoked(task.request.id, "cancelled", request=task.request)
            raise error

    run(studio, answer)
    reader = read(studio)
    if not in_block and isinstance(error, JobCancelled):
        assert reader.state in ("failed", "cancelled", "closed")  # by how Celery takes it
    else:
        assert reader.state == state
    assert reader.value == "x"


def test_a_stream_that_was_closed_takes_nothing_until_it_is_opened_again(studio: Studio) -> None:
    def answer(task: Any) -> None:
        with task.stream("answer") as out:
            out.write("one ")
        assert out.state == "closed"
        with pytest.raises(ValueError, match="the stream 'answer' is closed; open it again"):
            out.write("lost")
        with task.stream("answer") as again:
            assert again is out
            again.write("two")
        out.close("failed")  # it is closed already

    run(studio, answer).get()
    reader = read(studio)
    assert (reader.value, reader.state) == ("one two", "closed")


def test_what_is_written_after_the_end_of_the_job_is_for_nobody(studio: Studio) -> None:
    kept: list[Any] = []

    def answer(task: Any) -> None:
        kept.append(task.stream("answer"))
        kept[0].write("in time")

    run(studio, answer)
    kept[0].write(" and late")
    assert read(studio).value == "in time"


def test_a_stream_without_a_word_is_told_when_it_is_closed(studio: Studio) -> None:
    def answer(task: Any) -> None:
        with task.stream("answer"):
            pass

    run(studio, answer)
    assert [(data["chunk"], data["state"]) for data in chunks(studio)] == [("", "closed")]


def test_a_retry_starts_anew_and_says_so(studio: Studio) -> None:
    def answer(task: Any) -> None:
        with task.stream("answer") as out:
            out.write(f"try {task.request.retries}")
            if task.request.retries < 2:
                raise task.retry(countdown=0, exc=ValueError("again"))

    run(studio, answer, max_retries=5)
    reader = read(studio)
    assert (reader.value, reader.state, reader.starts) == ("try 2", "closed", [0, 1, 2])
    assert [data["state"] for data in chunks(studio)] == ["failed", "failed", "closed"]


# -- who may ---------------------------------------------------------------------------------------------------------


def test_by_a_tracker_too(studio: Studio) -> None:
    def answer(task: Any) -> None:
        tracker = studio.realtime.progress_tracker(task.request.id)
        threading.Thread(target=lambda: tracker.stream("answer").write("by a tracker")).start()
        wait_for(lambda: chunks(studio))

    run(studio, answer)
    assert read(studio).value == "by a tracker"


def test_a_plain_call_only_checks_arguments(studio: Studio) -> None:
    def answer(self: Any) -> None:
        with self.stream("answer") as out:
            out.write("x")
            with pytest.raises(TypeError):
                out.write(5)
        with self.stream("rows", kind="json") as rows:
            rows.write({"a": 1})

    task = studio.app.task(answer, bind=True, name=next(names), shared=False)
    task()
    assert chunks(studio) == []
    studio.realtime.progress_tracker(None).stream("answer").write("x")


def test_a_job_without_a_project_is_counted(studio: Studio) -> None:
    def answer(self: Any) -> None:
        self.stream("answer").write("x")

    studio.app.task(answer, bind=True, name=next(names), shared=False).apply()
    assert chunks(studio) == []
    assert studio.realtime.manager.counts["no_project"] > 0


def test_where_nothing_is_reported_nothing_is_written() -> None:
    studio = Studio(enabled=False)
    run(studio, lambda task: task.stream("answer").write("x"))
    assert studio.wire.sent == []


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda task: task.stream(5), TypeError, "the name of a stream must be a str, not int"),
        (lambda task: task.stream(""), ValueError, "must have 1 to 128 characters, this one has 0"),
        (lambda task: task.stream("x" * 129), ValueError, "this one has 129"),
        (lambda task: task.stream("a\nb"), ValueError, "printable characters only"),
        (lambda task: task.stream("a", kind="bytes"), ValueError, "must be 'text' or 'json', not 'bytes'"),
        (lambda task: task.stream("a").write(b"x"), TypeError, "takes str, not bytes; open it with kind='json'"),
        (lambda task: task.stream("a").write(None), TypeError, "takes str, not NoneType"),
        (lambda task: task.stream("a", "json").write(object()), TypeError, "an item of the stream 'a' cannot be sent"),
        (lambda task: task.stream("a", "json").write(float("nan")), ValueError, "an item of the stream 'a'"),
        (lambda task: task.stream("a", "json").write("x" * 70000), ValueError, "realtime_max_payload allows 65536"),
        (lambda task: task.stream("a").close("gone"), ValueError, "'closed', 'failed' or 'cancelled', not as 'gone'"),
        (lambda task: [task.stream("a"), task.stream("a", "json")], ValueError, "is of kind 'text', not 'json'"),
        (lambda task: [task.stream(f"s{n}") for n in range(101)], ValueError, "at most realtime_streams_per_job=100"),
    ],
)
def test_mistakes_are_errors_at_the_call(
    studio: Studio, call: Callable[[Any], Any], error: type[Exception], words: str
) -> None:
    def answer(task: Any) -> None:
        with pytest.raises(error, match=words):
            call(task)

    run(studio, answer).get()


def test_a_writer_of_a_cancellable_task_learns_that_its_job_is_cancelled(studio: Studio) -> None:
    def answer(task: Any) -> None:
        with task.stream("answer") as out:
            out.write("before")
            cancellations = studio.realtime.running_jobs.cancellations
            cancellations.add(job_name(task.request.id, "p"), Cancellation())
            for _ in iter(int, 1):
                out.write(".")

    result = run(studio, answer, cancellable=True)
    assert result.state == "REVOKED" or isinstance(result.result, JobCancelled)
    reader = read(studio)
    assert reader.value.startswith("before")
    assert reader.state == "cancelled"


# -- what is seen of it ----------------------------------------------------------------------------------------------


def test_event_filter_decides_what_leaves_of_each_chunk() -> None:
    seen: list[Any] = []

    def redact(event: str, project_id: str, payload: Any) -> Any:
        if event != "agent_stream":
            return payload
        seen.append((project_id, payload["stream"], payload["chunk"]))
        if payload["stream"] == "secret" or "drop" in str(payload["chunk"]):
            return None
        chunk = payload["chunk"]
        return {**payload, "chunk": chunk.replace("key", "***") if isinstance(chunk, str) else chunk[:1]}

    studio = Studio(event_filter=redact)

    def answer(task: Any) -> None:
        for stream, text in (("answer", "my key!"), ("secret", "nobody sees it"), ("answer", " drop it")):
            with task.stream(stream) as out:
                out.write(text)
            assert studio.realtime.flush(60)
        with task.stream("rows", kind="json") as rows:
            for number in range(3):
                rows.write(number)

    run(studio, answer).get()
    reader = read(studio)
    assert (reader.value, reader.state) == ("my ***!", "closed")
    assert chunks(studio, "secret") == []
    assert read(studio, "rows").value == [0]
    assert ("p", "answer", "my key!") in seen


# -- outages ---------------------------------------------------------------------------------------------------------


def test_while_the_broker_is_away_chunks_grow_and_nothing_is_lost() -> None:
    studio = Studio(stream_interval=0.001, stream_chunk=10_000)
    studio.wire.down = True

    def answer(task: Any) -> None:
        out = task.stream("answer")
        for number in range(20_000):
            out.write(f"{number} ")
        studio.wire.down = False

    run(studio, answer)
    assert read(studio).value == "".join(f"{number} " for number in range(20_000))


def test_a_part_that_is_put_while_the_one_before_is_settled_does_not_count_as_waiting_for_ever(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    count: Any = Stream.in_flight.fget  # type: ignore[attr-defined]
    writers: list[threading.Thread] = []

    def preempted(stream: Stream) -> int:
        number: int = count(stream)
        if threading.current_thread().name == SENDER and number == 0 and not writers:
            stream.write("later")
            writers.append(threading.Thread(target=stream.send))
            writers[0].start()
            wait_for(lambda: count(stream))
        return number

    monkeypatch.setattr(Stream, "in_flight", property(preempted))

    def answer(task: Any) -> None:
        out = task.stream("answer")
        out.write("first ")
        out.send()
        wait_for(lambda: writers)[0].join(60)
        assert studio.realtime.flush(60)
        wait_for(lambda: count(out) == 0)

    assert run(studio, answer).successful()
    assert read(studio).value == "first later"


def test_what_is_too_much_is_let_go_and_told_by_the_positions(caplog: pytest.LogCaptureFixture) -> None:
    studio = Studio(stream_interval=0.001, stream_chunk=100, stream_size=5000)
    studio.wire.down = True

    def answer(task: Any) -> None:
        out = task.stream("answer")
        for _ in range(200):
            out.write("0123456789" * 50)
        wait_for(lambda: studio.realtime.manager.counts["stream_dropped"])
        studio.wire.down = False

    run(studio, answer)
    told, missing, position = chunks(studio), 0, 0
    for data in told:
        missing += data["position"] - position
        position = data["position"] + len(data["chunk"])
    assert missing == studio.realtime.manager.counts["stream_dropped"] > 0
    assert position == 200 * 500
    assert "are let go, since more than realtime_stream_size=5000 bytes wait" in caplog.text


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_without_a_history_what_a_forked_process_writes_is_not_taken_for_the_parents(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def answer(task: Any) -> None:
        out = task.stream("answer")
        out.write("by the parent")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                out.write("by the child")
                text = "".join(data["chunk"] for data in chunks(studio))
                os.write(writing, f"{text} {'without a history nobody knows its place' in caplog.text}".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        told.append(os.read(reading, 1000).decode())

    run(studio, answer).get()
    assert told[0].endswith("True")
    assert "by the child" not in told[0]
    assert read(studio).value == "by the parent"


def test_sending_in_the_middle_of_sending_as_in_a_signals_handler_sends_nothing_twice() -> None:
    opened: list[Any] = []

    def interrupt(_event: str, _project_id: str, payload: Any) -> Any:
        for out in opened:
            out.send()
        return payload

    studio = Studio(event_filter=interrupt, stream_chunk=3)

    def answer(task: Any) -> None:
        opened.append(task.stream("answer"))
        opened[0].write("once and once")
        opened[0].send()
        opened[0].write(" more")

    run(studio, answer).get()
    assert read(studio).value == "once and once more"
