"""The files that are generated, and what makes each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tools.wire import asyncapi, typescript

ROOT = Path(__file__).parents[3]
ASYNCAPI = ROOT / "docs" / "asyncapi.yaml"
TYPES = ROOT / "celery_realtime" / "static" / "celery-realtime-wire.d.ts"

FILES: dict[Path, Callable[[], str]] = {ASYNCAPI: asyncapi.text, TYPES: typescript.text}
