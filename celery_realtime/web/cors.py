"""Warn of a middleware around the server that answers the same question as Engine.IO: which origins may read this."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

#: In the scope of a request whose answer has no headers of Engine.IO's.
HANDLED_KEY = "celery_realtime.cors"


class OuterCors:
    """Looks at the first request of a browser from another origin; Starlette puts the app around us into its scope.

    Args:
        allowed_origins: What the server was made with; an empty list where it leaves origins to others.
    """

    def __init__(self, allowed_origins: Any) -> None:
        self._allowed_origins = allowed_origins
        self._has_looked = False

    def look(self, environ: dict[str, Any]) -> None:
        """Look at a request, and warn, once, if a browser cannot use what it is answered.

        Args:
            environ: The request, as the gate has it.
        """
        if self._has_looked or "asgi.scope" not in environ:
            return
        scope = environ["asgi.scope"]
        if not any(name == b"origin" for name, _ in scope.get("headers") or ()):
            return
        self._has_looked = True
        if not scope.get(HANDLED_KEY) and _has_cors_middleware(scope.get("app")) and self._allowed_origins != []:
            logger.warning(
                "CORSMiddleware is around this Socket.IO server, %s: mount the server with "
                "celery_realtime.contrib.fastapi.mount_realtime, which takes the origins from CORSMiddleware",
                "which admits pages of its own origin only, whatever that says"
                if self._allowed_origins is None
                else "and both answer with CORS headers, which browsers refuse",
            )


def _has_cors_middleware(app: Any) -> bool:
    """Tell whether a Starlette or FastAPI app has it, without loading either."""
    classes = (getattr(middleware, "cls", None) for middleware in getattr(app, "user_middleware", ()))
    return any(getattr(cls, "__name__", "") == "CORSMiddleware" for cls in classes)
