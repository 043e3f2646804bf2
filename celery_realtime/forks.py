"""Let no process be forked while an outbox or a keeper is in the middle of talking to a broker or to Redis.

The child of a fork has only the thread that forked, and every lock as it then was. One that another thread held is
never released in the child. OpenSSL has such locks, for all connections of a process, and makes none of them anew: a
child forked during another thread's TLS handshake can wait for ever in its own first one.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import Any, cast

#: Most seconds that a fork waits. A thread that talks for longer waits for the other side, and then holds no such lock.
LONGEST_WAIT = 1.0


class Gate:
    """Keeps forks and what must not be forked apart: many threads may be inside at once, and no fork then.

    Used as a context manager by a thread that talks. One that is inside may enter again, and may itself fork.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget who is inside, in the child of a fork."""
        self._changed = threading.Condition()  # a signal's handler may fork too: the lock is a reentrant one
        self._inside: dict[int, int] = {}
        self._forks = 0

    def guard(self) -> None:
        """Have all forks of this process, by whomever, wait for the threads inside."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self.close, after_in_parent=self.open, after_in_child=self.start_over)

    def close(self) -> None:
        """Let nobody in, and wait until the others have left, at most for :data:`LONGEST_WAIT`."""
        me = threading.get_ident()
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._inside.keys() - {me}, LONGEST_WAIT)

    def open(self) -> None:
        """Let those in who wait."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether a fork waits or is under way."""
        return self._forks > 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            if me not in self._inside:
                self._changed.wait_for(lambda: not self._forks)
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
            if self._forks:
                self._changed.notify_all()


class Hooks:
    """Methods of objects, each called for as long as its object lives. ``os.register_at_fork`` itself forgets none."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._calls: dict[int, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, method: Callable[[], None]) -> None:
        """Call a method too, after those that there are."""
        number = next(self._numbers)
        self._calls[number] = _while_it_lives(method, lambda: self._calls.pop(number, None))

    def call(self) -> None:
        """Call all in the order in which they came, and the others if one raises."""
        self._call(list(self._calls.values())[::-1])

    def call_newest_first(self) -> None:
        """Call all as :meth:`call`, but in the other order."""
        self._call(list(self._calls.values()))

    @staticmethod
    def _call(calls: list[Callable[[], None]]) -> None:
        with contextlib.ExitStack() as stack:  # which begins with the last
            for call in calls:
                stack.callback(call)


def _while_it_lives(method: Callable[[], None], forget: Callable[[], object]) -> Callable[[], None]:
    """Return what calls a method of an object, without keeping that alive; ``forget`` is called when it is gone."""
    bound = cast(MethodType, method)
    function, reference = bound.__func__, weakref.ref(bound.__self__, lambda _: forget())

    def call() -> None:
        alive = reference()
        if alive is not None:
            function(alive)

    return call


def after_fork(method: Callable[[], None]) -> None:
    """Call a method in each child of a fork, for as long as its object lives."""
    after_forks.add(method)


def before_fork(method: Callable[[], None]) -> None:
    """Call a method before each fork, for as long as its object lives."""
    before_forks.add(method)


def at_exit(method: Callable[[], None]) -> None:
    """Call a method when this process ends, for as long as its object lives; not where a child of a fork ends.

    Processes of multiprocessing and of billiard run no ``atexit``, but finalizers: ``util.Finalize`` of both, which is
    public by name only; seen in Python 3.11 to 3.13 and billiard 4.3. Without it, what they have said last is lost.
    Children of Celery's prefork pool run neither, and send a signal instead.
    """
    pid, finalizers = os.getpid(), list[Any]()

    def end() -> None:
        if os.getpid() == pid:
            forget()  # a child of multiprocessing runs both since Python 3.13
            call()

    def forget() -> None:
        atexit.unregister(end)
        for finalizer in finalizers:
            finalizer.cancel()

    call = _while_it_lives(method, forget)
    atexit.register(end)
    for name in ("multiprocessing", "billiard"):
        util, process = sys.modules.get(f"{name}.util"), sys.modules.get(f"{name}.process")
        if util is not None and process is not None and process.current_process().name != "MainProcess":
            finalizers.append(util.Finalize(None, end, exitpriority=10))


def is_spawned_by_multiprocessing() -> bool:
    """Tell whether this is a process of multiprocessing that inherits nothing from the process that wanted it."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return False
    # Of a context's own class of processes; None in the default context. Seen in Python 3.11.
    method = getattr(multiprocessing.current_process(), "_start_method", None)
    return bool((method or multiprocessing.get_start_method()) != "fork")


def forget_unfinished_imports() -> None:
    """Have imported anew, in the child of a fork, what other threads were importing then.

    Those threads are gone, and with them whoever would finish the modules: an import of one would wait for ever, or
    find half of it. What sends loads what it needs in a thread, just when a process has published for the first time.

    ``importlib._bootstrap._module_locks``, by module a weak reference to a lock with the thread that is its ``owner``,
    and ``ModuleSpec._initializing``. Seen in Python 3.10 to 3.13. Without these, an import may hang in such a child.
    """
    locks: Any = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", {})
    me = threading.get_ident()
    for name, reference in list(locks.items()):
        owner = getattr(reference(), "owner", None)
        if owner not in (None, me):
            locks.pop(name, None)
            if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
                for each in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
                    del sys.modules[each]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_unfinished_imports)

#: That of this process.
talking = Gate()
talking.guard()

#: What is called before each fork of this process, and after it in the child.
before_forks, after_forks = Hooks(), Hooks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=before_forks.call_newest_first, after_in_child=after_forks.call)


#: What ``uwsgidecorators`` replaces in the module ``uwsgi``, beside the hook after forks.
_UWSGI_HOOKS = ("spooler", "mule_msg_hook")


def _decorators_of(uwsgi: Any) -> Any:
    """Return ``uwsgidecorators``; the hooks that an application has set before it is imported here stay.

    Raises:
        ImportError: There is none.
    """
    if "uwsgidecorators" in sys.modules:
        return sys.modules["uwsgidecorators"]
    after_fork_before = getattr(uwsgi, "post_fork_hook", None)
    before = {name: getattr(uwsgi, name) for name in _UWSGI_HOOKS if hasattr(uwsgi, name)}
    decorators = importlib.import_module("uwsgidecorators")
    for name, hook in before.items():
        setattr(uwsgi, name, hook)
    if after_fork_before is not None:
        decorators.postfork(after_fork_before)
    return decorators


def follow_uwsgi() -> None:
    """Learn of the forks of uWSGI, which imports an application and then forks its workers, and does not tell Python.

    Python's own hooks run there only with uWSGI's option ``py-call-osafterfork``. ``uwsgi.post_fork_hook`` is called in
    each worker, in one that was not forked too. ``uwsgidecorators`` replaces it when it is imported, which fails in a
    uWSGI without a master; its list is used where it can be, and what an application has set itself stays. All of that
    is documented; seen in uWSGI 2.0.26 and 2.0.31. Without it, an application that publishes while it is imported loses
    all events of its workers.
    """
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return
    pid = os.getpid()

    def begin_anew() -> None:
        if os.getpid() != pid:
            forget_unfinished_imports()
            talking.start_over()
            after_forks.call()

    if getattr(uwsgi, "masterpid", int)():
        with contextlib.suppress(ImportError):
            _decorators_of(uwsgi).postfork(begin_anew)
            return
    others = getattr(uwsgi, "post_fork_hook", None)

    def call_all() -> None:
        begin_anew()
        if others is not None:
            others()

    uwsgi.post_fork_hook = call_all


follow_uwsgi()
