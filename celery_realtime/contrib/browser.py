"""Find the browser's modules, and say in a page where they are."""

from __future__ import annotations

import functools
import hashlib
import html
import json
from pathlib import Path
from typing import NamedTuple

import celery_realtime

FOLDER = Path(celery_realtime.__file__).parent / "static"
PACKAGE = "celery-realtime"

#: What would end a script, or begin another one, in HTML.
_ESCAPES = {ord("<"): "\\u003C", ord(">"): "\\u003E", ord("&"): "\\u0026"}


class Module(NamedTuple):
    """A module as a web server answers with it.

    Attributes:
        text: What it says.
        etag: Quoted, as in the header.
    """

    text: str
    etag: str


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of the modules, without ``.js``."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.js")))


@functools.cache
def module(name: str) -> Module | None:
    """Return a module by its name without ``.js``; None if there is none."""
    if name not in names():
        return None
    text = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    return Module(text, f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"')


def import_map(base: str) -> dict[str, str]:
    """Return where a browser finds what a script imports: ``celery-realtime``, and ``celery-realtime/token`` and such.

    Args:
        base: The URL of the folder of the modules.
    """
    base = f"{base.rstrip('/')}/"
    return {_imported_as(name): f"{base}{name}.js" for name in names() if name != PACKAGE}


# As package.json has it for npm: the index has what the module of the package's name has, and more.
def _imported_as(name: str) -> str:
    return PACKAGE if name == "index" else f"{PACKAGE}/{name.removeprefix(f'{PACKAGE}-')}"


def script(base: str, nonce: object = None) -> str:
    """Return the HTML after which scripts of the page can ``import ... from "celery-realtime"``.

    Args:
        base: The URL of the folder of the modules.
        nonce: That of the page's Content-Security-Policy, if it has one.
    """
    text = json.dumps({"imports": import_map(base)}).translate(_ESCAPES)
    attribute = f' nonce="{html.escape(str(nonce))}"' if nonce else ""
    return f'<script type="importmap"{attribute}>{text}</script>'
