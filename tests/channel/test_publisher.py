"""A publisher counts what the broker has accepted; an error of ours is not taken for an outage."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.channel.connections import Preference, connection, fanout_exchange
from celery_realtime.channel.publisher import Publisher
from tests.log_records import logged_by
from tests.processes import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Broker


def publisher(url: str) -> Publisher:
    connect = functools.partial(connection, url, {})
    return Publisher(
        connect, functools.partial(fanout_exchange, "tests", {}), {}, "the broker", Preference("memory://", {})
    )


def each(items: list[bytes]) -> Iterator[tuple[list[bytes], bytes]]:
    yield from (([item], item) for item in items)


def test_all_that_the_broker_accepts_is_counted(broker: Broker) -> None:
    sending = publisher(broker.url)
    assert sending.send([b"1", b"2", b"3"], each) == 3
    assert sending.send([], each) == 0
    sending.close()


def test_an_error_in_packing_is_raised_and_is_no_outage(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    def broken(items: list[Any]) -> Iterator[tuple[list[Any], bytes]]:
        yield [items[0]], b"1"
        raise TypeError("cannot be packed")

    sending = publisher(broker.url)
    with pytest.raises(TypeError, match="cannot be packed"):
        sending.send([b"1", b"2"], broken)
    assert logged_by(caplog, "celery_realtime.channel") == []
    assert sending.offer(b"more")
    assert sending.send([b"3"], each) == 1
    sending.close()


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_an_outage_is_logged_with_what_it_means_and_the_next_single_message_does_not_try(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "celery_realtime")
    sending = publisher(f"{scheme}://{HOST}:{free_port()}/")
    assert sending.send([b"1"], each) == 0
    assert [record.levelno for record in logged_by(caplog, "celery_realtime.channel")] == [logging.DEBUG, logging.ERROR]
    assert "cannot publish to the broker, so events wait or are lost; trying again" in caplog.text
    assert not sending.offer(b"2")
    assert len(logged_by(caplog, "celery_realtime.channel")) == 2


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_host_that_cannot_be_resolved_is_an_outage(scheme: str) -> None:
    assert publisher(f"{scheme}://no-such-host.invalid/").send([b"1"], each) == 0
