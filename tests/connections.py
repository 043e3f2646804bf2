"""Count the connections of a process, by what Linux says of its sockets."""

from __future__ import annotations

import contextlib
from pathlib import Path

_ESTABLISHED = "01"


def connections_to(port: int, pid: int) -> int:
    """Return how many TCP connections a process has to a port of this host, those that it has inherited left out."""
    inodes = {inode for inode, remote in _sockets(pid) if remote == port}
    return len(inodes & (_inodes_of(pid) - _inodes_of(_parent_of(pid))))


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def _sockets(pid: int) -> list[tuple[str, int]]:
    """Return the inode and the remote port of each established connection that a process's network has."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [(row[9], int(row[2].rpartition(":")[2], 16)) for row in fields if row[3] == _ESTABLISHED]


def _inodes_of(pid: int) -> set[str]:
    inodes = set()
    with contextlib.suppress(OSError):
        for link in list(Path(f"/proc/{pid}/fd").iterdir()):
            with contextlib.suppress(OSError):
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    return inodes


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
