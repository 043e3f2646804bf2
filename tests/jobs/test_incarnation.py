"""Each life of a worker's process has a word of its own."""

from __future__ import annotations

import os

import pytest

from celery_realtime.jobs.incarnation import Incarnation


def test_a_process_is_no_worker_until_it_begins_and_after_it_ends() -> None:
    incarnation = Incarnation()
    assert incarnation.id == ""
    assert incarnation.begin() == incarnation.id != ""
    incarnation.end()
    assert incarnation.id == ""


def test_each_life_is_another_also_in_one_process() -> None:
    incarnation = Incarnation()
    assert len({incarnation.begin() for _ in range(100)}) == 100
    assert Incarnation().begin() != Incarnation().begin()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_belongs_to_its_parent_s_until_it_begins_its_own() -> None:
    incarnation = Incarnation()
    begun = incarnation.begin()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, f"{incarnation.id} {incarnation.begin()}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    inherited, own = os.read(reader, 1000).decode().split()
    assert inherited == begun
    assert own != begun
