"""A Ray cluster of two nodes on this machine, for the tests that want one."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Ray reads its token once a process: all modules must have the same one, so it is set before any test begins.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
OBJECTS = 80 * 2**20
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A lost node shows after seconds, not after half a minute."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each on this machine; the path is short because sockets lie under it."""
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="iso-"))
    (folder / "ray").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(__file__).parents[2], *filter(None, sys.path)))))
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": OBJECTS, "_system_config": QUICK}
        made = Cluster(initialize_head=True, head_node_args=head | {"temp_dir": str(folder / "ray")})
        made.add_node(num_cpus=1, object_store_memory=OBJECTS)
        yield made
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
