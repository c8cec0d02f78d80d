"""Run the exports in every client, and write what came out as a table.

    python -m benchmarks.clients [--clients NAME ...] [--networks NAME ...] [--targets NAME ...]
        [--write docs/clients.md]

Each client's environment is built from PyPI or npm below build/clients. The checkpoints are those
of $APOT_EXPORT_REFERENCE (default ../shared) and the embedded example. Prints one line a case.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ._cases import NETWORKS, TARGETS, Case
from ._report import page
from .environments import CLIENTS


def main() -> None:
    """Run all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", nargs="+", default=[client.name for client in CLIENTS])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--root", type=Path, default=Path("build/clients"))
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    results = root / "results.json"
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    chosen = [client for client in CLIENTS if client.name in arguments.clients]
    for network in arguments.networks:
        for target in arguments.targets:
            case = Case.prepared(network, target, root / "exports")
            for client in chosen:
                outcome = case.outcome(client, root)
                known[f"{client.name}|{network}|{target}"] = outcome
                results.write_text(json.dumps(known, indent=1), encoding="utf-8")
                print(f"{client.name:20} {network:11} {target:12} {outcome}", flush=True)
    if arguments.write:
        versions = {client.name: client.version(root) for client in CLIENTS}
        arguments.write.write_text(page(known, versions), encoding="utf-8")


if __name__ == "__main__":
    main()
