"""Reading tables of points from CSV, JSON lines and Parquet files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
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


def read_columns(path: Path, renames: Mapping[str, str]) -> dict[str, list[Any]]:
    """Columns of a file under our names.

    `renames` maps our name to the file's header. Other headers are recognised by common aliases; what is not
    recognised stays a free column under its own header. Raises LawError.
    """
    if not path.is_file():
        raise LawError(f"no such file: {path}")
    table = _read(path)
    if not table or not next(iter(table.values())):
        raise LawError(f"{path}: no rows")
    for ours, theirs in renames.items():
        if theirs not in table:
            raise unknown(f"header (for {ours}) in {path.name}", theirs, table)
    taken = {theirs: ours for ours, theirs in renames.items()}
    for ours, aliases in ALIASES.items():
        if ours in renames:
            continue
        exact = [header for header in table if header == ours and header not in taken]
        found = exact or [header for header in table if header.strip().lower() in aliases and header not in taken]
        if found:
            taken[found[0]] = ours
    return {taken.get(header, header): values for header, values in table.items()}


def _read(path: Path) -> dict[str, list[Any]]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, "\t" if suffix == ".tsv" else ",")
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path)
    if suffix == ".parquet":
        import polars

        return {name: values for name, values in polars.read_parquet(path).to_dict(as_series=False).items()}
    raise LawError(f"{path}: cannot read {suffix or 'a file without suffix'}; allowed: .csv .tsv .jsonl .parquet")


def _read_csv(path: Path, delimiter: str) -> dict[str, list[Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    if not rows:
        raise LawError(f"{path}: the file is empty")
    header = rows[0]
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
