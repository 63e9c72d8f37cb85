"""A page of a reproduction, in Markdown, from kept files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isoloss.report import formats
from reproductions.kept import PAGES, Json, answers, whole

Verdict = Literal["holds", "does not hold", "not resolved at this scale"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "not resolved at this scale"


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
    """One page. ``claims`` reads the answers of the parts by study name; ``figures``: names to draw, by study."""

    folder: str
    title: str
    question: str
    parts: tuple[Part, ...]
    claims: Callable[[Mapping[str, Json]], Sequence[Claim]]
    figures: Mapping[str, tuple[str, ...]]

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
    page = folder / "index.md"
    page.write_text(text(made, found, [path.name for path, _ in drawn], [alt for _, alt in drawn]), encoding="utf-8")
    return [page, *(path for path, _ in drawn)]


def _figures(made: Reproduction, found: Mapping[str, Json], folder: Path) -> Iterable[tuple[Path, str]]:
    from isoloss.report import figures

    for study, names in made.figures.items():
        drawn = figures.draw_all(whole(found[study]))
        for name in names:
            matching = [key for key in drawn if key == name or key.startswith(f"{name}-")]
            for key in matching:
                path = folder / f"{study}-{key}.svg"
                path.write_text(drawn[key].svg, encoding="utf-8")
                yield path, f"{study}: {key.replace('-', ' ')}"


def text(made: Reproduction, found: Mapping[str, Json], pictures: Sequence[str], alts: Sequence[str]) -> str:
    """The page."""
    claims = made.claims(found)
    parts = [
        f"# {made.title}",
        "<!-- made by `python -m reproductions` from the files beside it -->",
        made.question,
        "## What the paper says, and what was found",
        table(
            ("the claim", "here", "verdict"), [(claim.says, claim.found, f"**{claim.verdict}**") for claim in claims]
        ),
        "Intervals are 90 %, Student's t over seeds (runs of one seed are one unit), unless another one is named.",
        "## What was run",
        table(
            ("study", "arms", "sizes N", "lengths", "seeds", "runs", "training, with tuning"),
            [_run_row(part, found[part.study]) for part in made.parts],
        ),
    ]
    for path, alt in zip(pictures, alts, strict=True):
        parts.append(f"![{alt}]({path})")
    for part in made.parts:
        parts += _section(part, found[part.study])
    parts += ["## The commands", _commands(made)]
    return "\n\n".join(parts) + "\n"


def _run_row(part: Part, answer: Json) -> tuple[str, ...]:
    runs = [run for run in answer["runs"] if run["status"] == "done"]
    sizes = sorted({run["N"] for run in runs})
    lengths = sorted({run["D"] for run in runs})
    seeds = {run["seed"] for run in runs}
    return (
        f"[`{part.study}`](../../../studies/{part.study}.yaml): {part.about}",
        str(len(answer["arms"])),
        formats.short(sizes[0]) if len(sizes) == 1 else f"{len(sizes)}: {_ends(sizes)}",
        f"{len(lengths)}: {_ends(lengths)} {answer['units']['D']}",
        str(len(seeds)),
        f"{len(runs)} of {len(answer['runs'])} finished",
        f"{answer['training_seconds'] / 3600:.1f} core-hours",
    )


def _ends(values: Sequence[float]) -> str:
    ends = [formats.short(values[0]), formats.short(values[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _section(part: Part, answer: Json) -> list[str]:
    """Everything about one study: answers, worth, power, cost, caveats."""
    parts = [f"## {part.study}", *(str(sentence) for sentence in answer["summary"])]
    for asked in answer.get("fixed_durations") or []:
        parts.append(f"*{asked['question']}* {asked['answer']}")
    rows = [
        (
            entry["arm"],
            entry.get("reference") or "",
            *(_ratio(entry.get(measure) or {}) for measure in ("data", "updates", "compute")),
        )
        for entry in answer["worth_overall"]
    ]
    if rows:
        parts.append(
            "Over all sizes, at equal loss: what the other arm needs, over what this one used.\n\n"
            + table(("arm", "against", "data", "updates", "compute"), rows)
        )
    if answer["power"]:
        first = answer["power"][0]
        parts.append(
            f"What the design resolves, judged by seeds {', '.join(first['pilot'])} alone: the smallest worth in data "
            f"at one size that {first['seeds']} seeds tell from 1×.\n\n"
            + table(
                (
                    "arm",
                    "noise of log loss",
                    "slope",
                    "spread of log worth",
                    "resolves",
                    f"seeds for {first['wanted']:g}×",
                ),
                [_power(row) for row in answer["power"]],
            )
        )
    tuned = [
        (
            arm["name"],
            "; ".join(f"N {formats.short(row['N'])}: {formats.number(row['lr'])} ({row['rule']})" for row in arm["lr"]),
            "at an edge" if any(row["edge"] for row in arm["lr"]) else "",
        )
        for arm in answer["arms"]
        if arm["lr"]
    ]
    if tuned:
        parts.append("Learning rates.\n\n" + table(("arm", "learning rate", ""), tuned))
    updates = answer["sharing"]["updates"]
    parts.append(
        f"Cost: {formats.count(updates['shared'])} updates were trained; without sharing it would have been "
        f"{formats.count(updates['unshared'])} ({updates['shared'] / updates['unshared']:.0%})."
    )
    if answer["caveats"]:
        parts.append("Caveats:\n\n" + "\n".join(f"- {caveat}" for caveat in answer["caveats"]))
    return parts


def _ratio(found: Mapping[str, Any]) -> str:
    if found.get("ratio") is None:
        return "–"
    return f"{formats.ratio(found['ratio'])} {formats.interval(found['low'], found['high'])}".strip()


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
            f"isoloss run studies/{part.study}.yaml               # trains everything anew",
            f"isoloss report studies/{part.study}.yaml --store {file}  # the whole page of the study from what is kept",
        ]
    lines.append("make reproductions  # this page from what is kept")
    return "```text\n" + "\n".join(lines) + "\n```"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what would end a cell is escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])
