"""What is written to a socket comes whole and in order, whatever the kernel takes at once."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from typing import Any

import pytest

from celery_realtime.web import outlets
from celery_realtime.web.outlets import Outlet, WholeSocket

BIG = os.urandom(4_000_000)


def threads_pair() -> tuple[Any, Any]:
    return socket.socketpair()


def gevent_pair() -> tuple[Any, Any]:
    return pytest.importorskip("gevent.socket").socketpair()  # type: ignore[no-any-return]


def eventlet_pair() -> tuple[Any, Any]:
    greenio = pytest.importorskip("eventlet.greenio")
    here, there = socket.socketpair()
    return greenio.GreenSocket(here), greenio.GreenSocket(there)


PAIRS = [threads_pair, gevent_pair, eventlet_pair]


def read(connection: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


@pytest.mark.filterwarnings("ignore:")  # eventlet is deprecated
@pytest.mark.parametrize("pair", PAIRS)
def test_what_fits_is_written_at_once(pair: Any) -> None:
    here, there = pair()
    outlet = Outlet(here)
    assert outlet.is_direct
    assert outlet.write(b"first") == 5
    assert outlet.send(b"second") == 6
    assert read(there, 11) == b"firstsecond"
    here.close()
    there.close()


@pytest.mark.filterwarnings("ignore:")
@pytest.mark.parametrize("pair", PAIRS)
def test_nobody_waits_for_a_client_that_does_not_read(pair: Any) -> None:
    here, there = pair()
    outlet = Outlet(here)
    taken = outlet.write(BIG)
    assert 0 < taken < len(BIG)
    assert outlet.write(b"later") == 0  # what is left comes first
    assert read(there, taken) == BIG[:taken]
    assert outlet.write(b"later") == 0
    here.close()
    there.close()


def test_what_is_left_comes_before_what_is_sent_next() -> None:
    here, there = threads_pair()
    outlet = Outlet(here)
    assert 0 < outlet.write(BIG) < len(BIG)
    sender = threading.Thread(target=outlet.send, args=(b"next",))
    sender.start()
    assert read(there, len(BIG) + 4) == BIG + b"next"
    sender.join(60)
    assert outlet.write(b"again") == 5
    here.close()
    there.close()


def test_nothing_is_written_while_somebody_sends() -> None:
    here, there = threads_pair()
    outlet = Outlet(here)
    sender = threading.Thread(target=outlet.send, args=(BIG,))
    sender.start()
    first = read(there, 1)  # it has begun, and what is left does not fit
    assert outlet.write(b"now") == 0
    assert first + read(there, len(BIG) - 1) == BIG
    sender.join(60)
    here.close()
    there.close()


@pytest.mark.parametrize("ended", ["here", "there"])
def test_a_broken_socket_takes_nothing_and_whoever_sends_notices(ended: str) -> None:
    here, there = threads_pair()
    outlet = Outlet(here)
    (here if ended == "here" else there).close()
    assert outlet.write(b"x") == 0
    with pytest.raises(OSError, match=r"Bad file descriptor|Broken pipe"):
        outlet.send(b"x")
    here.close()
    there.close()


def test_sockets_with_a_time_out_are_not_written_to_at_once() -> None:
    """Python itself waits for them."""
    here, there = threads_pair()
    here.settimeout(60)
    outlet = Outlet(here)
    assert outlet.write(b"x") == 0
    here.settimeout(None)
    assert outlet.write(b"x") == 1
    here.close()
    there.close()


def test_sockets_of_tls_are_not_written_to_at_once() -> None:
    here, there = threads_pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    secret = context.wrap_socket(here, server_hostname="x", do_handshake_on_connect=False)
    outlet = Outlet(secret)
    assert not outlet.is_direct
    assert outlet.write(b"x") == 0
    secret.close()
    there.close()


def test_without_the_flag_nothing_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "AT_ONCE", None)
    here, there = threads_pair()
    outlet = Outlet(here)
    assert not outlet.is_direct
    assert outlet.write(b"x") == 0
    assert outlet.send(b"yz") == 2
    assert read(there, 2) == b"yz"
    here.close()
    there.close()


@pytest.mark.parametrize(("module", "name"), [("gevent._socket3", "_sock"), ("eventlet.greenio.base", "fd")])
def test_a_socket_of_greenlets_that_shows_nothing_is_not_written_to_at_once(module: str, name: str) -> None:
    kind = type("Socket", (), {"__module__": module})
    assert outlets._write_of(kind()) is None
    assert outlets._write_of(type("Socket", (), {"__module__": module, name: socket.socket()})()) is not None


def test_a_whole_socket_is_the_socket_otherwise() -> None:
    here, there = threads_pair()
    whole = WholeSocket(here)
    assert whole.fileno() == here.fileno()
    assert whole.send(b"ab") == 2
    whole.sendall(b"cd")
    assert read(there, 4) == b"abcd"
    here.close()
    there.close()
