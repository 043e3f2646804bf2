"""Scripts are loaded from the package, and run in a pipeline whether or not Redis knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis
from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, MovedError, TryAgainError

from celery_realtime.history.lua import Command, Runner, Script, call, command

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


# -- in a cluster ---------------------------------------------------------------------------------------------------


class Nodes:
    """Stand in for the nodes of a cluster: remembers what is run, and replies what it is given."""

    def __init__(self, replies: dict[str, Any], *, is_cluster: bool) -> None:
        self.is_cluster = is_cluster
        self._replies = replies
        self.seen: list[list[Any]] = []

    def recognize(self) -> None:
        """Note that they are."""
        self.is_cluster = True

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies."""
        self.seen.append([one.words[1] for one in commands])
        return [self._replies.get(one.words[1], one.words[1]) for one in commands]


def gets(*keys: str) -> list[Command]:
    return [command("GET", key) for key in keys]


def test_what_has_to_be_first_is_done_on_all_nodes_before_the_rest() -> None:
    nodes = Nodes({}, is_cluster=True)
    runner = Runner(redis.Redis(port=1), nodes)
    assert runner.run_in_turn(gets("a", "b"), gets("c"), gets("d", "e")) == ["a", "b", "c", "d", "e"]
    assert nodes.seen == [["a", "b"], ["c"], ["d", "e"]]


def test_nothing_is_done_after_what_has_to_be_first_and_cannot_be_now() -> None:
    nodes = Nodes({"b": TryAgainError("b is moving"), "c": redis.ResponseError("no")}, is_cluster=True)
    runner = Runner(redis.Redis(port=1), nodes)
    with pytest.raises(TryAgainError):
        runner.run_in_turn(gets("a", "b"), gets("c"))
    assert nodes.seen == [["a", "b"]]
    _, refusal, end = runner.run_in_turn(gets("a"), gets("c"), gets("d"))  # a refusal concerns its command alone
    assert (str(refusal), end) == ("no", "d")


def test_what_one_node_sends_elsewhere_is_done_there_and_so_is_all_that_comes_later(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes({}, is_cluster=False)
    one = Runner(runner.client, nodes)
    one.run_in_turn([command("SET", "mine", "1")])
    answers = Runner.replies
    moved = MovedError("1 other:1")
    monkeypatch.setattr(
        *(Runner, "replies"),
        lambda self, commands: [
            moved if command.words[1].startswith("other") else reply
            for command, reply in zip(commands, answers(self, commands), strict=True)
        ],
    )
    assert one.run_in_turn(gets("mine", "other 1"), gets("other 2")) == [b"1", "other 1", "other 2"]
    assert nodes.seen == [["other 1"], ["other 2"]]
    assert one.run_all(gets("mine")) == ["mine"]


def test_what_a_node_says_is_understood_with_each_redis_py(runner: Runner) -> None:
    script = "return redis.error_reply(ARGV[1])"
    said = ["MOVED 7 one:1", "ASK 7 one:1", "TRYAGAIN later", "CLUSTERDOWN no", "CROSSSLOT no", "ERR MOVED by hand"]
    replies = runner.replies([command("EVAL", script, 0, text) for text in said])
    assert [type(reply) for reply in replies] == [
        *(MovedError, AskError, TryAgainError, ClusterDownError, ClusterCrossSlotError, redis.ResponseError),
    ]
    assert (replies[0].host, replies[0].port, replies[0].slot_id) == ("one", 1, 7)
