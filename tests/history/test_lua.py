"""Scripts are loaded from the package, and run in a pipeline whether or not Redis knows them."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celery_realtime.history.lua import Runner, Script, call, command

SCRIPTS = (
    "append",
    "await_stall",
    "hold",
    "note_cancelled",
    "place",
    "read",
    "reap",
    "release",
    "renew",
    "settle",
    "take_access",
)


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis.Redis.from_url(redis_url))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_what_it_includes_and_is_known_by_the_hash_that_redis_gives_it(runner: Runner, name: str) -> None:
    script = Script(name)
    assert "\n-- include:" not in script.source
    assert ("function common.now()" in script.source) == ("common." in script.source)
    assert runner.client.script_load(script.source) == script.sha


def test_a_script_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="nonsense"):
        Script("nonsense").source  # noqa: B018 - reading it is the point


def test_scripts_that_redis_does_not_know_are_loaded_and_the_other_commands_run_once(runner: Runner) -> None:
    runner.client.script_flush()
    calls = [call(Script("release"), ["{k}:1", "{k}:2", "{k}:3"], ["i"]), command("INCR", "count")]
    assert runner.run_all([calls[0], calls[1], calls[0]]) == [1, 1, 1]
    assert runner.run_all(calls) == [1, 2]


def test_what_comes_with_a_script_is_loaded_with_it(runner: Runner) -> None:
    runner.client.script_flush()
    release = Script("release", Script("read"), Script("hold"))
    runner.run(call(release, ["{k}:1", "{k}:2", "{k}:3"], ["i"]))
    known: Any = runner.client.script_exists(*(Script(name).sha for name in ("release", "read", "hold", "renew")))
    assert known == [True, True, True, False]


def test_many_commands_are_one_round_trip(own_redis_url: str) -> None:
    runner = Runner(redis.Redis.from_url(own_redis_url))
    runner.run(command("PING"))
    before: Any = runner.client.info("stats")["total_reads_processed"]  # type: ignore[index]
    runner.run_all([command("INCR", "count")] * 20)
    after: Any = runner.client.info("stats")["total_reads_processed"]  # type: ignore[index]
    assert after - before == 2  # the last one is the question itself


def test_a_refusal_is_the_reply_of_its_command_alone(runner: Runner) -> None:
    runner.run(command("SET", "text", "x"))
    refusal, value = runner.run_all([command("HGET", "text", "y"), command("GET", "text")])
    assert isinstance(refusal, redis.ResponseError)
    assert value == b"x"
    with pytest.raises(redis.ResponseError):
        runner.run(command("HGET", "text", "y"))


def test_no_commands_are_no_round_trip() -> None:
    assert Runner(redis.Redis(port=1)).run_all([]) == []
