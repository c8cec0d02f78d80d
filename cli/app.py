"""`apot-export`: convert, verify, tune, compare, inspect, emit."""

from __future__ import annotations

from typing import Annotated

import typer

from . import compare, convert, emit, inspect, tune, verify
from ._groups import Command, with_groups

app = typer.Typer(
    name="apot-export",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (convert.convert, verify.verify, tune.tune, compare.compare):
    app.command(cls=Command)(with_groups(verb))
app.add_typer(inspect.app, name="inspect")
app.add_typer(emit.app, name="emit")


def _print_version(wanted: bool) -> None:
    if wanted:
        from apot_export._version import VERSION

        typer.echo(f"apot-export {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Turn trained powers-of-two networks into shift-add artifacts, and prove them.

    Exit codes: 0 done or PASS, 1 verification FAIL, 2 could not run.
    """
