"""`isoloss` as it is typed: in a process of its own, or, as an import of torch costs seconds, in this one."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from isoloss.cli.main import main

ISOLOSS = Path(sys.executable).with_name("isoloss")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def typed(*arguments: object, cwd: Path, code: int = 0) -> Done:
    """The console script in a fresh process. Raises AssertionError for another exit code and for a traceback."""
    done = subprocess.run(
        [ISOLOSS, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return Done(done.stdout, done.stderr)


def isoloss(*arguments: object, cwd: Path, code: int = 0) -> Done:
    """The same entry point in this process; whatever it does not handle itself is raised."""
    out, err, ended = io.StringIO(), io.StringIO(), None
    before = signal.getsignal(signal.SIGINT)
    with (
        patch.object(sys, "argv", ["isoloss", *map(str, arguments)]),
        patch.dict(os.environ, ENVIRONMENT),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            ended = stop.code
        finally:
            signal.signal(signal.SIGINT, before)
    assert (ended or 0) == code, (out.getvalue(), err.getvalue())
    assert "Traceback" not in err.getvalue()
    return Done(out.getvalue(), err.getvalue())
