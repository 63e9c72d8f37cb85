"""A page of a reproduction, in Markdown, from kept files alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoloss.report import formats
from reproductions.headline import FEW, Line, fewest, worth
from reproductions.kept import PAGES, Json, answers, whole
from reproductions.markdown import table
from reproductions.verdicts import FAILS, HOLDS, OPEN, Verdict

ABOUT = """\
The papers' studies, run at sizes that two CPU cores can train, and what was found beside what the papers say.
Every number of these pages comes from files that are kept beside them: `make reproductions` builds the pages
from the files, and tests hold both together. A claim **holds** or **does not hold** only by a whole interval
(of cells: by how many do so by theirs); otherwise it is **not resolved at this scale**. Results that contradict a
paper stay. None of this is a statement about models that are larger by many orders of magnitude.

Kept of each study: all its measurements in one file, a read-only store (`isoloss run STUDY --under FILE` trains
only what it lacks: more seeds extend it), and what isoloss concludes from them. Training a cell again gives
the kept bits on a machine with the same numerics; a test does so with a cheap cell of each study, and with one that
has a pre-training."""
INTERVALS = """\
Intervals are 90 %. Of differences and of worth: Student's t over seeds (runs of one seed are one unit). Of exponents of
laws: resampled seeds and sizes; of laws of transfer, of seeds with the scatter of the cells. Of shares of cells: by
those that lie on one side by their own whole interval. Where a claim has a tolerance, an
interval wholly within it holds and one wholly beyond it does not. Claims are not corrected for their number."""
COMMANDS = """\
Beside these: few-shot accuracies of pre-trained networks, published, as
[worth in shots](../worth-transfer.md#worth-in-shots-without-training).

Small twins of the studies (`studies/small/`, about two minutes each) are trained in the tests. To run one
yourself:

```bash
isoloss plan studies/small/fixed-durations.yaml --no-calibrate
```

<!-- not run: a long training -->
```bash
isoloss run studies/fixed-durations.yaml
```

Studies of images need Fashion-MNIST's files; the first lines of each say where."""


ROUNDING = 1e-6
"""Ratios that differ less from 1 are of equal runs."""


@dataclass(frozen=True)
class Claim:
    """What a paper says, in one line with its published figure; what was found here, with its interval; the verdict."""

    says: str
    found: str
    verdict: Verdict


@dataclass(frozen=True)
class Part:
    """One study file: its name without ``.yaml``, what it is for, and columns of training curves that are kept."""

    study: str
    about: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reproduction:
    """One page, once its first part was run. ``claims`` reads the answers of the parts that were, by study name.

    ``figures``: captions by study and name.

    ``headline``: the lines of the README's table, from the same answers as ``claims``. ``left_out``: what of the paper
    nothing here was run for. ``details``: by study, further paragraphs of its section, from its answer.
    """

    folder: str
    title: str
    paper: str
    question: str
    parts: tuple[Part, ...]
    claims: Callable[[Mapping[str, Json]], Sequence[Claim]]
    figures: Mapping[str, Mapping[str, str]]
    headline: Callable[[Mapping[str, Json]], Sequence[Line]]
    left_out: str = ""
    details: Mapping[str, Callable[[Json], Sequence[str]]] = field(default_factory=dict)

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of its study files."""
        return tuple(part.study for part in self.parts)


def write(made: Reproduction, target: Path | None = None) -> list[Path]:
    """Write the page and its figures; their paths. ``target``: another folder than the documentation's."""
    folder = target or PAGES / made.folder
    folder.mkdir(parents=True, exist_ok=True)
    found = answers(made.folder, made.studies)
    drawn = list(_figures(made, found, folder))
    for stale in {*folder.glob("*.svg")} - {path for path, _ in drawn}:
        stale.unlink()
    page = folder / "index.md"
    page.write_text(text(made, found, [(path.name, caption) for path, caption in drawn]), encoding="utf-8")
    return [page, *(path for path, _ in drawn)]


def _figures(made: Reproduction, found: Mapping[str, Json], folder: Path) -> Iterable[tuple[Path, str]]:
    from isoloss.report import figures

    for study, captions in ((study, each) for study, each in made.figures.items() if study in found):
        offered = figures.offered(whole(found[study]))
        for name, caption in captions.items():
            size, draw = offered[name]
            path = folder / f"{study}-{name}.svg"
            path.write_text(figures.render(size, draw, pixels=False).svg, encoding="utf-8")
            yield path, f"`{study}`: {caption}"


def text(made: Reproduction, found: Mapping[str, Json], pictures: Sequence[tuple[str, str]]) -> str:
    """The page."""
    claims = made.claims(found)
    parts = [
        f"# {made.title}",
        "<!-- made by `python -m reproductions` from the files beside it -->",
        made.question + f" The paper: {made.paper}.",
        "## What the paper says, and what was found",
        claims_table(claims),
        INTERVALS,
        "## What was run",
        table(
            ("study", "arms", "sizes N", "lengths", "updates", "seeds", "runs", "training, with tuning"),
            [_run_row(part, found[part.study]) for part in made.parts if part.study in found],
        ),
    ]
    if any(fewest(answer["runs"]) < FEW for answer in found.values()):
        parts.append(
            f"Runs of fewer than {FEW} updates have hardly begun: what large batches lose there is largely that they "
            "are undertrained."
        )
    missing = [f"`studies/{part.study}.yaml` ({part.about})" for part in made.parts if part.study not in found]
    if missing:
        parts.append(f"Not run yet: {'; '.join(missing)}.")
    if made.left_out:
        parts.append(f"Nothing was run for: {made.left_out}.")
    for path, caption in pictures:
        parts.append(f"![{caption.replace('`', '')}]({path})\n\n*{caption}*")
    for part in made.parts:
        if part.study in found:
            parts += _section(part, found[part.study], made.details.get(part.study, lambda _: ()))
    parts += ["## The commands", _commands(made)]
    return "\n\n".join(parts) + "\n"


def _run_row(part: Part, answer: Json) -> tuple[str, ...]:
    runs = [run for run in answer["runs"] if run["status"] == "done"]
    sizes = sorted({run["N"] for run in runs})
    lengths = sorted({run["D"] for run in runs})
    updates = sorted({run["S"] for run in runs})
    seeds = {run["seed"] for run in runs}
    return (
        f"`studies/{part.study}.yaml`: {part.about}",
        str(len(answer["arms"])),
        formats.short(sizes[0]) if len(sizes) == 1 else f"{len(sizes)}: {_ends(sizes)}",
        f"{len(lengths)}: {_ends(lengths)} {answer['units']['D']}",
        _ends(updates),
        str(len(seeds)),
        f"{len(runs)} of {len(answer['runs'])} finished",
        f"{answer['training_seconds'] / 3600:.1f} core-hours",
    )


def _ends(values: Sequence[float]) -> str:
    ends = [formats.short(values[0]), formats.short(values[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _section(part: Part, answer: Json, details: Callable[[Json], Sequence[str]]) -> list[str]:
    """Everything about one study: answers, worth, power, cost, caveats."""
    parts = [f"## {part.study}", *(str(sentence) for sentence in answer["summary"])]
    for asked in answer.get("fixed_durations") or []:
        parts.append(f"*{asked['question']}* {asked['answer']}")
    if answer.get("transfer"):
        # What is trained on is no measure there: all arms see as many samples, most of them again and again.
        more = (sentence for sentence in answer["transfer"]["text"] if sentence not in answer["summary"])
        parts.append("\n".join(f"- {sentence}" for sentence in more))
    else:
        parts += _worth(answer)
    parts += details(answer)
    rates: dict[str, list[str]] = {}
    for arm in answer["arms"]:
        if arm["lr"]:
            rates.setdefault("; ".join(_rate(row) for row in arm["lr"]), []).append(arm["name"])
    if rates:
        parts.append(
            "Learning rates.\n\n" + table(("arms", "learning rate"), [(", ".join(a), lr) for lr, a in rates.items()])
        )
    updates = answer["sharing"]["updates"]
    flops = answer["sharing"]["flops"]
    parts.append(
        f"Cost: {formats.count(updates['shared'])} updates and {flops['shared']:.3g} FLOPs were trained, with tuning, "
        f"in {answer['training_seconds'] / 3600:.1f} core-hours; without sharing it would have been "
        f"{formats.count(updates['unshared'])} updates and {flops['unshared']:.3g} FLOPs "
        f"({updates['shared'] / updates['unshared']:.0%} and {flops['shared'] / flops['unshared']:.0%} were trained)."
    )
    if answer["caveats"]:
        parts.append("Caveats:\n\n" + "\n".join(f"- {caveat}" for caveat in answer["caveats"]))
    return parts


def _worth(answer: Json) -> list[str]:
    """What each variant was worth at equal loss, and the power check."""
    parts = []
    same = {entry["arm"] for entry in answer["worth_overall"] if _same(entry["data"])}
    rows = [
        (
            entry["arm"],
            entry.get("reference") or "",
            *(worth(entry.get(measure) or {}) for measure in ("data", "updates", "compute")),
        )
        for entry in answer["worth_overall"]
        if entry["arm"] not in same
    ]
    if rows:
        parts.append(
            "Over all sizes, at equal loss: what the other arm needs, over what this one used.\n\n"
            + table(("arm", "against", "data", "updates", "compute"), rows)
        )
    if same:
        parts.append(f"The same runs as what they are compared with, so left out: {', '.join(sorted(same))}.")
    if answer["power"]:
        parts.append(_powers(answer, same))
    return parts


def _rate(row: Mapping[str, Any]) -> str:
    edge = ", at an edge" if row["edge"] else ""
    return f"N {formats.short(row['N'])}: {formats.number(row['lr'])} ({row['rule']}{edge})"


def _same(data: Mapping[str, Any]) -> bool:
    """Whether an arm's runs are those of its reference."""
    return data["low"] is not None and 1 - ROUNDING < data["low"] <= data["high"] < 1 + ROUNDING


def _powers(answer: Json, same: set[str]) -> str:
    """The power check beside what came of it."""
    first = answer["power"][0]
    came = {
        entry["arm"]: math.sqrt(entry["data"]["high"] / entry["data"]["low"])
        for entry in answer["worth_overall"]
        if entry["data"]["low"]
    }
    found = [row for row in answer["power"] if row["arm"] not in same]
    wanted = first["wanted"]
    enough = sum(came.get(row["arm"], math.inf) <= wanted for row in found)
    return (
        f"What the design resolves, judged by seeds {', '.join(first['pilot'])} alone: the smallest worth in data at "
        f"one size that {first['seeds']} seeds tell from 1×. Two seeds say little of noise; the last column is half "
        f"the interval of the worth in data that came of all seeds, over all sizes, as a factor. It is at most "
        f"{wanted:g}× in {enough} of {len(found)} comparisons.\n\n"
        + table(
            (
                "arm",
                "noise of log loss",
                "slope",
                "spread of log worth",
                "resolves",
                f"seeds for {wanted:g}×",
                "came to",
            ),
            [(*_power(row), f"{came[row['arm']]:.2f}×" if row["arm"] in came else "–") for row in found],
        )
    )


def _power(row: Mapping[str, Any]) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    return (
        row["arm"],
        number(row["noise"]),
        number(row["slope"]),
        number(row["spread"]),
        "–" if row["smallest"] is None else f"{row['smallest']:.3f}×",
        "over 200" if row["needed"] is None else str(row["needed"]),
    )


def _commands(made: Reproduction) -> str:
    lines = []
    for part in made.parts:
        file = f"docs/reproductions/{made.folder}/results-{part.study}.parquet"
        lines += [
            f"# {part.study}: train everything anew; or the study's own page, from what is kept",
            f"isoloss run studies/{part.study}.yaml",
            f"isoloss report studies/{part.study}.yaml --store {file}",
        ]
    lines += ["# this page, from what is kept", "make reproductions"]
    return "```text\n" + "\n".join(lines) + "\n```"


def claims_table(claims: Iterable[Claim]) -> str:
    """One row a claim; each part of what was found is a line, but for what stands in brackets."""
    lines = ((claim.says, re.sub(r"; (?![^()]*\))", "<br>", claim.found), claim.verdict) for claim in claims)
    return table(("the claim", "here", "verdict"), [(says, found, f"**{verdict}**") for says, found, verdict in lines])


def verdicts(claims: Iterable[Claim]) -> str:
    """How many claims there are of each verdict."""
    counts = Counter(claim.verdict for claim in claims)
    words = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold"), OPEN: ("not resolved",) * 2}
    return ", ".join(f"{counts[name]} {word[counts[name] > 1]}" for name, word in words.items() if counts[name])


def listed(made: Reproduction, found: Mapping[str, Json]) -> tuple[str, ...]:
    """Its row in the list of all."""
    hours = sum(answer["training_seconds"] for answer in found.values()) / 3600
    link = f"[{made.title}]({made.folder}/index.md)"
    return link, made.paper, verdicts(made.claims(found)), f"{hours:.1f} core-hours"


def write_index(rows: Iterable[Sequence[str]], target: Path = PAGES) -> Path:
    """Write the page that lists all: one row a study with its paper, its verdicts and its cost."""
    parts = [
        "# Reproductions",
        "<!-- made by `python -m reproductions` -->",
        ABOUT,
        table(("study", "paper", "claims", "training"), rows),
        COMMANDS,
    ]
    path = target / "index.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path
