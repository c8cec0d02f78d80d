"""The table of clients as a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ._cases import NETWORKS, TARGETS

_HEAD = """\
# Clients

What programs that read ONNX files make of the exports, each in its newest release unless its
name has a version. `python -m benchmarks.clients --write docs/clients.md` builds the environment of
every client from PyPI or npm and writes this page.

A cell says on how many of the images the client names the class that ONNX Runtime names with the
default file, and the largest difference of a logit. Where the client shows values within the graph
two shares follow: activation levels that are those of ONNX Runtime (another order of float sums in
the first layer moves a few), and sums of quantized layers that are the exact integers of the
client's own levels. "100 %" means all of them. A dash means that the client refuses the file; the
reasons are [below](#what-breaks). `integer` is model.integer.onnx, whose logits are integers.
"""


def page(outcomes: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> str:
    """Return the page for outcomes by "client|network|target"."""
    parts = [_HEAD]
    for target in TARGETS:
        networks = [
            name for name in NETWORKS if any(k.endswith(f"|{name}|{target}") for k in outcomes)
        ]
        if networks:
            parts += [f"\n## `{target}`\n", _table(outcomes, versions, target, networks)]
    return "\n".join([*parts, "\n## What breaks\n", _reasons(outcomes)])


def _table(
    outcomes: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, str],
    target: str,
    networks: Sequence[str],
) -> str:
    rows = [f"| client | {' | '.join(networks)} |", f"|{'---|' * (1 + len(networks))}"]
    for client, version in versions.items():
        cells = [outcomes.get(f"{client}|{network}|{target}") for network in networks]
        if any(cells):
            name = client if version in client else f"{client} {version}"
            rows.append(f"| {name} | {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _cell(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return "not run"
    if not outcome["runs"]:
        return "-" if not outcome["loads"] else "loads only"
    shares = (
        ""
        if outcome["levels"] is None
        else f", {_percent(outcome['levels'])}, {_percent(outcome['sums'])}"
    )
    difference = f"{outcome['difference']:.0e}" if outcome["difference"] else "0"
    return f"{outcome['top1']}/{outcome['images']}, {difference}{shares}"


def _percent(share: float) -> str:
    """Return a share in per cent, which reads 100 only where it is 1."""
    return "100 %" if share == 1 else f"{min(99.99, 100 * share):.2f} %"


def _reasons(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one message for each client and target that breaks."""
    lines = []
    for client in dict.fromkeys(key.split("|")[0] for key in outcomes):
        for target in TARGETS:
            found = (outcomes.get(f"{client}|{network}|{target}") for network in NETWORKS)
            broken = next((outcome for outcome in found if outcome and not outcome["runs"]), None)
            if broken:
                reason = re.sub(r"/\S*/", "", broken["breaks"]).replace("`", "'")
                lines.append(f"- **{client}**, `{target}`: `{reason}`")
    return "\n".join(lines) + "\n"
