"""A lease is renewed beside a process that cannot do it itself, for as long as that lives, and no longer."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from celery_realtime.history.lease_helper import Renewal
from celery_realtime.sending.green_lease import GreenLease, ProcessHelper, ThreadHelper
from celery_realtime.urls import RedisAddress
from tests.processes import HOST, ROOT, free_port, python_path
from tests.services import RedisServer
from tests.tls import TlsProxy, make_certificate
from tests.waiting import wait_for

pytestmark = pytest.mark.service

KEY = "renewals"


def renewal(url: str, pause: float = 0.05, **options: Any) -> Renewal:
    return Renewal(RedisAddress(url, options), "return redis.call('INCR', KEYS[1])", [KEY], [], pause)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def new_lease() -> Iterator[Callable[..., GreenLease]]:
    leases: list[GreenLease] = []

    def new(url: str, **options: Any) -> GreenLease:
        leases.append(GreenLease(renewal(url, **options)))
        leases[-1].start()
        return leases[-1]

    yield new
    for lease in leases:
        lease.stop()


#: The children that this process had before the test: other tests may have left zombies.
OTHERS: set[int] = set()


@pytest.fixture(autouse=True)
def _leave_others_out() -> None:
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children())


def helpers() -> list[psutil.Process]:
    """Return the helpers of this process, zombies among them."""
    children = [child for child in psutil.Process().children() if child.pid not in OTHERS]
    return [child for child in children if child.status() == psutil.STATUS_ZOMBIE or is_helper(child)]


def is_helper(process: psutil.Process) -> bool:
    return "celery-realtime lease helper" in process.cmdline()


def renewals(client: redis.Redis) -> int:
    return int(client.get(KEY) or 0)  # type: ignore[arg-type]


def goes_on(client: redis.Redis) -> bool:
    before = renewals(client)
    return bool(wait_for(lambda: renewals(client) > before + 1))


def test_a_process_renews_it_and_ends_when_it_is_not_wanted_any_more(
    new_lease: Callable[..., GreenLease], redis_url: str, client: redis.Redis
) -> None:
    lease = new_lease(redis_url)
    [helper] = helpers()
    assert goes_on(client)
    wait_for(lambda: lease.loop.is_turning)
    health = lease.loop.health()
    assert (health["name"], health["state"], health["failures"], health["error"]) == (
        "lease helper",
        "turning",
        0,
        None,
    )
    lease.stop()
    assert not helper.is_running()
    assert helpers() == []


def test_one_that_is_killed_is_replaced_and_health_says_so(
    new_lease: Callable[..., GreenLease], redis_url: str, client: redis.Redis
) -> None:
    lease = new_lease(redis_url)
    assert goes_on(client)
    wait_for(lambda: lease.loop.is_turning)
    [helper] = helpers()
    helper.kill()
    wait_for(lambda: lease.loop.failures == 1)
    [another] = wait_for(lambda: [one for one in helpers() if one.pid != helper.pid])
    assert goes_on(client)
    assert is_helper(another)


def test_while_redis_is_away_it_says_so_and_goes_on_afterwards(
    new_lease: Callable[..., GreenLease], tmp_path: Path
) -> None:
    server = RedisServer(tmp_path).start()
    try:
        client = redis.Redis.from_url(server.url())
        lease = new_lease(server.url())
        assert goes_on(client)
        server.kill()
        error = wait_for(lambda: lease.loop.health()["error"])
        assert "ConnectionError" in error
        server.start()
        assert goes_on(client)
        wait_for(lambda: lease.loop.health()["error"] is None)
    finally:
        server.kill()


@pytest.mark.parametrize("how", [[], ["fork"]], ids=["alone", "forked"])
def test_it_does_not_outlive_a_process_that_is_killed(redis_url: str, client: redis.Redis, how: list[str]) -> None:
    """Also when the end of its pipe is held open by another process."""
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.sending.lease_holder", redis_url, KEY, *how],
        cwd=ROOT,
        env={**os.environ, **python_path()},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    pid, other = map(int, holder.stdout.readline().split())
    try:
        helper = psutil.Process(pid)
        assert goes_on(client)
        holder.kill()
        holder.wait()
        wait_for(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE)
    finally:
        if other > 0:
            os.kill(other, signal.SIGKILL)
    after = renewals(client)
    time.sleep(0.5)  # noqa: TID251 - two renewals and more
    assert renewals(client) == after


def test_it_ends_when_its_process_becomes_another_program(redis_url: str, client: redis.Redis) -> None:
    """As a reloader makes it do that keeps the process."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.sending.lease_holder", redis_url, KEY, "exec"],
        cwd=ROOT,
        env={**os.environ, **python_path()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        helper = psutil.Process(int(holder.stdout.readline().split()[0]))
        assert goes_on(client)
        assert holder.stdin is not None
        holder.stdin.write("now\n")
        holder.stdin.flush()
        wait_for(lambda: helper.status() == psutil.STATUS_ZOMBIE)
        assert psutil.Process(holder.pid).name() == "sleep"
        holder.kill()


def test_signals_that_are_meant_for_all_processes_of_a_worker_do_not_end_it(
    new_lease: Callable[..., GreenLease], redis_url: str, client: redis.Redis
) -> None:
    new_lease(redis_url)
    assert goes_on(client)
    [helper] = helpers()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        helper.send_signal(number)
    assert goes_on(client)
    assert helpers() == [helper]


def test_it_has_none_of_the_files_that_are_open_here(
    new_lease: Callable[..., GreenLease], redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        new_lease(redis_url)
        assert goes_on(client)
        [helper] = helpers()
        assert str(tmp_path / "file") not in [opened.path for opened in helper.open_files()]


def test_a_password_is_not_seen_from_outside(new_lease: Callable[..., GreenLease], tmp_path: Path) -> None:
    server = RedisServer(tmp_path, options=("--requirepass", "very-secret"))
    server.start(wait=False)
    url = server.url().replace("redis://", "redis://:very-secret@")
    client = redis.Redis.from_url(url)
    try:
        wait_for(client.ping, ignoring=(redis.ConnectionError,))
        new_lease(url)
        assert goes_on(client)
        [helper] = helpers()
        assert "very-secret" not in " ".join([*helper.cmdline(), *helper.environ().values()])
    finally:
        server.kill()


def test_it_connects_by_a_unix_socket(new_lease: Callable[..., GreenLease], tmp_path: Path) -> None:
    path = f"/tmp/{free_port()}.sock"
    server = RedisServer(tmp_path, options=("--unixsocket", path)).start()
    try:
        new_lease(f"unix://{path}")
        assert goes_on(redis.Redis.from_url(server.url()))
    finally:
        server.kill()


def test_it_connects_over_tls(
    new_lease: Callable[..., GreenLease], redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "ours")
    with TlsProxy(redis_url, certificate) as proxy:
        number = redis_url.rpartition("/")[2]
        new_lease(f"rediss://{HOST}:{proxy.port}/{number}", ssl_ca_certs=str(certificate[0]))
        assert goes_on(client)
        assert len(helpers()) == 1


def test_an_option_that_cannot_be_copied_leaves_a_thread_and_a_word_in_the_log(
    new_lease: Callable[..., GreenLease],
    redis_url: str,
    client: redis.Redis,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificate = make_certificate(tmp_path, "ours")
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with TlsProxy(redis_url, certificate) as proxy, caplog.at_level(logging.WARNING):
        number = redis_url.rpartition("/")[2]
        lease = new_lease(f"rediss://{HOST}:{proxy.port}/{number}", ssl_context=context)
        assert goes_on(client)
        assert helpers() == []
        wait_for(lambda: lease.loop.is_turning)
        lease.stop()
    assert "a thread does" in caplog.text


def test_where_this_python_cannot_be_started_again_a_thread_does_it(
    new_lease: Callable[..., GreenLease], redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("/no/such/python", "/bin/true"):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", program)
            lease = new_lease(redis_url)
            assert goes_on(client)
            lease.stop()


def test_both_say_what_became_of_each_renewal(redis_url: str) -> None:
    made = (ProcessHelper(renewal(redis_url)), ThreadHelper(renewal(redis_url)))
    try:
        for helper in made:
            outcomes = wait_for(helper.outcomes)
            assert outcomes is not None
            assert set(outcomes) == {""}
    finally:
        for helper in made:
            helper.stop()
