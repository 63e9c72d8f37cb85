"""Command line of the reproductions; see the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from reproductions import __doc__ as usage
from reproductions.kept import answer_file, keep, parquet, write_answer
from reproductions.page import write
from reproductions.studies import ALL


def main() -> None:
    """Keep what a store measured, or write all pages."""
    asked = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = asked.add_subparsers(dest="command")
    kept = commands.add_parser("keep", help="keep what a store measured of a study")
    kept.add_argument("study", choices=[part.study for made in ALL for part in made.parts])
    kept.add_argument("--store", type=Path, required=True)
    given = asked.parse_args()
    if given.command == "keep":
        made, part = next((made, part) for made in ALL for part in made.parts if part.study == given.study)
        keep(made.folder, part.study, given.store, part.columns)
        print(f"kept {parquet(made.folder, part.study)}")
    for made in ALL:
        missing = [study for study in made.studies if not answer_file(made.folder, study).exists()]
        if missing:
            print(f"{made.folder}: nothing is kept yet of {', '.join(missing)}")
            continue
        for study in made.studies:
            try:
                write_answer(made.folder, study)
            except ValueError as why:
                print(f"{study}: its conclusions are left as they are ({why})")
        print(f"{made.folder}: {write(made)[0]}")


if __name__ == "__main__":
    main()
