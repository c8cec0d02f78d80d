"""docs/cli.md, written from the declarations of the command line.

python -m tests.support.cli_reference
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
VERBS = (
    "convert",
    "verify",
    "tune",
    "compare",
    "inspect overview",
    "inspect cost",
    "inspect levels",
    "inspect weights",
    "inspect alphas",
    "inspect bits",
    "inspect integer",
    "inspect identify",
    "emit c",
    "emit native",
    "emit rtl",
    "emit vectors",
)
_OPTION = re.compile(r"`[^`\n]*`|^torchrun .*|--\w[\w-]*", re.MULTILINE)
"""What is code: what is marked already, a command line, and options in help texts."""
_HEAD = """# The command line

Every option of every verb, as `apot-export VERB --help` shows them. Exit codes: 0 done or PASS,
1 verification FAIL, 2 could not run, 130 interrupted.

`apot-export --install-completion` lets the TAB key complete verbs, options and their values (bash,
zsh, fish, PowerShell).
"""


def command(verb: str) -> Callable[..., None]:
    """Return the function of a verb, with the options of its groups in its signature."""
    groups = import_module("apot_export_cli._groups")
    module, _, name = verb.partition(" ")
    found = getattr(import_module(f"apot_export_cli.{module}"), name or module)
    return found if name else groups.with_groups(found)


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the values of an option that takes some alone; empty for any other."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for one in get_args(annotation) if (found := choices(one))), ())


def reference() -> str:
    """Return the text of docs/cli.md."""
    lines = (line for verb in VERBS for line in _section(verb))
    return _OPTION.sub(lambda found: f"`{found[0].strip('`')}`", "\n".join([_HEAD, *lines]))


def _section(verb: str) -> Iterator[str]:
    function = command(verb)
    yield f"## `apot-export {verb}`\n"
    yield inspect.cleandoc(function.__doc__ or "") + "\n"
    panel = ""
    rows = sorted(_rows(function), key=lambda row: row[0] == "General")
    for named, name, text in rows:
        if named != panel:
            yield f"{'' if not panel else chr(10)}### {named}\n\n| option | meaning |\n|---|---|"
            panel = named
        yield f"| {name} | {text} |"
    yield ""


def _rows(function: Callable[..., None]) -> Iterator[tuple[str, str, str]]:
    """Yield (panel, option, meaning) of every parameter but the context."""
    for parameter in inspect.signature(function).parameters.values():
        base, *declared = get_args(parameter.annotation) or [None]
        option: Any = declared[-1] if declared else None
        if not hasattr(option, "help"):
            continue
        first = [option.default] if isinstance(option.default, str) else []  # of typer.Option(...)
        names = ", ".join(f"`{name}`" for name in (*first, *(option.param_decls or ())))
        names = names or f"`--{parameter.name.replace('_', '-')}`"
        if type(option).__name__ == "ArgumentInfo":
            yield "Arguments", f"`{parameter.name.upper()}`", option.help
            continue
        shown = option.help + (f" One of {', '.join(takes)}." if (takes := choices(base)) else "")
        if parameter.default is parameter.empty:
            shown += " Required."
        elif not (parameter.default is None or isinstance(parameter.default, bool)):
            shown += f" Default: {parameter.default}."
        yield option.rich_help_panel or "General", names, shown


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
