"""A process that passes on what a server and its clients say, later: ``python -m benchmarks.delay PORT SECONDS``.

It prints the port that it listens on. What is said in one direction keeps its order, and its pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def delayed(url: str, seconds: float) -> Iterator[str]:
    """Return the address of a server as it is that far away, in a process of its own.

    Args:
        url: The server's address.
        seconds: The time from a question to its answer.
    """
    port = urlsplit(url).port
    command = [sys.executable, "-m", "benchmarks.delay", str(port), str(seconds / 2)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield url.replace(f":{port}", f":{int(process.stdout.readline())}", 1)
    finally:
        process.kill()
        process.wait()


async def _serve(port: int, seconds: float) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(HOST, port)
        await asyncio.gather(_pass_on(reader, server_writer, seconds), _pass_on(server_reader, writer, seconds))

    server = await asyncio.start_server(accept, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def deliver() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                break
            writer.write(data)
        writer.close()

    delivering = asyncio.create_task(deliver())
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            waiting.put_nowait((loop.time() + seconds, data))
    waiting.put_nowait((loop.time() + seconds, b""))
    await delivering


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
