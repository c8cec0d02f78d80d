"""Groups of options: declared once as a dataclass, shared by commands, shown as panels of help."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ._errors import COULD_NOT_RUN, print_error

GENERAL = "General"
_LONGEST = 1000
"""Characters of a sentence in a list of commands."""


class _Listed:
    """A command or group that the help above it lists with a whole sentence, however long."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first sentence, which the list wraps."""
        found: str = super().get_short_help_str(limit=max(limit, _LONGEST))  # type: ignore[misc]
        return found


class Group(_Listed, TyperGroup):
    """A group of commands."""


class Command(_Listed, TyperCommand):
    """A command whose help has a section for every panel, and whose errors name a near value."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options panel by panel, the general ones last."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or GENERAL
                panels.setdefault("Arguments" if is_argument else panel, []).append(record)
        panels[GENERAL] = panels.pop(GENERAL)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read arguments; an error of a value that does not exist names the nearest one."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            given, *values = re.findall(r"'([^']*)'", error.message) or [""]
            if not values:
                raise
            near = get_close_matches(given.lower(), values, n=1)
            details = [("expected", ", ".join(values)), ("got", given or "nothing")]
            hint = f"did you mean {near[0]}?" if near else f"see {ctx.command_path} --help"
            what = f"There is no such value of {error.param.opts[0]}."  # type: ignore[union-attr]
            print_error(what, [*details, ("to do", hint)])
            raise typer.Exit(COULD_NOT_RUN) from None


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its groups: its parameters whose type is a dataclass.

    Every field of the dataclass is an option, in the panel that the class names in `PANEL`. The
    command receives an instance.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _options_of(hints[name])
        else:
            keyword = inspect.Parameter.KEYWORD_ONLY
            annotation = _annotation(name, hints[name])
            parameters.append(parameter.replace(annotation=annotation, kind=keyword))

    def expanded(**values: Any) -> None:
        collected = {
            name: group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**values, **collected)

    expanded.__name__, expanded.__doc__ = command.__name__, command.__doc__
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return expanded


def _options_of(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        required = field.default is dataclasses.MISSING
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else field.default,
            annotation=_annotation(field.name, hints[field.name], group.PANEL),
        )


def _annotation(name: str, hint: Any, panel: str | None = None) -> Any:
    """Return what Typer reads of a parameter; a text alone is the help of an option.

    Such an option has the parameter's name, and a flag no opposite. Values are taken in any case.
    """
    # Python 3.10 wraps the hint of a parameter whose default is None in Optional[...].
    hint = next((one for one in get_args(hint) if get_origin(one) is Annotated), hint)
    if get_origin(hint) is not Annotated:
        return hint
    base, option = get_args(hint)
    option = copy.copy(option)
    if isinstance(option, str):
        flag = [f"--{name.replace('_', '-')}"] if base is bool else []
        option = typer.Option(*flag, help=option)
    option.case_sensitive = False
    option.rich_help_panel = panel or option.rich_help_panel
    return Annotated[base, option]
