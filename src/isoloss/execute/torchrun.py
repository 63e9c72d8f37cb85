"""``torchrun ... -m isoloss run STUDY``: the processes that torchrun started, on one machine or several, as one worker.

The first of them is the driver. It starts a process that trains as rank 0, and the others serve as the other ranks;
jobs reach them over sockets that they open to the driver, whose address they find in torchrun's own store. When one
of them dies torchrun ends them all, and the next start goes on from what is stored.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import AuthenticationError, Event
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from isoloss.execute import local
from isoloss.execute.worker import main
from isoloss.recipe.errors import RunFailed
from isoloss.train.parallel.layout import Parallel

SETTLING = 30.0
"""Seconds that a state published on another machine may take to be seen here."""
PATIENCE = 300.0
"""Seconds in which all processes must have come."""


def rank() -> int | None:
    """The number of this process among those of torchrun; None where it was not started so."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def world() -> int:
    """How many processes torchrun started."""
    return int(os.environ["WORLD_SIZE"])


def _address() -> str:
    """Where the driver's address is noted: torchrun may start all processes again on the same store."""
    return f"isoloss/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/address"


def serve() -> None:
    """Train what the driver asks for, as this process's rank, until the driver ends; it may have nothing to train."""
    host, port, key = _rendezvous().get(_address()).decode().split()
    with Client((host, int(port)), authkey=bytes.fromhex(key)) as connection:
        connection.send(rank())
        setting = connection.recv()
        connection.poll(None)
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            if not line.recv(1, socket.MSG_PEEK):
                return  # nothing to train: rank 0 was never started, and nobody would join a group with this process
        main(connection, Event(), replace(setting, rank=rank()), SETTLING)


class Worker(local.Worker):
    """The local process of rank 0 and the sockets of the others."""

    def __init__(self, process: BaseProcess, pipes: list[Connection]) -> None:
        super().__init__([process], pipes)
        self.strength = len(pipes)


class Pool(local.Pool):
    """One worker, of all processes that torchrun started."""

    def __init__(
        self, store: Path | str, *, parallel: Parallel, under: Sequence[Path | str] = (), threads: int = 1,
        paths: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(store, under=under, workers=1, parallel=parallel, threads=threads, paths=paths)
        here = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]  # all on this machine
        host, key = "127.0.0.1" if here else os.environ["MASTER_ADDR"], secrets.token_bytes(32)
        self.setting = replace(self.setting, meeting="env://")  # where torchrun says
        self._started = False
        self._sockets: dict[int, Connection] = {}
        with Listener((host if here else "", 0), authkey=key) as listener:
            port = listener.address[1]
            _rendezvous().set(_address(), f"{host} {port} {key.hex()}")
            listener._listener._socket.settimeout(PATIENCE)  # type: ignore[attr-defined]
            while len(self._sockets) < parallel.world - 1:
                try:
                    connection = listener.accept()
                except TimeoutError as error:
                    missing = sorted(set(range(1, parallel.world)) - set(self._sockets))
                    raise RunFailed(f"torchrun: ranks {missing} have not come in {PATIENCE:g} s") from error
                except (AuthenticationError, EOFError, OSError):
                    continue  # a stranger
                self._sockets[connection.recv()] = connection
                connection.send(self.setting)

    def __exit__(self, *about: Any) -> None:
        super().__exit__(*about)
        for connection in self._sockets.values():
            connection.close()

    def start(self) -> Worker:
        if self._started:
            raise RunFailed("torchrun: a worker that has died cannot be started again; start torchrun again")
        self._started = True
        process, pipe = self.process(self.setting)
        worker = Worker(process, [pipe, *(self._sockets[rank] for rank in sorted(self._sockets))])
        self.workers.append(worker)
        return worker


def _rendezvous() -> Any:
    """Torchrun's own store of keys and values."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world(), is_master=rank() == 0 and not hosted,
        wait_for_workers=False,
    )  # fmt: skip
