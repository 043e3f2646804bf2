from __future__ import annotations

import os
import random
import re

import pytest

from celery_realtime.random_words import RandomWords


def test_words_have_eight_digits_and_differ() -> None:
    words = RandomWords()
    made = [words.new() for _ in range(100)]
    assert all(re.fullmatch("[0-9a-f]{8}", word) for word in made)
    assert len({*made, *(RandomWords().new() for _ in range(100))}) > 190


def test_a_task_that_seeds_pythons_own_numbers_gets_them_and_the_same_words_never_again() -> None:
    words = RandomWords()
    random.seed(7)
    first = words.new()
    number = random.random()
    random.seed(7)
    assert random.random() == number
    random.seed(7)
    assert words.new() != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_child_has_other_words_than_its_parent() -> None:
    words = RandomWords()
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(here, " ".join(words.new() for _ in range(5)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(here)
    with os.fdopen(there) as read:
        of_child = read.read().split()
    assert len(of_child) == 5
    assert not {*of_child} & {words.new() for _ in range(5)}
