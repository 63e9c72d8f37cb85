"""Records that a page is sent, each with the version at which it last changed; it asks for what is newer."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping

from isoloss.report.tidy import Json


class Records:
    """Safe for one writer and any number of readers."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(8)
        """Names this server: versions of another one say nothing here."""
        self.version = 0
        self._plan: tuple[int, Json] = (0, {})
        self._head: Json = {}
        self._kinds: dict[str, dict[str, tuple[int, Json]]] = {"runs": {}, "tracks": {}}
        self._lock = threading.Lock()

    def update(
        self, head: Json, plan: Json | None = None, runs: Mapping[str, Json] = {}, tracks: Mapping[str, Json] = {}
    ) -> None:
        """Take in what is known now. A ``plan`` replaces everything; records that did not change keep their version."""
        with self._lock:
            version = self.version + 1
            changed = head != self._head
            self._head = head
            if plan is not None:
                self._plan, changed = (version, plan), True
                self._kinds = {"runs": {}, "tracks": {}}
            for kind, given in (("runs", runs), ("tracks", tracks)):
                kept = self._kinds[kind]
                for name, record in given.items():
                    if name not in kept or kept[name][1] != record:
                        kept[name] = version, record
                        changed = True
            self.version += changed

    @property
    def head(self) -> Json:
        """What was last said of the whole study."""
        with self._lock:
            return dict(self._head)

    def since(self, tag: str | None = None) -> tuple[str, Json]:
        """(tag, what changed after ``tag``); all of it where the tag is of another server or plan, or none."""
        with self._lock:
            boot, _, number = (tag or "").partition(".")
            known = int(number) if boot == self.boot and number.isdigit() else -1
            whole = known < self._plan[0] or known > self.version
            after = -1 if whole else known
            found: Json = {"schema": 1, "tag": f"{self.boot}.{self.version}", "whole": whole, "head": self._head}
            if whole:
                found["plan"] = self._plan[1]
            for kind, kept in self._kinds.items():
                found[kind] = {name: record for name, (version, record) in kept.items() if version > after}
            return found["tag"], found
