"""Costs are what an execution of the codes takes, addition by addition."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import apot_export
from apot_export.inspection.cost import TABLES, cost
from apot_export.network import CodedLayer, CodedNetwork, Convolution, Layer, oracle
from apot_export.network.codebook import Codebook, apot, power_of_two_shift, uniform
from tests.support.published import Shelf
from tests.support.random_coded_networks import multi_bit_network, two_layers

Array = NDArray[Any]


class Counting:
    """The oracle with products that add and shift column by column, and count it."""

    def __init__(self) -> None:
        self.layer = ""
        self.additions: Counter[str] = Counter()
        self.shifts: Counter[str] = Counter()

    def product(self, rows: Array, codes: Array, book: Codebook) -> Array:
        """Return sums [rows, out] of inputs [rows, taps] and codes [out, taps]."""
        found = np.zeros((len(rows), len(codes)), rows.dtype)
        for output, of_output in enumerate(codes):
            sums: dict[int, Array] = {}
            for tap, code in enumerate(of_output.tolist()):
                rest, sign = code, -1 if code & book.sign_mask else 1
                for table in book.tables:
                    addend = table[rest % len(table)]
                    rest //= len(table)
                    if addend:
                        at = sums.setdefault(power_of_two_shift(addend), np.zeros_like(found[:, 0]))
                        self.additions[self.layer] += len(rows)
                        if (addend > 0) == (sign > 0):
                            at += rows[:, tap]
                        else:
                            at -= rows[:, tap]
            for power, total in sums.items():
                shifted = total
                if power:
                    self.shifts[self.layer] += len(rows)
                    shifted = total << power if total.dtype.kind == "i" else total * 2.0**power
                self.additions[self.layer] += len(rows)
                found[:, output] += shifted
        return found

    def weights_and_product(self, layer: Layer) -> tuple[Array, oracle.Product]:
        assert isinstance(layer, CodedLayer)
        book, self.layer = layer.codebook, layer.name

        def product(rows: Array, codes: Array) -> Array:
            if layer.activation is not None:
                return self.product(rows, codes, book)
            return self.product(rows.astype(np.float64), codes, book).astype(np.float32)

        return layer.codes, product


def require_counted(network: CodedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a network with every addition and shift counted; compare results and counts."""
    image = np.random.default_rng(0).normal(size=(1, *network.input_shape)).astype(np.float32)
    expected = oracle.run(network, image)
    counting = Counting()
    monkeypatch.setattr(oracle, "_weights_and_product", counting.weights_and_product)
    np.testing.assert_allclose(oracle.run(network, image), expected, rtol=1e-5, atol=1e-5)
    found = cost(network)
    assert {layer.layer: layer.additions for layer in found.layers} == counting.additions
    counted = {layer.layer: layer.shifts for layer in found.layers if layer.shifts}
    assert counted == counting.shifts
    assert not any(layer.multiplications for layer in found.layers)


def test_a_small_network_takes_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for book in (apot(3, signed=True), uniform(4, signed=True)):
        require_counted(two_layers(book, apot(2, signed=False), 0), monkeypatch)


def test_a_converted_network_takes_what_is_counted(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_counted(apot_export.load_packed(exported / "res8_4bit").network, monkeypatch)


def test_resnet_20_takes_what_is_counted(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    network = shelf.network("cifar10_res20_4bit")
    require_counted(network, monkeypatch)
    assert cost(network).macs == 40_813_184


def test_int8_and_float32_are_products_times_the_tables(exported: Path) -> None:
    found = apot_export.inspect(exported / "res8_4bit").cost
    old, new = TABLES
    assert (old.int8_multiply, old.int32_add, old.float32_multiply, old.float32_add) == (
        *(0.2, 0.1, 3.7, 0.9),
    )
    for layer in (*found.to_json()["layers"], found.to_json()):
        macs = layer["macs"]
        if "layer" not in layer:
            layer = {f"{form['name']}_energy": form["energy"] for form in layer["forms"]}  # noqa: PLW2901 - the totals
        for table, byte, single in ((old, 0.3, 4.6), (new, 0.1, 1.69)):
            assert layer["int8_energy"][table.name] == pytest.approx(macs * byte)
            assert layer["float32_energy"][table.name] == pytest.approx(macs * single)
    stored = found.forms[0]
    for table in TABLES:
        expected = stored.additions * table.int32_add + stored.shifts * table.shift
        assert stored.energy[table.name] == pytest.approx(expected)


@pytest.mark.parametrize("terms", [0, 2])
def test_sign_vectors_take_an_addition_for_every_weight(terms: int) -> None:
    network = multi_bit_network(0, terms, position_major=False)
    for layer in cost(network).layers:
        planes = getattr(network.layers[layer.layer], "planes", None)
        if planes is None:
            continue
        positions = layer.macs // int(np.prod(planes.shape))
        taps = planes.filters * planes.group_size
        if terms:
            used = int((planes.terms != 0).sum())
            counted = ("int32", taps + used, used, 0)
        else:
            counted = ("float32", taps + planes.filters, 0, planes.filters)
        name, *numbers = counted
        assert layer.arithmetic == name
        found = [layer.additions, layer.shifts, layer.multiplications]
        assert found == [number * positions for number in numbers]


def test_bits_moved_are_weights_inputs_and_outputs(exported: Path) -> None:
    """What a later float layer reads through residual additions is moved as floats."""
    packed = apot_export.load_packed(exported / "res8_4bit")
    network, found = packed.network, {one.layer: one for one in cost(packed.network).layers}
    sums = {
        node.operation.layer: node
        for node in network.nodes
        if isinstance(node.operation, Convolution)
    }
    for name, output_bits in (("layer1.0.conv1", 4), ("layer3.0.conv2", 32)):
        node = sums[name]
        sizes = [math.prod(network.shapes[value]) for value in (node.inputs[0], node.name)]
        weights = math.prod(network.layers[name].shape)
        assert found[name].bits_moved == 4 * weights + 4 * sizes[0] + output_bits * sizes[1]
        assert found[name].int8_bits_moved == 8 * (weights + sum(sizes))


def test_the_peak_is_that_of_the_widest_node() -> None:
    """Of a chain: the input and the output of its widest convolution."""
    network = two_layers(apot(3, signed=True), apot(2, signed=False), 0)
    most = max(
        math.prod(network.shapes[node.inputs[0]]) + math.prod(network.shapes[node.name])
        for node in network.nodes
        if isinstance(node.operation, Convolution)
    )
    stored, byte, single = cost(network).forms
    assert most <= byte.peak_bytes <= most + 16
    assert 4 * most <= single.peak_bytes <= 4 * most + 16
    assert stored.peak_bytes <= single.peak_bytes
