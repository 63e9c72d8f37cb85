"""What `isoloss watch` costs on a finished study, and how its likely ends do there.

    python benchmarks/watch.py quickstart/quickstart.yaml

Ends: every run is cut off at 30, 50, 75 and 90 % of its length and predicted from what was known then: from itself
alone, and with the runs of the seeds before its own. A ceiling holds where the run ends below the upper end of its
band.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

CUTS = (0.3, 0.5, 0.75, 0.9)
LOOKS = 20


def main() -> None:
    from isoloss.report.watch.watch import Watch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    study = parser.parse_args().study
    watch = Watch(study, study.with_suffix(".store"))
    spent = []
    for _ in range(1 + LOOKS):
        clock = time.thread_time()
        watch.look()
        spent.append(time.thread_time() - clock)
    clock = time.thread_time()
    watch.present().runs()
    records = time.thread_time() - clock
    size = len(json.dumps(watch.records.since()[1]))
    print(f"first look {spent[0]:.2f} s, a later one {1000 * statistics.median(spent[1:]):.1f} ms of a core")
    print(f"records of all runs {1000 * records:.0f} ms, all that a page is sent {size / 1000:.0f} kB\n")
    print("| from | others | cut at | runs | without a band | held | median error | median width |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for line in ends(watch):
        print(line)


def ends(watch: object) -> Iterator[str]:
    """A table of predicted against actual ends."""
    from isoloss.report.watch.expected import Others
    from isoloss.report.watch.watch import Watch

    assert isinstance(watch, Watch)
    present = watch.present()
    pairs = [(r, c) for r, c in zip(watch.plan.runs, present.courses(), strict=True) if not r.trial and c.end]
    seeds = list(dict.fromkeys(course.seed for _, course in pairs))
    found: dict[tuple[str, str, float], list[tuple[bool, float, float] | None]] = defaultdict(list)
    for run, whole in pairs:
        updates, losses = present.training(run)
        before = [c for _, c in pairs if seeds.index(c.seed) < seeds.index(whole.seed)]
        for cut in CUTS:
            until = cut * whole.length
            cropped = replace(
                whole,
                end=None,
                losses={u: v for u, v in whole.losses.items() if u <= until},
                walked={track: {u: v for u, v in m.items() if u <= until} for track, m in whole.walked.items()},
            )
            known = [(u, v) for u, v in zip(updates, losses, strict=True) if u <= until]
            training = [u for u, _ in known], [v for _, v in known]
            for name, others in (("none", []), ("seeds before", before)):
                made = Others([*others, cropped]).expect(cropped, training)
                if made is None or whole.end is None or (name == "seeds before" and not others):
                    continue
                judged = None
                if made.low is not None and made.high is not None:
                    held = whole.end <= made.high and (made.ceiling or made.low <= whole.end)
                    judged = held, abs(made.loss / whole.end - 1), (made.high - made.low) / made.loss
                found[f"{made.how}{', ceiling' if made.ceiling else ''}", name, cut].append(judged)
    for (how, name, cut), rows in sorted(found.items()):
        banded = [row for row in rows if row]
        held = f"{sum(row[0] for row in banded) / len(banded):.0%}" if banded else ""
        error, width = (f"{statistics.median(row[i] for row in banded):.2%}" if banded else "" for i in (1, 2))
        yield f"| {how} | {name} | {cut:.0%} | {len(rows)} | {len(rows) - len(banded)} | {held} | {error} | {width} |"


if __name__ == "__main__":
    main()
