"""What tests of the death matrix share, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deaths.stage import Stages


@pytest.fixture(scope="session")
def deaths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Keeps the stages of all cells."""
    yield from keep_stages(request, tmp_path_factory, "own_rabbitmq_server")


def keep_stages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rabbitmq: str
) -> Iterator[Stages]:
    """Give stages on the RabbitMQ of a fixture, and end them."""
    stages = Stages(tmp_path_factory.mktemp, lambda: request.getfixturevalue(rabbitmq))
    yield stages
    stages.close()
