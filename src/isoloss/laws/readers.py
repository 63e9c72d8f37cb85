"""Reading tables of points from CSV, JSON lines and Parquet files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from isoloss.laws.errors import LawError, unknown

# Headers seen in public loss tables, lower case, for each of our names.
ALIASES = {
    "N": ("n", "params", "parameters", "num_params", "n_params", "model size", "model_size", "size"),
    "D": ("d", "tokens", "token_num", "num_tokens", "training tokens", "seen examples"),
    "C": ("c", "flop", "flops", "training flop", "training flops", "training_flop", "compute"),
    "S": ("s", "step", "steps", "updates"),
    "loss": ("loss", "val_loss", "validation loss", "final_loss"),
    "unique": ("unique", "unique_tokens", "tokens_per_epoch"),
    "weight": ("weight",),
    "run": ("run", "run_id", "run id"),
    "seed": ("seed",),
    "cluster": ("cluster", "root"),
}


def read_columns(path: Path, renames: Mapping[str, str]) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Columns of a file under our names, and our name of every header.

    `renames` maps our name to the file's header. Other headers are recognised by common aliases; what is not
    recognised stays a free column under its own header. Raises LawError.
    """
    if not path.is_file():
        raise LawError(f"no such file: {path}")
    table = read_table(path)
    if not table or not next(iter(table.values())):
        raise LawError(f"{path}: no rows")
    names = our_names(path.name, table, renames)
    return {names[header]: values for header, values in table.items() if header in names}, names


def our_names(source: str, headers: Iterable[str], renames: Mapping[str, str]) -> dict[str, str]:
    """Our name of every header that is kept: what `renames` names displaces a header of the same name.

    Raises LawError for an unknown header, one header under two names, and two headers for one of our names.
    """
    headers = list(headers)
    for ours, theirs in renames.items():
        if theirs not in headers:
            raise unknown(f"header (for {ours}) in {source}", theirs, headers)
    names = {theirs: ours for ours, theirs in renames.items()}
    for ours, theirs in renames.items():
        if names[theirs] != ours:
            raise LawError(f"{source}: header {theirs!r} is asked for as both {ours} and {names[theirs]}")
    for ours, aliases in ALIASES.items():
        if ours in renames:
            continue
        exact = [header for header in headers if header == ours and header not in names]
        found = exact or [header for header in headers if header.strip().lower() in aliases and header not in names]
        if len(found) > 1:
            listed = " and ".join(repr(header) for header in found)
            raise LawError(f"{source}: {listed} could all be {ours}; say which, --column {ours}={found[0]!r}")
        if found:
            names[found[0]] = ours
    free = {header: header for header in headers if header not in names and header not in renames}
    return names | free


def resembling(ours: str, headers: Iterable[str]) -> str | None:
    """The header that looks most like a misspelt alias of one of our names."""
    spelt = {header.strip().lower(): header for header in headers if header not in ALIASES}
    scored = [
        (SequenceMatcher(None, alias, lower).ratio(), header)
        for alias in ALIASES.get(ours, ())
        if len(alias) > 2
        for lower, header in spelt.items()
    ]
    best, header = max(scored, default=(0.0, ""))
    return header if best >= 0.75 else None


def read_table(path: Path) -> dict[str, list[Any]]:
    """Columns of a file by their headers; empty cells are None. Raises LawError."""
    try:
        return _parse(path)
    except UnicodeDecodeError:
        raise LawError(f"{path}: not a text file in UTF-8, though its name ends in {path.suffix}") from None
    except csv.Error as error:
        raise LawError(f"{path}: cannot be read as a table ({error})") from None


def _parse(path: Path) -> dict[str, list[Any]]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, "\t" if suffix == ".tsv" else ",")
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path)
    if suffix == ".parquet":
        import polars

        try:
            return dict(polars.read_parquet(path).to_dict(as_series=False))
        except (polars.exceptions.PolarsError, OSError) as error:
            raise LawError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    raise LawError(f"{path}: cannot read {suffix or 'a file without suffix'}; allowed: .csv .tsv .jsonl .parquet")


def _read_csv(path: Path, delimiter: str) -> dict[str, list[Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    if not rows:
        raise LawError(f"{path}: the file is empty")
    header = rows[0]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise LawError(f"{path}: the header names {', '.join(map(repr, twice))} more than once")
    for number, row in enumerate(rows[1:], start=2):
        if row and len(row) != len(header):
            raise LawError(f"{path}, line {number}: {len(row)} fields where the header has {len(header)}")
    body = [row for row in rows[1:] if row]
    return {name: [_value(row[index]) for row in body] for index, name in enumerate(header)}


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise LawError(f"{path}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise LawError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _value(text: str) -> Any:
    text = text.strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text
