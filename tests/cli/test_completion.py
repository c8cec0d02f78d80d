"""The TAB key, in the shells themselves: the printed script is read, and the key completes values.

bash and fish can be asked without a terminal; zsh wants one, and gets a key.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import simulators
from tests.support.pages import environment

LINE = "apot-export convert --target o"
NON_INTERACTIVE = {
    "bash": (
        "bash --noprofile --norc",
        "read -ra COMP_WORDS <<< '{line}'; COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
        "eval $(complete -p apot-export | sed 's/.*-F \\([^ ]*\\) .*/\\1/') apot-export;"
        'printf "%s\\n" "${{COMPREPLY[@]}}"',
    ),
    "fish": ("fish --no-config", "complete -C '{line}'"),
}


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the file of the script that --install-completion installs for a shell."""
    shell = request.param
    simulators.require(shell)
    program = Path(sys.executable).with_name("apot-export")
    shown = subprocess.run(
        [program],
        env={**environment(), "_APOT_EXPORT_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    path = tmp_path / f"completion.{shell}"
    path.write_text(shown.stdout, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (LINE, {"openvino"}),
        ("apot-export verify --dataset cif", {"cifar10", "cifar100"}),
        ("apot-export conv", {"convert"}),
    ],
)
@pytest.mark.parametrize(
    ("script", "shell"), [(name, name) for name in NON_INTERACTIVE], indirect=["script"]
)
def test_tab_completes(shell: str, script: Path, line: str, values: set[str]) -> None:
    program, asking = NON_INTERACTIVE[shell]
    command = [*program.split(), "-c", f"source {script}; {asking.format(line=line)}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {one.split("\t")[0] for one in done.stdout.split("\n") if one} == values


def read_until(terminal: int, text: str, seconds: float = 60) -> str:
    said = ""
    while text not in said:
        ready, _, _ = select.select([terminal], [], [], seconds)
        assert ready, f"no {text!r} in {said!r}"
        said += os.read(terminal, 4096).decode(errors="replace")
    return said


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_tab_completes_in_zsh(script: Path) -> None:
    terminal, other = pty.openpty()
    with subprocess.Popen(
        ["/usr/bin/env", "zsh", "-f", "-i"],
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        env={**environment(), "TERM": "dumb", "PS1": "READY"},
    ) as shell:
        try:
            os.write(terminal, f"autoload -U compinit; compinit -D -u; . {script}\n".encode())
            os.write(terminal, b"echo set$((1 + 1))up\n")
            read_until(terminal, "set2up")
            os.write(terminal, f"{LINE}\t".encode())
            read_until(terminal, "openvino")
        finally:
            shell.kill()
            os.close(other)
            os.close(terminal)
