"""Whether a server is about to end is asked of servers alone."""

from __future__ import annotations

from typing import Any

from celery_realtime.web.server_ends import of_asgi, of_wsgi


class Middleware:
    """Stands around an application, and raises what it likes when it is asked for something that it does not have."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)

    def answer(self, ask: Any, *args: Any) -> bool:
        return bool(ask(*args)())


def test_what_is_around_an_application_is_not_asked() -> None:
    assert Middleware().answer(of_wsgi) is False
    assert Middleware().answer(of_asgi, print) is False
