"""The example's reader in JavaScript, run by node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

READER = Path(__file__).parents[2] / "examples" / "javascript" / "read_packed.mjs"
PROGRAM = """
import { readFileSync } from "node:fs";
import { PackedFileError, readPacked } from READER;
const bytes = (array) => array && Buffer.from(array.buffer).toString("base64");
for (const file of process.argv.slice(1)) {
  try {
    const { network, layers } = readPacked(readFileSync(file));
    const found = [];
    for (const [name, { kind, shape, levels, weights }] of layers) {
      found.push([name, { kind, shape, levels: bytes(levels), weights: bytes(weights) }]);
    }
    console.log(JSON.stringify({ output: network.output, found }));
  } catch (error) {
    if (!(error instanceof PackedFileError)) throw error;
    const [, caller] = error.stack.split("\\n").filter((line) => line.includes(".mjs:"));
    console.log(JSON.stringify({ error: error.message, caller }));
  }
}
"""


def node() -> str:
    """Return the path of node; skip the test where there is none, except in CI."""
    found = shutil.which("node")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have node")
        pytest.skip("there is no node")
    return found


def results(files: list[Path]) -> list[Any]:
    """Return what the reader finds in every file: its layers by name, or error and its place."""
    program = PROGRAM.replace("READER", json.dumps(READER.as_uri()))
    done = subprocess.run(
        [node(), "--input-type=module", "-e", program, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
