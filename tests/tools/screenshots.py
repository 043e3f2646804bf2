"""Take the pictures of the example's page that the documentation has: ``python -m tests.tools.screenshots``."""

from __future__ import annotations

import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page, expect

from tests.browsers import opened_browser
from tests.launcher import Launcher
from tests.services import Broker, RedisServer

DOCS = Path(__file__).parents[2] / "docs"
PROJECT = "apollo"
#: Kind, and about how many seconds: long enough for all pictures to be of them while they run.
ENDED = (("fail", 0.4), ("backup", 0.5), ("transcribe", 0.5), ("flaky", 0.5))
RUNNING = (("chain", 15.0), ("answer", 100.0), ("episode", 120.0), ("group", 60.0), ("transcribe", 60.0))
#: Milliseconds.
LONG = 60_000


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Args:
        name: Of its file, without an ending.
        size: Width and height, in pixels.
        scheme: Of colours: light or dark.
        opens: What kind of job is opened; "workflow" for that instead.
        lang: The page's language.
    """

    name: str
    size: tuple[int, int]
    scheme: Literal["light", "dark"] = "light"
    opens: str = "answer"
    lang: str = "en"


PICTURES = (
    Picture("screenshot", (1200, 1000)),
    Picture("screenshot-dark", (1200, 1000), "dark", "workflow"),
    Picture("screenshot-phone", (390, 800), "dark"),
    Picture("screenshot-phone-light", (360, 740), lang="de"),
)


def main(folder: Path = DOCS) -> None:
    """Start the example, have jobs run, and take each picture."""
    with tempfile.TemporaryDirectory() as logs, Launcher(Path(logs)) as launcher, opened_browser() as browser:
        server = launcher.start(RedisServer(Path(logs)))
        broker = Broker("redis", server, server.url(0), server, server.url(1))
        launcher.worker("example_project.tasks", broker=broker, concurrency=4, hostname="studio")
        url = launcher.web("example_project.app", broker=broker).url
        ids = _start_jobs(browser, url)
        for picture in PICTURES:
            path = folder / f"{picture.name}.png"
            path.write_bytes(_packed(_take(browser, url, picture, ids)))
            print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


def _start_jobs(browser: Browser, url: str) -> dict[str, str]:
    page = browser.new_page()
    page.goto(f"{url}/?user=ada&project={PROJECT}")
    jobs = page.locator("celery-project")
    for kind, seconds in ENDED:
        _start(page, url, kind, seconds)
    expect(jobs.locator(".job.success")).to_have_count(3, timeout=LONG)
    expect(jobs.locator(".job.error")).to_have_count(1, timeout=LONG)
    ids = {kind: _start(page, url, kind, seconds) for kind, seconds in RUNNING}
    expect(jobs.locator(".job.running.workflow")).to_have_count(2, timeout=LONG)  # the chain is in its second step
    page.close()
    return ids


def _start(page: Page, url: str, kind: str, seconds: float) -> str:
    page.request.post(f"{url}/login", data={"user": "ada"})
    body: dict[str, Any] = {"kind": kind, "project_id": PROJECT, "options": {"seconds": seconds}}
    return str(page.request.post(f"{url}/jobs", data=body).json()["jobs"][0])


def _take(browser: Browser, url: str, picture: Picture, ids: dict[str, str]) -> bytes:
    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=picture.scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(f"{url}/?user=ada&project={PROJECT}&lang={picture.lang}")
    jobs = page.locator("celery-project")
    expect(jobs.locator(".job.running")).not_to_have_count(0, timeout=LONG)
    if picture.opens == "workflow":
        jobs.locator(".workflow .name", has_text="resize").click()
        expect(jobs.locator(".member")).to_have_count(5, timeout=LONG)
    else:
        jobs.evaluate("(element, id) => element.openJob(id)", ids[picture.opens])
        expect(jobs.locator(".stream.text")).to_contain_text("blue", timeout=LONG)
    page.mouse.move(0, 0)
    taken = page.screenshot()
    context.close()
    return taken


def _packed(png: bytes) -> bytes:
    """Compress the pixels of a picture as well as zlib can, and leave out what is no pixel."""
    place, kept, pixels = 8, [], b""
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        if kind == b"IDAT":
            pixels += data
        elif kind == b"IHDR":
            kept.append((kind, data))
        place += length + 12
    kept += [(b"IDAT", zlib.compress(zlib.decompress(pixels), 9)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in kept
    ]
    return png[:8] + b"".join(chunks)


if __name__ == "__main__":
    main()
