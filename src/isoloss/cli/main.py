"""``isoloss``: the commands by name, and one message without a traceback for everything a user can mend."""

from __future__ import annotations

import signal
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from isoloss.cli import (
    advise,
    backtest,
    branch,
    compare,
    coordinates,
    figure,
    fit,
    import_,
    plan,
    predict,
    quickstart,
    report,
    run,
    store,
    watch,
)
from isoloss.recipe.errors import IsolossError, RunFailed


class Commands(TyperGroup):
    """Ctrl-C at any time is one line and exit code 130; what typer makes of it differs between its versions."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print(
                "isoloss: stopped; what was published stays, and the same command goes on from there", file=sys.stderr
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    name="isoloss",
    cls=Commands,
    help="What a training method is worth, at equal loss: in data, updates and compute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(quickstart.quickstart)
app.command()(plan.plan)
app.command()(run.run)
app.command()(branch.branch)
app.command()(watch.watch)
app.command()(report.report)
app.command()(compare.compare)
app.command()(coordinates.coordinates)
app.command()(figure.figure)
app.command("import")(import_.import_)
app.command()(fit.fit)
app.command()(predict.predict)
app.command()(backtest.backtest)
app.add_typer(advise.app, name="advise")
app.add_typer(store.app, name="store")


def main() -> None:
    """Entry point of the console script. Exit codes: 0 done, 1 some runs failed, 2 the request is wrong, 130 Ctrl-C."""
    try:
        app(standalone_mode=True)
    except IsolossError as error:
        print(f"isoloss: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RunFailed) else 2)
    except BrokenPipeError:
        sys.exit(0)
    finally:
        # The interpreter needs a while to end: a late Ctrl-C has nothing left to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
