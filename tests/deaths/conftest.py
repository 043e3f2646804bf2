"""The stages of the death matrix."""

from __future__ import annotations

from tests.deaths.fixtures import deaths  # noqa: F401
