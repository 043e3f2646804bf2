"""What tests of the death matrix share, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deaths.stage import Stages


@pytest.fixture(scope="session")
def deaths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Keeps the stages of all cells."""
    stages = Stages(tmp_path_factory.mktemp, lambda: request.getfixturevalue("rabbitmq_server"))
    yield stages
    stages.close()
