"""What is changed inside a driver and its workers so that a fault can strike them: installed after a fork, by hand.

Every operation of the disk is noted in a log, one line each; so a fault can wait for the n-th of them, and pieces that
were published twice are counted.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPERATIONS = ("make_folder", "create", "sync", "link", "unlink", "rename", "touch", "sync_folder")
TAKES_SPACE = ("make_folder", "create", "write", "link")


@dataclass(frozen=True)
class Spoil:
    """At the ``at``-th operation of the disk of the process that plays ``role``, ``action`` happens.

    ``role``: driver, or worker-R with R the rank in its gang (the first such process only). ``action``: kill (itself,
    in the middle of what it writes), kill-partner (the other process of its gang), error (EIO, once) or full (ENOSPC,
    from then on).
    """

    role: str
    at: int
    action: str


@dataclass
class Hooks:
    """What one driver and its workers are to suffer; nothing by default but the log of operations.

    ``beat``: seconds between heartbeats of its leases. ``clock``: (call, seconds): the clock jumps by so much at that
    reading, and with it the times that are stamped on files. ``file_limit``: no file may grow beyond so many bytes.
    ``importing``: seconds before workers can be forked, which a new interpreter would need to import everything.
    ``modules``: where to write the names of all modules that it has imported at its end.
    """

    log: Path
    beat: float | None = None
    clock: tuple[int, float] | None = None
    spoil: Spoil | None = None
    file_limit: int | None = None
    importing: float = 0.0
    modules: Path | None = None
    role: str = "driver"
    gang: str = ""
    done: int = 0
    read: int = 0
    full: bool = False
    _file: tuple[int, int] | None = field(default=None, repr=False)

    def install(self) -> None:
        """Into this process, which is about to be a driver; its workers inherit it."""
        from isoloss import report
        from isoloss.execute import run
        from isoloss.store import backend, store

        report.write = lambda answer, folder: Path(folder) / "index.html"  # drawing takes longer than this study
        if self.beat is not None:
            run.BEAT = self.beat
        if self.file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, self.file_limit))
        for name in OPERATIONS:
            setattr(backend.Disk, name, self._watched(name, getattr(backend.Disk, name)))
        backend.Disk.write = self._writing(backend.Disk.write)  # type: ignore[method-assign]
        store.Store.publish = self._publishing(store.Store.publish)  # type: ignore[method-assign]
        if self.clock is not None:
            self._move_clock(backend.Disk)

    def install_in_server(self) -> None:
        """Into the process that workers are forked from."""
        from isoloss.execute import worker

        main = worker.main

        def begun(connection: Any, halting: Any, setting: Any) -> None:
            self.role, self.gang, self.done = f"worker-{setting.rank}", str(setting.meeting), 0
            self.note("worker", f"{self.role} {self.gang}")
            main(connection, halting, setting)

        worker.main = begun

    def note(self, what: str, more: str = "") -> None:
        """One line into the log: pid, what, and more."""
        if self._file is None or self._file[0] != os.getpid():
            self._file = (os.getpid(), os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
        os.write(self._file[1], f"{os.getpid()} {what} {more}\n".encode())

    def _watched(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def watched(disk: Any, *args: Any) -> Any:
            self._step(name)
            return operation(disk, *args)

        return watched

    def _writing(self, write: Callable[..., None]) -> Callable[..., None]:
        def writing(disk: Any, file: int, chunks: Iterable[Any]) -> None:
            data = b"".join(bytes(chunk) for chunk in chunks)
            self._step("write", torn=lambda: os.write(file, data[: len(data) // 2]))
            write(disk, file, (data,))

        return writing

    def _publishing(self, publish: Callable[..., bool]) -> Callable[..., bool]:
        def publishing(store: Any, piece: Any, *args: Any, **options: Any) -> bool:
            made = publish(store, piece, *args, **options)
            self.note("published", f"{piece.start_key} {piece.end_key} {piece.end_update - piece.start_update}")
            return made

        return publishing

    def _step(self, name: str, torn: Callable[[], object] | None = None) -> None:
        self.note(name)
        self.done += 1
        if self.full and name in TAKES_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        spoil = self.spoil
        if spoil is None or spoil.role != self.role or self.done != spoil.at or not self._first():
            return
        self.note("spoilt", f"{spoil.action} at {name}")
        if spoil.action == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if torn:
            torn()
        if spoil.action == "full":
            self.full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid() if spoil.action == "kill" else self._partner(), signal.SIGKILL)

    def _first(self) -> bool:
        """Whether nothing was spoilt yet: a worker that takes the dead one's place is spared."""
        return " spoilt " not in self.log.read_text()

    def _partner(self) -> int:
        found = re.findall(rf"^(\d+) worker worker-\d+ {re.escape(self.gang)}$", self.log.read_text(), re.MULTILINE)
        return next(int(pid) for pid in found if int(pid) != os.getpid())

    def _move_clock(self, disk: Any) -> None:
        assert self.clock is not None
        at, seconds = self.clock
        real = time.time

        def now() -> float:
            self.read += 1
            return real() + (seconds if self.read >= at else 0.0)

        def stamped(operation: Callable[..., Any], which: int) -> Callable[..., Any]:
            def stamping(own: Any, *args: Any) -> Any:
                result = operation(own, *args)
                moment = now()
                os.utime(args[which], (moment, moment))
                return result

            return stamping

        time.time = now
        disk.create = stamped(disk.create, 0)
        disk.link = stamped(disk.link, 1)
        disk.touch = stamped(disk.touch, 0)
