"""Lines of the documentation, run as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASH = "/bin/bash"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a language in a page of the documentation."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, (page, language)
    return found


def environment() -> dict[str, str]:
    """Return variables with which commands of this environment are found."""
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    return {**os.environ, "PATH": os.pathsep.join([*folders, os.environ["PATH"]])}


def run_lines(script: str, folder: Path = ROOT) -> str:
    """Run lines of a page, by default in the project's folder; return what they print."""
    done = subprocess.run(
        [BASH, "-euc", script],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the command lines of a console or shell block, each with its stated output."""
        text = self.text.replace("\\\n", " ")
        if self.language != "console":
            yield from ((line.strip(), "") for line in text.splitlines() if line.strip())
            return
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            yield line, output


def pages() -> list[str]:
    """Return the documents that users read, from the project's folder."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "conformance/README.md"]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def all_blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [Block(page=page, language=language, text=content) for language, content in found]


OF_THE_MACHINE = (
    r"(\btime) +[\d.]+ s(?:, [\d.]+ s of it to load PyTorch and ONNX)?",
    r"(PyTorch|ONNX Runtime) [\d.]+[^ ,]*(?=,)",
    r"(\d%) +[\d,]+ *$",  # images per second
    r"(manifest.json) +[\d.]+ kB",  # it holds paths
    r"(─)─+",
    r"(levels) +\d+(?= of)",
    r"()[\d.e+-]+%?(?= of (?:its|the) bound)",
    r"(largest difference) [\d.e+-]+",
    r"()\d+(?= of \d+ outputs)",
    r"(with itself:|algorithm\),) +[\d.]+",
)
"""What differs from machine to machine: times, versions, how floats were rounded, and widths."""


def same_output(stated: str, found: str) -> bool:
    """Compare output with that of a page, up to white space; `...` stands for any text."""
    stated, found = (_without_machine(text) for text in (stated, found))
    pattern = ".*".join(re.escape(part.strip()) for part in stated.split("..."))
    return re.fullmatch(pattern.replace(r"\ .*", ".*"), found, re.DOTALL) is not None


def _without_machine(text: str) -> str:
    for pattern in OF_THE_MACHINE:
        text = re.sub(pattern, r"\1 #", text, flags=re.MULTILINE)
    return " ".join(text.split())
