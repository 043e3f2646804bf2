"""The stages of the death matrix."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.deaths.fixtures import keep_stages
from tests.deaths.stage import Stages


@pytest.fixture(scope="session")
def deaths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Keeps the stages of the cells that are drawn: unless some are asked for, none kills a RabbitMQ."""
    server = "own_rabbitmq_server" if os.environ.get("DEATHS_ONLY") else "rabbitmq_server"
    yield from keep_stages(request, tmp_path_factory, server)
