"""A Redis for tests that count what it is asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.services import RedisServer


@pytest.fixture
def own_redis_url(start_redis: Callable[..., RedisServer]) -> str:
    """The address of a Redis that nobody else talks to: not even threads that other tests have left."""
    return start_redis().fresh_url()
