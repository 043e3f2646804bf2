"""A kernel as notebooks have one, and a page that does for its widgets what anywidget says that a front end does."""

from __future__ import annotations

import contextlib
import queue
import sys
from collections.abc import Callable, Iterator
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from playwright.sync_api import Page

from tests.processes import ROOT
from tests.waiting import wait_for

#: As much of a front end as https://anywidget.dev describes: model.get, .on, .off and .send; initialize and render.
HOST = """<!doctype html><meta charset="utf-8"><title>Notebook</title><body><script>
const models = new Map();
window.opened = async (id, state) => {
  const listeners = new Map();
  const model = {
    get: (name) => state[name],
    on: (name, one) => listeners.set(name, [...(listeners.get(name) ?? []), one]),
    off: (name, one) => listeners.set(name, (listeners.get(name) ?? []).filter((other) => other !== one)),
    send: (content) => { toKernel(id, content); },
  };
  const module = await import(URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" })));
  const widget = typeof module.default === "function" ? await module.default() : module.default;
  const end = await widget.initialize?.({ model });
  const tell = (name, ...data) => { for (const one of listeners.get(name) ?? []) one(...data); };
  models.set(id, { model, widget, end, tell });
};
window.rendered = async (id) => {
  const { model, widget } = models.get(id), el = document.createElement("div");
  document.body.append(el);
  const end = await widget.render({ model, el });
  return el.end = end;
};
window.said = (id, content) => { models.get(id)?.tell("msg:custom", content, []); };
</script></body>"""


class Kernel:
    """A kernel of IPython, and the messages of its widgets.

    Args:
        env: Its environment.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self._manager, self.client = start_new_kernel(kernel_name="python3", env=env, cwd=str(ROOT))
        assert isinstance(self.client, BlockingKernelClient)
        #: By id, the state of each widget.
        self.widgets: dict[str, dict[str, Any]] = {}
        #: What widgets say, in order: their ids and contents.
        self.said: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.closed: list[str] = []
        self._is_gone = False
        self._replies: dict[str, dict[str, Any]] = {}
        self._output: dict[str, str] = {}

    def run(self, code: str) -> str:
        """Run a cell, and return what it prints."""
        request = self.client.execute(code)
        wait_for(lambda: self.pump() or request in self._replies)
        reply = self._replies.pop(request)
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", []))
        wait_for(lambda: self.pump() or f"{request} idle" in self._output)
        return self._output.pop(request, "")

    def has_ended(self, request: str) -> bool:
        """Return whether a cell that was begun has ended."""
        self.pump()
        return request in self._replies

    def show(self, code: str) -> str:
        """Run a cell that makes a widget, and return the id of that."""
        known = set(self.widgets)
        self.run(code)
        wait_for(
            lambda: self.pump() or [one for one in self.widgets if one not in known and "_esm" in self.widgets[one]]
        )
        return next(one for one in self.widgets if one not in known and "_esm" in self.widgets[one])

    def send(self, widget: str, content: Any) -> None:
        """Send what a front end says to a widget; a kernel that is gone does not hear it."""
        if self._is_gone:
            return
        data = {"comm_id": widget, "data": {"method": "custom", "content": content}}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", data))

    def pump(self) -> None:
        """Take what the kernel has said."""
        for channel in (self.client.shell_channel, self.client.iopub_channel):
            with contextlib.suppress(queue.Empty):
                while True:
                    self._take(channel.get_msg(timeout=0))

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        request = message["parent_header"].get("msg_id", "")
        if kind == "execute_reply":
            self._replies[request] = content
        elif kind == "stream":
            self._output[request] = self._output.get(request, "") + content["text"]
        elif kind == "status" and content["execution_state"] == "idle":
            self._output[f"{request} idle"] = ""
        elif kind == "comm_open":
            self.widgets[content["comm_id"]] = dict(content["data"]["state"])
        elif kind == "comm_close":
            self.closed.append(content["comm_id"])
        elif kind == "comm_msg" and content["data"].get("method") == "custom":
            self.said.put((content["comm_id"], content["data"]["content"]))

    def close(self) -> None:
        """End it."""
        self._is_gone = True
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)


class Notebook:
    """A page that shows widgets of a kernel; a notebook may be open in several.

    Args:
        page: Playwright's.
        notebooks: All of the kernel, each of which is told what widgets say.
        kernel: The kernel.
    """

    def __init__(self, page: Page, notebooks: list[Notebook], kernel: Kernel) -> None:
        self.page = page
        self._kernel = kernel
        self._notebooks = notebooks
        #: What widgets have said to it.
        self.carried: list[Any] = []
        page.expose_function("toKernel", kernel.send)
        page.set_content(HOST)
        self._notebooks.append(self)

    def open(self, widget: str) -> None:
        """Show a widget, as a notebook does that is opened: with its state, as the kernel has it."""
        self.page.evaluate("([id, state]) => opened(id, state)", [widget, self._kernel.widgets[widget]])
        self.show(widget)

    def show(self, widget: str) -> None:
        """Show a widget once more."""
        self.page.evaluate("(id) => rendered(id).then(() => null)", widget)

    def wait_to_see(self, condition: Callable[[], Any]) -> None:
        """Carry messages until something is to be seen."""
        wait_for(lambda: self.carry() or condition())

    def answers(self, session: str) -> list[Any]:
        """Return the answers to who has asked under a name."""
        items = (item for content in self.carried for item in content["items"])
        return [item[3] for item in items if item[:2] == ["answer", session]]

    def carry(self) -> None:
        """Carry messages between the kernel and all pages."""
        self._kernel.pump()
        with contextlib.suppress(queue.Empty):
            while True:
                widget, content = self._kernel.said.get_nowait()
                for notebook in self._notebooks:
                    notebook.carried.append(content)
                    notebook.page.evaluate("([id, content]) => said(id, content)", [widget, content])
        for notebook in self._notebooks:
            notebook.page.wait_for_timeout(5)  # Playwright hands over what pages say while it waits


@contextlib.contextmanager
def started_kernel(env: dict[str, str]) -> Iterator[Kernel]:
    """Start a kernel with this interpreter, and end it."""
    kernel = Kernel({**env, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"})
    try:
        assert kernel.run("import sys; print(sys.executable)").strip() == sys.executable
        yield kernel
    finally:
        kernel.close()
