"""Start Firefox for Playwright, and relay what both say: ``python -m tests.firefox_relay PROGRAM ARGUMENTS``.

Playwright drives a Firefox of Mozilla's over WebDriver BiDi, and cannot do without commands that a release with long
support (ESR) does not have yet. These are answered here, as done: what they change, the tests do without.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from typing import Any

from aiohttp import ClientSession, WSMsgType, web

#: Which colours a page is to prefer: Firefox 153 has no such command.
UNKNOWN = ("emulation.setMediaFeaturesOverride",)
SAID = re.compile(r"WebDriver BiDi listening on (ws://\S+)")


class Relay:
    """Between Playwright and a Firefox.

    Args:
        address: Of the Firefox.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Relay one connection."""
        ours = web.WebSocketResponse(max_msg_size=0)
        await ours.prepare(request)
        url = f"{self._address}{request.path_qs.rstrip('/')}"
        async with ClientSession() as session, session.ws_connect(url, max_msg_size=0) as theirs:
            tasks = [asyncio.create_task(self._pass_on(ours, theirs)), asyncio.create_task(self._pass_on(theirs, ours))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        return ours

    async def _pass_on(self, source: Any, target: Any) -> None:
        async for message in source:
            if message.type is not WSMsgType.TEXT:
                return
            if any(name in message.data for name in UNKNOWN):
                asked = json.loads(message.data)
                if asked.get("method") in UNKNOWN:
                    await source.send_str(json.dumps({"type": "success", "id": asked["id"], "result": {}}))
                    continue
            await target.send_str(message.data)


async def main(program: str, *arguments: str) -> int:
    """Start Firefox, and relay until it ends."""
    firefox = await asyncio.create_subprocess_exec(program, *arguments, stderr=asyncio.subprocess.PIPE)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, firefox.terminate)
    assert firefox.stderr is not None
    async for line in firefox.stderr:
        text = line.decode(errors="replace").rstrip()
        if found := SAID.search(text):
            text = f"WebDriver BiDi listening on {await serve(Relay(found[1]))}"
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    return await firefox.wait()


async def serve(relay: Relay) -> str:
    """Listen on a free port of loopback, and return the address."""
    app = web.Application()
    app.router.add_get("/{path:.*}", relay.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return f"ws://{host}:{port}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
