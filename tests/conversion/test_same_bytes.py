"""The same checkpoint gives the same bytes, whatever the environment and the memory layout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apot_export import convert, load_packed
from apot_export.network import CodedLayer
from apot_export.original.checkpoint import load_checkpoint
from tests.support.commands import installed
from tests.support.published import PUBLISHED

DIGITS = Path(__file__).parents[2] / "examples/digits/res8_4bit/model_best.pth.tar"
CODES = "a7fb4ed3886f5f4b64845dc332862a16eb015b1941a700cbffb2862e3707f624"
"""SHA-256 of the codes of the digits network, layer by layer."""
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels last": lambda weight: weight.to(memory_format=torch.channels_last),
    "transposed": lambda weight: weight.transpose(0, 1).contiguous().transpose(0, 1),
    "sliced": lambda weight: torch.cat([weight, -weight])[: len(weight)],
}
EIGHT_BIT = [
    name
    for name, published in PUBLISHED.items()
    if not published.checkpoint.startswith(("first-release", "ALQ", "ImageNet"))
]


def digest(export: Path) -> str:
    """Return the digest of all codes, with their values."""
    found = hashlib.sha256()
    for layer in load_packed(export).layers.values():
        assert isinstance(layer, CodedLayer)
        found.update(layer.packed.tobytes())
        found.update(layer.values.tobytes())
    return found.hexdigest()


def test_codes_of_the_digits_network(tmp_path: Path) -> None:
    assert digest(convert(DIGITS, tmp_path / "export").path) == CODES


def test_the_environment_changes_no_byte(tmp_path: Path) -> None:
    environments = [
        ("1", "0", "C", "UTC"),
        ("64", "1", "tr_TR.UTF-8", "Asia/Kathmandu"),
    ]
    found = []
    for threads, seed, language, zone in environments:
        export = tmp_path / threads
        environment = {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": seed, "TZ": zone}
        done = installed(
            *("convert", str(DIGITS), "-o", str(export), "--integer", "--json"),
            **environment,
            LC_ALL=language,
            LANG=language,
        )
        assert done.returncode == 0, done.stderr
        files = sorted(export.iterdir())
        found.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert len(found[0]) == 4
    assert found[0] == found[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_changes_no_code(layout: str, tmp_path: Path) -> None:
    content = torch.load(DIGITS, map_location="cpu", weights_only=True)
    state = content["state_dict"]
    for key, value in state.items():
        if value.ndim == 4:
            state[key] = LAYOUTS[layout](value)
            assert torch.equal(state[key], value)
    path = tmp_path / "res8_4bit.pth.tar"
    torch.save(content, path)
    assert digest(convert(path, tmp_path / "export").path) == CODES


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_gradients_term_changes_signs_of_zeros_alone(name: str, reference: Path) -> None:
    """The training codes convolve with (q - w) + w: in 8-bit layers that is q, with +0 for -0."""
    state = load_checkpoint(reference / "checkpoints" / PUBLISHED[name].checkpoint).state
    with np.load(reference / f"golden/{name}.npz") as golden:
        layers = {key: golden[f"weight_q/{key}"] for key in ("conv1", "fc")}
    for layer, quantized in layers.items():
        weight = state[f"{layer}.weight"].numpy()
        computed_with = (quantized - weight) + weight
        positive = np.where(quantized == 0, np.float32(0), quantized)
        assert np.array_equal(computed_with.view(np.uint32), positive.view(np.uint32))
        zero = quantized == 0
        assert np.array_equal(np.signbit(quantized[zero]), np.signbit(weight[zero]))
