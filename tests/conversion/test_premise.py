from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from apot_export.conversion.convert import convert
from apot_export.errors import BitWidthError
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from tests.support.commands import document, run

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def digits(project: Path, tmp_path: Path) -> Path:
    """Return a copy of the example's checkpoint whose name states nothing."""
    source = project / "examples" / "digits" / "res8_4bit" / "model_best.pth.tar"
    target = tmp_path / "network.pth.tar"
    target.write_bytes(source.read_bytes())
    return target


def changed(checkpoint: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    content = torch.load(checkpoint, weights_only=True)
    state = content["state_dict"]
    content["state_dict"] = {key: change(key, value) for key, value in state.items()}
    torch.save(content, checkpoint)


def sources(found: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {part["what"]: part["source"] for part in found["assumptions"]}


def test_bits_that_nothing_states_come_from_statistics(digits: Path) -> None:
    found = document("convert", digits, "-o", digits.parent / "export")
    assert (found["bits"], found["method"]) == (4, "apot")
    assert found["bits_from"] == "batch-norm statistics"
    assert found["statistics"]["agrees"] is True
    assert sources(found)["weight bits"] == "batch-norm statistics"
    assert sources(found)["activation bits"] == "assumption"
    shown = run("convert", digits, "-o", digits.parent / "shown").stdout
    assert "its means are those of 4-bit apot weights" in shown
    report = document("verify", digits.parent / "export", "--limit", 20)
    assert report["verdict"] == "PASS"


def test_without_statistics_somebody_must_state_the_bits(digits: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def shuffle(key: str, value: torch.Tensor) -> torch.Tensor:
        if not key.endswith("running_mean"):
            return value
        return value[torch.randperm(len(value), generator=generator)]

    changed(digits, shuffle)
    result = run("convert", digits, "-o", digits.parent / "export")
    assert result.exit_code == 2
    assert "--bits N" in result.stderr
    assert not (digits.parent / "export").exists()
    found = document("convert", digits, "--bits", 3, "-o", digits.parent / "export")
    assert found["statistics"] == {
        "weights": found["statistics"]["weights"],
        "decisive": False,
        "agrees": None,
        "source": "batch-norm statistics",
    }


@pytest.mark.parametrize(
    "stated",
    [("--bits", 3), ("--bits", 5), ("--bits", 2), ("--bits", 4, "--method", "uniform"),
     ("--bits", 4, "--no-weight-normalization")],
    ids=lambda stated: " ".join(map(str, stated)),
)  # fmt: skip
def test_what_statistics_contradict_is_refused_with_advice_that_works(
    stated: tuple[object, ...], digits: Path
) -> None:
    export = digits.parent / "export"
    result = run("convert", digits, *stated, "-o", export)
    assert result.exit_code == 2
    assert "batch-norms contradict" in result.stderr
    assert "4-bit apot" in result.stderr
    assert not export.exists()
    advice = re.search(r"trained with \((.*?)\)", " ".join(result.stderr.split()))
    assert advice is not None
    assert run("convert", digits, *shlex.split(advice[1]), "-o", export).exit_code == 0
    found = document("convert", digits, *stated, "-o", digits.parent / "b", "--trust-options")
    assert found["statistics"]["agrees"] is False


def test_a_network_in_memory_is_held_to_its_statistics(digits: Path, tmp_path: Path) -> None:
    module = load_original(digits, Choices(bits=3)).module
    with pytest.raises(BitWidthError, match="batch-norms contradict"):
        convert(module, tmp_path / "export", input_shape=(1, 8, 8))
    found = convert(module, tmp_path / "export", input_shape=(1, 8, 8), trust_options=True)
    assert found.statistics is not None
    assert found.statistics["agrees"] is False


def test_layers_of_other_bits_are_not_compared(digits: Path) -> None:
    options = ("--bits", 4, "--layer-bits", "layer1.*=3", "-o", digits.parent / "export")
    assert document("convert", digits, *options)["statistics"]["agrees"] is True


def test_layers_left_in_float_are_named_where_integers_are_asked_for(digits: Path) -> None:
    export = digits.parent / "export"
    left = ("--bits", 4, "--layer-bits", "layer2.*=32", "--integer", "-o", export)
    refused = run("convert", digits, *left)
    assert refused.exit_code == 2
    assert "layer2.0.conv1" in refused.stderr
    assert "leave out --integer, or the --layer-bits that leave" in refused.stderr
    assert not export.exists()


def test_a_four_bit_checkpoint_is_no_three_bit_network(reference: Path, tmp_path: Path) -> None:
    checkpoint = reference / "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"
    result = run("convert", checkpoint, "--bits", 3, "-o", tmp_path / "export")
    assert result.exit_code == 2
    assert "--trust-options" in result.stderr
