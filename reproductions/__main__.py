"""Command line of the reproductions; see the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from isoloss.recipe.errors import StudyError
from reproductions import __doc__ as usage
from reproductions import laws_on_public_data
from reproductions.headline import Line
from reproductions.headline import write as headline
from reproductions.kept import answers, keep, parquet, write_answer
from reproductions.page import listed, write, write_index
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
    rows: list[tuple[str, ...]] = []
    measured: list[Line] = []
    for made in ALL:
        there = list(answers(made.folder, made.studies))
        missing = [study for study in made.studies if study not in there]
        if missing:
            print(f"{made.folder}: nothing is kept yet of {', '.join(missing)}")
        if made.studies[0] in missing:
            files = ", ".join(f"`studies/{study}.yaml`" for study in made.studies)
            rows.append((f"{made.title}: {files}", made.paper, "not run yet", ""))
            continue
        for study in there:
            try:
                write_answer(made.folder, study)
            except (ValueError, StudyError) as why:
                print(f"{study}: its conclusions are left as they are ({why})")
        print(f"{made.folder}: {write(made)[0]}")
        found = answers(made.folder, made.studies)
        measured += made.headline(found)
        rows.append(listed(made, found))
    print(laws_on_public_data.write()[0])
    rows.append(laws_on_public_data.listed())
    for path in (write_index(rows), *headline(measured)):
        print(path)


if __name__ == "__main__":
    main()
