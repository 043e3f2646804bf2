"""Whatever order threads run in, each client gets each event of its project once and in order, from its snapshot on."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.web import catchup, doubts, newcomers
from tests.fuzz import deliveries
from tests.fuzz.budget import tried
from tests.fuzz.deliveries import Client, Clock, Message, Past, Site

#: What a run replaces: the clock, and times after which events are let go ahead of others.
HELD: dict[Any, tuple[str, ...]] = {
    catchup: ("LONGEST_WAIT",),
    newcomers: ("time", "LONGEST_HOLD_FOR_REPLAY", "LONGEST_AFTERMATH"),
    doubts: ("time",),
}

FOR_EVER = 1e9

#: What may happen next, and how likely that is beside the others.
DEEDS = {
    "publish": 12,
    "hear": 20,
    "think": 40,
    "read": 15,
    "wait": 10,
    "come": 6,
    "leave": 2,
    "again": 1,
    "lose": 3,
    "restart": 1,
    "break_link": 2,
    "follow": 3,
    "unfollow": 1,
}


class World:
    """A project with one or two web servers.

    Args:
        chance: Decides all that is random.
    """

    def __init__(self, chance: random.Random, deeds: dict[str, int]) -> None:
        self.chance = chance
        self.deeds = deeds
        self.clock = Clock()
        self.past = Past()
        self.all_sites: list[Site] = []
        self.sites = [self._new_site()]
        self.clients: list[Client] = []

    def _new_site(self) -> Site:
        self.all_sites.append(Site(self.past, self.clock))
        return self.all_sites[-1]

    def act(self) -> None:
        (deed,) = self.chance.choices(list(self.deeds), list(self.deeds.values()))
        getattr(self, deed)()

    # -- deeds --------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        entries = [self.past.add(self.chance.choice(deliveries.JOBS)) for _ in range(self.chance.choice((1, 1, 2, 4)))]
        messages = [Message(entries)] if self.chance.random() < 0.5 else [Message([entry]) for entry in entries]
        if self.chance.random() < 0.2:
            messages.reverse()
        for site in self.sites:
            for message in messages:
                if self.chance.random() < 0.95:
                    site.channel.append(message)

    def _site(self) -> Site:
        return self.chance.choice(self.sites)

    def hear(self) -> None:
        self._site().hear()

    def think(self) -> None:
        site = self._site()
        for _ in range(self.chance.choice((1, 1, 2, 8))):
            if site.threads:
                site.step(self.chance.randrange(len(site.threads)))

    def read(self) -> None:
        site = self._site()
        if site.reading is None:
            site.reading = site.history.turn()
        if next(site.reading, "over") == "over":
            site.reading = None

    def wait(self) -> None:
        self.clock.now += self.chance.choice((0.02, 0.06, 0.11, 0.3, 1.1))

    def come(self) -> None:
        client = Client(self._site(), is_plain=self.chance.random() < 0.5, batch=self.chance.random() < 0.3)
        self.clients.append(client)
        client.subscribe()

    def leave(self) -> None:
        if self.clients:
            client = self.clients.pop(self.chance.randrange(len(self.clients)))
            client.leave()

    def again(self) -> None:
        if self.clients:
            self.chance.choice(self.clients).subscribe()

    def follow(self) -> None:
        if self.clients:
            self.chance.choice(self.clients).follow(
                self.chance.choice(deliveries.JOBS), batch=self.chance.random() < 0.5
            )

    def unfollow(self) -> None:
        if self.clients:
            self.chance.choice(self.clients).leave_job(self.chance.choice(deliveries.JOBS))

    def lose(self) -> None:
        site = self._site()
        if site.channel:
            site.channel.popleft()

    def restart(self) -> None:
        place = self.chance.randrange(len(self.sites))
        self.clients = [client for client in self.clients if client.site is not self.sites[place]]
        self.sites[place] = self._new_site()

    def break_link(self) -> None:
        self._site().break_link()

    # -- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        for site in self.all_sites:
            site.close()

    def settle(self) -> None:
        for _ in range(400):
            self.clock.now += 0.05
            for site in self.sites:
                site.hear()
                for number in range(len(site.threads) - 1, -1, -1):
                    site.step(number)
                if site.reading is None:
                    site.reading = site.history.turn()
                if next(site.reading, "over") == "over":
                    site.reading = None

    def check(self) -> None:
        for client in self.clients:
            check(client, self.past)


def check(client: Client, past: Past) -> None:
    """Check what a client has heard; one that takes acknowledgements drops what it has, by its offset."""
    heard = client.heard
    places = [place for place, one in enumerate(heard) if one[0] == "snapshot"]
    if not places and client.refusals:
        return
    assert places, heard
    offsets = [offset for kind, _, offset in heard if kind == "event"]
    if client.is_plain or (client.asked == 1 and not client.follows):
        assert offsets == sorted(set(offsets)), (client.is_plain, client.batch, client.follows, heard)
    at = heard[places[0]][2]
    for kind, _, offset in heard[places[0] + 1 :]:
        is_missed = kind == "event" and offset > at + 1
        assert not is_missed, (client.is_plain, client.batch, client.follows, heard)
        if kind == "event" and client.is_plain and not client.follows:
            assert offset == at + 1, (client.is_plain, client.batch, heard)
        at = max(at, offset)
    assert at == len(past.entries), (client.is_plain, client.batch, client.follows, heard, len(past.entries))


@pytest.fixture(autouse=True)
def in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "HistoryReader", deliveries.Reader)
    for module, names in HELD.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # what a run changes is put back


@tried(20)
@given(seed=st.integers(0, 2**40), count=st.integers(10, 300))
def test_each_client_gets_each_event_once_and_in_order(seed: int, count: int) -> None:
    run(seed, count)


def run(seed: int, count: int) -> None:
    world = World(random.Random(seed), DEEDS)
    for module, names in HELD.items():
        for name in names:
            setattr(module, name, world.clock if name == "time" else FOR_EVER)
    with contextlib.closing(world):
        for _ in range(count):
            world.act()
        world.settle()
        for _ in range(4):
            world.publish()
        world.settle()
        world.check()
