"""Serve the metrics to Prometheus: on a port of a worker, or as a WSGI or ASGI app for a web server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.forks import after_fork
from celery_realtime.logs import describe
from celery_realtime.metrics import processes
from celery_realtime.metrics.exporter import exporter
from celery_realtime.metrics.instruments import Refresher

logger = logging.getLogger(__name__)


def registry() -> Any:
    """Return what is scraped: prometheus_client's default registry, or the values of all processes.

    In multiprocess mode, whose directory the environment variable ``PROMETHEUS_MULTIPROC_DIR`` names, the default
    registry has the values of this process only.
    """
    import prometheus_client
    from prometheus_client import multiprocess

    ours = exporter()
    path = processes.directory()
    if path is None:
        return prometheus_client.REGISTRY

    def refresh() -> None:
        ours.refresh()
        processes.bury_dead()

    of_all = prometheus_client.CollectorRegistry()
    of_all.register(Refresher(refresh))
    multiprocess.MultiProcessCollector(of_all, path)  # type: ignore[no-untyped-call]
    return of_all


def wsgi_app() -> Callable[[dict[str, Any], Callable[..., Any]], Iterator[bytes]]:
    """Return a WSGI app that answers with the metrics, as Flask and Django can mount it. It asks for no token."""
    import prometheus_client

    app: Any = prometheus_client.make_wsgi_app(registry())
    return app  # type: ignore[no-any-return]


def asgi_app() -> Callable[[Any, Any, Any], Any]:
    """Return an ASGI app that answers with the metrics, which it collects in a thread. It asks for no token."""
    scraped = registry()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        accept = b",".join(value for name, value in scope["headers"] if name.lower() == b"accept").decode("latin-1")
        content_type, body = await asyncio.to_thread(_rendered, scraped, accept)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _rendered(scraped: Any, accept: str) -> tuple[str, bytes]:
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    return content_type, encode(scraped)


class Port:
    """The port of a worker's main process.

    Args:
        host: Address to listen at.
        port: TCP port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server: Any = None
        after_fork(self._leave_to_parent)

    def open(self) -> None:
        """Serve the metrics, in a thread. If that cannot be, the worker goes on without."""
        import prometheus_client

        if self._server is not None:
            return
        try:
            self._server, _ = prometheus_client.start_http_server(self._port, self._host, registry())
        except OSError as error:
            logger.error(
                "this worker's metrics are not served at %s:%d, so Prometheus does not see it; give each worker of "
                "a host a realtime_metrics_port of its own: %s",
                *(self._host, self._port, describe(error)),
            )

    def close(self) -> None:
        """Serve no more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _leave_to_parent(self) -> None:
        """Close a child's copy of the socket: while it is open nobody else can listen at the port."""
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()
