"""Commands of isoloss as processes that need import nothing: forked from one that has imported everything.

A driver starts its workers as always, by multiprocessing's forkserver; only that server is not a new interpreter but
a process forked before the driver did anything. A driver has its own session, so that all of it can be ended at once.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import multiprocessing.util
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.chaos.hooks import Hooks

PATIENCE = 90.0
"""Seconds after which a process that ought to end counts as hanging."""
_SUBREAPER = 36


def warm(modules: Iterable[str]) -> None:
    """Import what commands and workers use; leaves this process fit to be forked."""
    for name in modules:
        # Some names belong to no file, or only make sense in the process that had them.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    # Importing polars starts idle threads of its own, in the product's forkserver too; more would not be safe.
    threads = {Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")}
    assert all(name.startswith(("python", "jemalloc", "polars-ooc")) for name in threads), threads


def adopt() -> None:
    """Become the parent of whatever is orphaned below this process, so that nothing can hide."""
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def children(pid: int) -> list[int]:
    """Living processes whose parent is ``pid``."""
    below = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            below.append(int(name))
    return below


class Driver:
    """One command of isoloss at work."""

    def __init__(self, command: Sequence[str], folder: Path, hooks: Hooks) -> None:
        """Start ``isoloss *command`` in ``folder``; what it says goes to a new file there."""
        self.command, self.hooks = list(command), hooks
        self.said_in = folder / f"said-{len(list(folder.glob('said-*')))}.txt"
        self.code: int | None = None
        self.begun = time.monotonic()
        self.seconds = 0.0
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _become(self.command, folder, self.said_in, hooks, writer)
        os.close(writer)
        with os.fdopen(reader) as told:
            self.server = int(told.readline() or 0)

    def ended(self) -> bool:
        """Whether it has; then ``code`` is its exit code (negative: the signal that ended it)."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.seconds = time.monotonic() - self.begun
        return self.code is not None

    def wait(self, patience: float = PATIENCE) -> int | None:
        """Exit code; None (and all of it killed) where it hangs."""
        until = time.monotonic() + patience
        while not self.ended():
            if time.monotonic() > until:
                self.signal_all(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.code = -signal.SIGKILL
                return None
            time.sleep(0.005)
        return self.code

    def workers(self) -> list[int]:
        """Its worker processes."""
        return children(self.server)

    def signal(self, number: int) -> None:
        """To the driver alone."""
        if not self.ended():
            os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """To the driver, its workers, and what they are forked from."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def said(self) -> str:
        """Everything that it and its workers have printed."""
        return self.said_in.read_text(errors="replace")

    def cut(self) -> bool:
        """Whether what it said met the limit of files too, so that the last words are missing."""
        limit = self.hooks.file_limit
        return limit is not None and self.said_in.stat().st_size >= limit


def _become(command: Sequence[str], folder: Path, said_in: Path, hooks: Hooks, tell: int) -> None:
    """Never returns: this process is the command from here on."""
    code: Any = 1
    try:
        os.setsid()
        os.chdir(folder)
        quiet, file = os.open(os.devnull, os.O_RDONLY), os.open(said_in, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(quiet, 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        hooks.install()
        server, request = _server(hooks, tell)
        multiprocessing.util.spawnv_passfds = _passing(server, request, multiprocessing.util.spawnv_passfds)
        os.write(tell, f"{server}\n".encode())
        os.close(tell)
        sys.argv = ["isoloss", *command]
        from isoloss.cli.main import main

        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            if hooks.modules is not None:
                hooks.modules.write_text("\n".join(sorted(sys.modules)))
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _server(hooks: Hooks, tell: int) -> tuple[int, socket.socket]:
    """A process that waits to become a forkserver: (its pid, where to ask it)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        ours.close()
        os.close(tell)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is not there yet
        message, passed, _, _ = socket.recv_fds(theirs, 1 << 16, 16)
        if message:
            wanted, _, rest = message.decode().partition("\n")
            blocked, _, code = rest.partition("\n")
            signal.pthread_sigmask(signal.SIG_SETMASK, {int(number) for number in blocked.split()})
            signal.signal(signal.SIGINT, signal.default_int_handler)
            time.sleep(hooks.importing)
            names = [int(name) for name in wanted.split()]
            high = [_high(file) for file in passed]
            os.closerange(3, 500)
            for file, name in zip(high, names, strict=True):
                os.dup2(file, name)
            os.closerange(500, 600)
            hooks.install_in_server()
            exec(code, {})
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _high(file: int) -> int:
    """The same open file under a number beyond 500."""
    import fcntl

    return fcntl.fcntl(file, fcntl.F_DUPFD, 500)


def _passing(server: int, request: socket.socket, otherwise: Callable[..., int]) -> Callable[..., int]:
    """In place of starting an interpreter for a forkserver: let the process become one that waits for it."""
    used: list[int] = []

    def spawn(path: Any, args: Sequence[Any], passed: Sequence[int]) -> int:
        code = str(args[-1])
        if used or not re.match(rf"from {forkserver.__name__} import main", code):
            return otherwise(path, args, passed)
        used.append(server)
        blocked = " ".join(str(int(number)) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        message = f"{' '.join(map(str, passed))}\n{blocked}\n{code}"
        socket.send_fds(request, [message.encode()], list(passed))
        request.close()
        return server

    return spawn
