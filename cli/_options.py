"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document and nothing else.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
