"""Which slot a key is in, and which node has it."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Script, call, command
from celery_realtime.history.slots import SLOTS, SlotMap, in_slot, joined, located, parts_of, slot_of

REFUSAL = redis.ResponseError("no")


@given(st.text("{}ab\u00fc:", max_size=12))
def test_a_slot_is_the_one_that_redis_py_finds(key: str) -> None:
    assert slot_of(key) == key_slot(key.encode())


@pytest.mark.parametrize("prefix", ["", "staging:", "{staging}:"])
@pytest.mark.parametrize("project", ["p", "a b", "{x}", "}{", "\u00fc/x:y", "{}"])
def test_all_keys_that_are_taken_together_are_in_one_slot(prefix: str, project: str) -> None:
    keys = Keys("a{channel}", prefix)
    assert len({slot_of(key) for key in [*keys.project(project, "server"), keys.watched(project)]}) == 1
    assert len({slot_of(key) for key in keys.leases("alive", "held:i", "revoked")}) == 1
    assert len({slot_of(key) for key in [*keys.places(1, 2), *keys.older_places(1, 2)]}) == 1


def test_each_slot_has_its_own_key_in_place_of_one_that_is_of_all_projects() -> None:
    names = [in_slot("begun", slot) for slot in range(SLOTS)]
    assert [slot_of(name) for name in names] == [*range(SLOTS)]
    # All processes have to find the same one, those of later versions too.
    assert names[slot_of("0")] == "begun:{0}"
    assert names[slot_of("begun")] == "begun:{18998}"
    assert in_slot("{p}:meta", 7) == "{p}:meta"


def test_the_keys_of_a_script_are_put_in_the_slot_of_the_first() -> None:
    one = call(Script("read"), ["{p}:meta", "{p}:events", "begun"], ["a", 1], keys_in_cluster=["{p}:server"])
    slot, there = located(one)
    assert slot == slot_of("p")
    assert there.words[2:] == [4, "{p}:meta", "{p}:events", in_slot("begun", slot), "{p}:server", "a", 1]
    assert there.script is one.script
    assert one.words[2:] == [3, "{p}:meta", "{p}:events", "begun", "a", 1]


def test_a_command_is_run_where_its_first_key_is_or_where_it_says() -> None:
    assert located(command("GET", "{p}:x")) == (slot_of("p"), command("GET", "{p}:x"))
    assert located(command("TIME", at="{p}:x")) == (slot_of("p"), command("TIME", at="{p}:x"))
    slot, there = located(command("EXPIRE", "begun", 5, at="{p}:x"))
    assert (slot, list(there.words)) == (slot_of("p"), ["EXPIRE", in_slot("begun", slot), 5])
    assert located(command("PING"))[0] in range(SLOTS)


def test_what_reads_keys_of_several_slots_is_a_command_for_each() -> None:
    several, single = command("MGET", "a", "b"), command("GET", "a")
    assert parts_of(several) == [command("GET", "a"), command("GET", "b")]
    assert joined(several, [b"1", None]) == [b"1", None]
    assert joined(several, [b"1", REFUSAL]) is REFUSAL
    assert parts_of(single) == [single]
    assert joined(single, [b"1"]) == b"1"
    assert joined(single, [REFUSAL]) is REFUSAL


# -- the map --------------------------------------------------------------------------------------------------------

REPLY: Any = [
    [0, 99, [b"one", 1, b"id", []], [b"three", 3, b"id", []]],
    [200, 16383, [None, 2, b"id", []], [b"?", 4, b"id", []]],
]
ASKED = ("asked", 9)


def test_a_map_says_which_node_has_a_slot() -> None:
    slots = SlotMap([("seed", 0)])
    assert (slots.is_empty, slots.nodes) == (True, {("seed", 0)})
    slots.read(REPLY, ASKED)
    assert [slots.owner(slot) for slot in (0, 99, 100, 199, 200, 16383)] == [
        *(("one", 1), ("one", 1), None, None, ("asked", 2), ("asked", 2)),
    ]
    assert slots.owners == {("one", 1), ("asked", 2)}
    assert slots.nodes == {("seed", 0), ("one", 1), ("asked", 2), ("three", 3), ("asked", 4)}
    slots.move(100, ("one", 1))
    assert slots.owner(100) == ("one", 1)


def test_nodes_may_be_reached_elsewhere_than_they_say() -> None:
    slots = SlotMap([("seed", 0)], lambda node: ("localhost", 7000 + node[1]))
    slots.read(REPLY, ASKED)
    assert slots.owners == {("localhost", 7001), ("localhost", 7002)}
    assert slots.node("", 3, ASKED) == ("localhost", 7003)
