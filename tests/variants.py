"""Which variants of a test ``make test`` runs, and which it leaves to ``make long``.

A variant may be left out when it only repeats what another test shows on the same code path: one more host, broker,
pool or seed. Each use says which test that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.services import BROKERS


def long_unless(wanted: Iterable[Any], variants: Iterable[Any]) -> list[Any]:
    """Return all variants as parameters, those that are not wanted in ``make test`` marked as long.

    A variant is a value, or a tuple of values where several names are parametrized.
    """
    wanted = list(wanted)
    return [variant if variant in wanted else _long(variant) for variant in variants]


def _long(variant: Any) -> Any:
    values = variant if isinstance(variant, tuple) else (variant,)
    return pytest.param(*values, marks=pytest.mark.long)


#: For tests of what does not depend on the broker: ``make test`` runs them on Redis only.
any_broker = pytest.mark.parametrize("broker", long_unless(["redis"], BROKERS), indirect=True)
#: The same for tests on a stage that others share.
any_stage = pytest.mark.parametrize("stage", long_unless(["redis"], BROKERS), indirect=True)

#: For tests of what is decided in the same way on threads and in an event loop: ``make test`` runs them on one of them.
on_threads = pytest.mark.parametrize("kind", long_unless(["sync"], ["sync", "asgi"]), indirect=True)
in_a_loop = pytest.mark.parametrize("kind", long_unless(["asgi"], ["sync", "asgi"]), indirect=True)
