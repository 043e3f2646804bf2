"""What this package has to know of gevent and eventlet, which may have turned the threads of a process into greenlets.

Neither is imported: where one of them matters, the process has loaded it. Seen in gevent 26.9 and eventlet 0.41. The
last part is about uWSGI, in which threads may not run at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def threads_are_greenlets() -> bool:
    """Tell whether the threads of this process are greenlets, of which one runs until it waits for something.

    Relies on: ``gevent.monkey.is_module_patched`` and ``eventlet.patcher.is_monkey_patched``, both documented.
    Without it: a task of such a process that computes reports nothing before its end.
    """
    return _is_gevent() or _is_eventlet()


def is_event_loop() -> bool:
    """Tell whether the caller is a callback of the loop that runs the greenlets, which must never wait.

    Relies on: ``gevent.get_hub``, ``gevent.getcurrent``, ``eventlet.getcurrent`` and ``eventlet.hubs.get_hub``, of
    which only the third is not documented.
    Without it: progress that such a callback reports raises there.
    """
    if _is_gevent():
        gevent = sys.modules["gevent"]
        return bool(gevent.getcurrent() is gevent.get_hub())
    if _is_eventlet():
        eventlet = sys.modules["eventlet"]
        return bool(eventlet.getcurrent() is eventlet.hubs.get_hub().greenlet)
    return False


def start_real_thread(function: Callable[[], Any]) -> None:
    """Run a function in a thread of the operating system, which runs beside all greenlets.

    What waits in it, such as a patched socket, makes and uses an event loop of that thread's own.

    Relies on: ``gevent.monkey.get_original``, documented, and ``eventlet.patcher.original``, which is not.
    Without it: a lease whose Redis needs an option that only this process can have is not renewed while tasks compute.
    """
    if _is_gevent():
        sys.modules["gevent.monkey"].get_original("_thread", "start_new_thread")(function, ())
    elif _is_eventlet():
        sys.modules["eventlet.patcher"].original("_thread").start_new_thread(function, ())
    else:
        import _thread

        _thread.start_new_thread(function, ())


def threads_stand_still() -> bool:
    """Tell whether this is a process of uWSGI in which no thread runs but in a request, and so nothing is sent.

    Relies on: ``uwsgi.opt`` and ``uwsgi.version`` of the module that uWSGI alone provides, both documented; options
    and version are text or bytes. Threads need ``enable-threads``, which ``threads`` includes, up to uWSGI 2.0.26.
    Without it: events are lost there without a word.
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or threads_are_greenlets():
        return False
    options = {_text(name) for name, value in getattr(uwsgi, "opt", {}).items() if _text(value).lower() != "false"}
    digits = [part for part in _text(getattr(uwsgi, "version", "")).split(".")[:3] if part.isdecimal()]
    has_threads_on = len(digits) == 3 and tuple(map(int, digits)) >= (2, 0, 27)
    return not (has_threads_on or options & {"enable-threads", "threads"})


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_gevent() -> bool:
    gevent = sys.modules.get("gevent.monkey")
    return gevent is not None and bool(gevent.is_module_patched("threading"))


def _is_eventlet() -> bool:
    eventlet = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))
