"""The commands' reference, from the commands themselves: ``python -m isoloss.cli.reference``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

_INTRODUCTION = """\
# Commands

This page is made by `python -m isoloss.cli.reference` from the commands themselves. `isoloss COMMAND --help` says the
same. Every command that prints figures takes `--json`. Exit codes: 0 done, 1 some runs failed, 2 the request is wrong
or the store cannot be used, 130 stopped by Ctrl-C.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    from isoloss.cli.main import app

    return "\n".join([_INTRODUCTION, *_commands("isoloss", typer.main.get_command(app))])


def _commands(path: str, command: Any) -> Iterator[str]:
    for name, each in command.commands.items():
        whole = f"{path} {name}"
        if hasattr(each, "commands"):
            yield f"## {whole}\n\n{_text(each.help)}\n"
            yield from _parameters(each)
            yield from _commands(whole, each)
        else:
            arguments = "".join(f" {_metavar(p)}" for p in each.params if p.param_type_name == "argument")
            level = "##" if path == "isoloss" else "###"
            yield f"{level} {whole}\n\n{_text(each.help)}\n\n`{whole}{arguments} [options]`\n"
            yield from _parameters(each)


def _text(words: str | None) -> str:
    return " ".join((words or "").split())


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _parameters(command: Any) -> Iterator[str]:
    """A table of arguments and options, without ``--help``; nothing where there are none."""
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name, default = f"`{_metavar(parameter)}`", "required" if parameter.required else ""
        elif "--help" in parameter.opts:
            continue
        else:
            name = " ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            default = "required" if parameter.required else _default(parameter.default)
        rows.append(f"| {name} | {default} | {_text(parameter.help).replace('|', '&#124;')} |")
    if rows:
        yield "\n".join(["| argument or option | default | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _default(value: Any) -> str:
    if value is None or value is False or value in ("", (), []):
        return ""
    return f"`{value}`"


if __name__ == "__main__":
    print(reference(), end="")
