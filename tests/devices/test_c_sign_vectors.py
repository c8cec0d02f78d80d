"""C projects of networks whose weights are sums of sign vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.packed import load_packed
from apot_export.conversion.convert import convert
from tests.support import simulators
from tests.support.c_projects import (
    MACHINES,
    SHIFTING,
    assert_no_products,
    assert_passes,
    assert_same,
    opened,
    write,
)
from tests.support.published import PUBLISHED
from tests.support.random_coded_networks import multi_bit_network, plane_network


@pytest.mark.parametrize("bits", [2, 9])
@pytest.mark.parametrize("seed", range(2))
def test_groups_inside_along_and_across_outputs(seed: int, bits: int, tmp_path: Path) -> None:
    assert_same(plane_network(seed), tmp_path, bits)


@pytest.mark.parametrize("position_major", [False, True])
def test_networks_of_training(position_major: bool, tmp_path: Path) -> None:
    assert_same(multi_bit_network(0, 2, position_major=position_major), tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.int64]]:
    folder = tmp_path_factory.mktemp("c") / "signs"
    return folder, write(opened(plane_network()), folder)


@pytest.mark.parametrize("build", SHIFTING)
def test_nothing_multiplies_or_divides(build: str, small: tuple[Path, NDArray[np.int64]]) -> None:
    assert_no_products(small[0], build)


def test_lenet5_on_microcontrollers(reference: Path, tmp_path: Path) -> None:
    simulators.require("make", *(program for pair in MACHINES.values() for program in pair))
    checkpoint = reference / "checkpoints" / PUBLISHED["alq_lenet5"].checkpoint
    export = convert(checkpoint, tmp_path / "lenet", alpha_terms=3).path
    logits = write(opened(load_packed(export / PACKED_MODEL).network), tmp_path, 1)
    for machine in ("host", *MACHINES):
        assert_passes(tmp_path, logits, f"run-{machine}")
