"""How many requests a web server answers at once, and what a connection takes of its memory."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

#: About how many bytes a connection takes that says nothing. Measured with ``make attack``. The number of greenlets is
#: above those of gunicorn (1000) and eventlet (1024), whose own bounds keep room for others.
OF_THREADS, OF_GREENLETS, OF_ASYNCIO, OF_GRANIAN = 95_000, 72_000, 60_000, 230_000

#: Memory for connections without a token.
MOST_MEMORY = 80_000_000


def requests_at_once() -> int | None:
    """Return how many requests the web server whose code has called this answers at once; None for any number.

    Each open WebSocket is a request. Seen in gunicorn 27 (threads, eventlet, gevent) and eventlet 0.41: none of them
    puts the number into a request, but the frames in which a request is answered know it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        number = _number_in(frame.f_locals.get("self")) if frame.f_code.co_name in _ANSWERING else None
        if number is not None:
            return number
        frame = frame.f_back
    return None


#: A worker of gunicorn, and a greenlet of eventlet, answer requests in functions of these names.
_ANSWERING = ("handle", "handle_request", "main")


def _number_in(holder: Any) -> int | None:
    """Return how many requests a gunicorn worker, or the pool of a greenlet, has room for; None for something else."""
    module = type(holder).__module__
    if module == "eventlet.greenthread":
        pools = [getattr(hook[0], "__self__", None) for hook in getattr(holder, "_exit_funcs", ())]
        return next(filter(None, (_whole(getattr(pool, "size", None)) for pool in pools)), None)
    settings = getattr(holder, "cfg", None) if module.startswith("gunicorn.workers.") else None
    return _whole(getattr(settings, "threads" if module.endswith(".gthread") else "worker_connections", None))


def _whole(number: Any) -> int | None:
    return number if isinstance(number, int) and number > 0 else None


def most_without_token(mode: str, environ: dict[str, Any]) -> int:
    """Return how many connections without a token a web server has at most.

    Args:
        mode: The asynchronous mode of the server.
        environ: A request to it.
    """
    protocol = getattr(environ.get("asgi.send"), "__self__", None)
    if type(protocol).__module__.startswith("granian."):
        return MOST_MEMORY // OF_GRANIAN
    sizes = {"asgi": OF_ASYNCIO, "aiohttp": OF_ASYNCIO, "threading": OF_THREADS}
    return MOST_MEMORY // sizes.get(mode, OF_GREENLETS)
