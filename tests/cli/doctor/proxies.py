"""Proxies that change what goes through them, as real ones do."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.processes import HOST


@contextlib.contextmanager
def rewriting(port: int, pattern: bytes, replacement: bytes) -> Iterator[int]:
    """Pass on what a server says with one thing of it changed, and give the port of that; the length must stay."""
    listening = socket.create_server((HOST, 0))
    threading.Thread(target=_accept, args=(listening, port, pattern, replacement), daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def _accept(listening: socket.socket, port: int, pattern: bytes, replacement: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listening.accept()
            server = socket.create_connection((HOST, port))
            for source, target, change in ((client, server, None), (server, client, (pattern, replacement))):
                threading.Thread(target=_copy, args=(source, target, change), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, change: tuple[bytes, bytes] | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 20):
            target.sendall(data if change is None else re.sub(*change, data))
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


#: What a proxy does to the headers of a request, or of an answer.
Change = Callable[[list[tuple[str, str]]], list[tuple[str, str]]]

_BY_THE_HOP = ("connection", "upgrade", "transfer-encoding", "keep-alive")


def _unchanged(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return headers


@contextlib.contextmanager
def http_proxy(
    *urls: str, to_server: Change = _unchanged, to_client: Change = _unchanged, strip: str = ""
) -> Iterator[str]:
    """Stand in front of web servers, as a proxy that knows nothing of WebSockets, and give its address.

    Args:
        *urls: The servers; each request goes to the next one.
        to_server: Changes the headers of requests.
        to_client: Changes the headers of answers.
        strip: What paths begin with that servers do not know; others lead nowhere.
    """
    targets = itertools.cycle([urlsplit(url).netloc for url in urls])

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = [pair for pair in self.headers.items() if pair[0].lower() not in _BY_THE_HOP]
            connection = HTTPConnection(next(targets), timeout=60)
            with contextlib.closing(connection):
                path = self.path.removeprefix(strip) if self.path.startswith(strip) else "/nowhere"
                connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
                for name, value in to_server(headers):
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
            self.send_response_only(answer.status)
            for name, value in to_client([pair for pair in answer.getheaders() if pair[0].lower() not in _BY_THE_HOP]):
                self.send_header(name, value)
            if answer.getheader("Content-Length") is None:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_OPTIONS = _pass_on  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
