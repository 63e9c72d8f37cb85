"""Who holds a lease: a process, named by its machine, its number and when it began."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path


def this_process() -> str:
    """The name of this process as an owner."""
    return f"{socket.gethostname()} {os.getpid()} {born(os.getpid())}"


def parts(owner: str) -> tuple[str, str, str]:
    """Machine, number of the process and when it began, by its machine's clock; empty for a name of another form."""
    host, pid, since = [*owner.rsplit(" ", 2), "", ""][:3]
    return host, pid, since


def born(pid: int | str) -> str:
    """When a process of this machine began, in its own clock; empty if there is none (or no /proc to ask)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError, ValueError):
        return ""


def gone(owner: str) -> bool:
    """Whether an owner was a process of this machine that no longer runs; no for a name of another form."""
    host, pid, since = parts(owner)
    return host == socket.gethostname() and since != "" and born(pid) != since


def recorded(record: bytes) -> str | None:
    """Who wrote a record; nobody where it is damaged (records are not synced): double work at worst."""
    try:
        owner = json.loads(record)["owner"]
    except (ValueError, KeyError, TypeError):
        return None
    return owner if isinstance(owner, str) else None
