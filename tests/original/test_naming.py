"""Names of checkpoints are read as a person reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from apot_export.errors import BitWidthError, CodebookError
from apot_export.original.naming import (
    activation_bits_from_name,
    bits_from_name,
    grid_from_name,
    method_from_name,
)

WIDTHS: dict[str, int | tuple[int, int] | None] = {
    "res20_4bit": 4,
    "res18_4bit.pth.tar": 4,
    "res20-4bit": 4,
    "RES20_4BIT": 4,
    "resnet18_3bits": 3,
    "ptq4bit": 4,
    "run3_bit4": 4,
    "run_3_bit4": 4,
    "bit4": 4,
    "bits_4": 4,
    "nbits=5": 5,
    "res20_4-bit": 4,
    "res20_4_bit": 4,
    "resnet18-4-bit-best": 4,
    "4bit_2": 4,
    "model.4bit": 4,
    "4bitpot": 4,
    "int4": 4,
    "resnet-int8-run2": 8,
    "w4a4": (4, 4),
    "W4A8": (4, 8),
    "res20_w4_a8": (4, 8),
    "a8w4": (4, 8),
    "2w8a": (2, 8),
    "wbit3-abit5": (3, 5),
    "w4bit_a8bit": (4, 8),
    "w4a8_4bit": (4, 8),
    "res20_32bit": 32,
    "lenet5_0.40bit": None,
    "vgg_0.66bit": None,
    "2.00bit": None,
    "bit0.40": None,
    "res20": None,
    "res20_bit": None,
    "128bit": None,
    "orbit4": None,
    "print4": None,
    "wide4_a": None,
    "model_best.pth.tar": None,
}
AMBIGUOUS = ("2bit_3bit", "res3bit4", "4_bit_8", "4bit_w2a2", "w4a4_int8", "w2a2_w4a4")
LEVEL_SETS = {
    "res20_4bit": None,
    "res20_4bit_apot": "apot",
    "APOT": "apot",
    "APoT_Quantization": "apot",
    "APoTResNet20": "apot",
    "res20apot4bit": "apot",
    "additive_powers": "apot",
    "res20_4bit_pot": "pot",
    "PoT_res20": "pot",
    "ResNetPoT": "pot",
    "4bitpot": "pot",
    "pot-4bit": "pot",
    "spot": None,
    "potato": None,
    "apothecary": None,
    "resnet10_4bit_uniform": "uniform",
    "UniformQuant": "uniform",
    "4bit_nonuniform": None,
    "4bit_non-uniform": None,
    "pot_nonuniform": "pot",
}


@pytest.mark.parametrize("name", WIDTHS)
def test_bit_widths(name: str) -> None:
    expected = WIDTHS[name]
    weights, activations = expected if isinstance(expected, tuple) else (expected, None)
    for path, source in (
        (Path(f"runs/{name}/model_best.pth.tar"), "folder name"),
        (Path(f"runs/x/{name}.pth.tar"), "file name"),
    ):
        found, other = bits_from_name(path), activation_bits_from_name(path)
        assert (found and found.value) == weights
        assert (other and other.value) == activations
        assert found is None or found.source == source


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_name_that_can_be_read_as_two_bit_widths_asks(name: str) -> None:
    with pytest.raises(BitWidthError, match="more than one bit-width") as caught:
        bits_from_name(Path(f"{name}/model_best.pth.tar"))
    assert "--bits N" in str(caught.value)


@pytest.mark.parametrize("name", LEVEL_SETS)
def test_level_sets(name: str) -> None:
    for path in (Path(f"runs/{name}/model_best.pth.tar"), Path(f"runs/x/{name}.pth.tar")):
        found = method_from_name(path)
        assert (found and found.value) == LEVEL_SETS[name]


@pytest.mark.parametrize("name", ["apot_vs_pot", "uniform_apot", "pot_uniform"])
def test_a_name_of_two_level_sets_asks(name: str) -> None:
    with pytest.raises(CodebookError, match="more than one level set"):
        method_from_name(Path(f"{name}/model_best.pth.tar"))


def test_the_file_decides_before_its_folder() -> None:
    path = Path("res20_4bit_uniform/epoch3_3bit_pot.pth.tar")
    assert bits_from_name(path) == bits_from_name(Path("3bit.pth"))
    found = method_from_name(path)
    assert (found and found.value) == "pot"


@pytest.mark.parametrize(
    ("path", "bits", "method", "grid"),
    [
        ("res20_4bit/APOT/model_best.pth.tar", 4, "apot", None),
        ("res20_4bit/uniform/model_best.pth.tar", 4, "uniform", None),
        ("res32_2bit/N_grid/model_best.pth.tar", 2, None, "nonzero"),
        ("res32_2bit/ngrid_z4/model_best.pth.tar", 2, None, "nonzero"),
        ("PoT/res20_4bit/model_best.pth.tar", 4, "pot", None),
        ("APoT_Quantization/res20_4bit/model_best.pth.tar", 4, None, None),
        ("res20_4bit/run1/model_best.pth.tar", None, None, None),
    ],
)
def test_folders(path: str, bits: int | None, method: str | None, grid: str | None) -> None:
    found = bits_from_name(Path(path)), method_from_name(Path(path)), grid_from_name(Path(path))
    assert [stated and stated.value for stated in found] == [bits, method, grid]
