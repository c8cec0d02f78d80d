"""What one image costs: additions and shifts of the codes, bits moved, memory and energy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from apot_export.network import CodedLayer, CodedNetwork, FloatLayer, PlaneLayer
from apot_export.network import operations as op
from apot_export.network.graph import products_by_node
from apot_export.network.layers import EncodedCodes, Layer
from apot_export.network.memory_plan import activations, bytes_of
from apot_export.network.shown import Shown

INTEGER, FLOAT = "int32", "float32"
_FLOAT_BITS = 32
_INT8_BITS = 8

RULE = (
    "A sum starts at 0 for every power of two that a weight of the output has. Each term of a "
    "weight adds its input to the sum of its power, or subtracts it: one addition; zeros take "
    "none. Then each sum of a power above 1 is shifted once, and each is added to the output. "
    "Inputs of padding count like others. Batch-norm, requantization, pools and residual additions "
    "are left out of all three forms."
)
"""How additions and shifts of codes are counted; the oracle computes in this way."""


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Published energies of operations, in picojoules."""

    name: str
    source: str
    int8_multiply: float
    int32_add: float
    shift: float
    """Of 32 bits."""
    float32_multiply: float
    float32_add: float
    access: float
    """Reading or writing 64 bits in a static memory of 1 MB."""

    def int8(self, products: int) -> float:
        """Return the energy of products of 8 bits, summed in 32, in picojoules."""
        return products * (self.int8_multiply + self.int32_add)

    def float32(self, products: int) -> float:
        """Return the energy of products and sums in float32, in picojoules."""
        return products * (self.float32_multiply + self.float32_add)

    def moving(self, bits: int) -> float:
        """Return the energy of bits moved once, in picojoules."""
        return bits / 64 * self.access


_OF_SHIFTS = (
    "32-bit shift: You et al., ShiftAddNet, NeurIPS 2020, table 1 (0.13 pJ at 45 nm, beside 0.1 pJ "
    "for the addition)"
)
TABLES = (
    EnergyTable(
        name="45 nm",
        source="Horowitz, Computing's energy problem, ISSCC 2014, figure 1.1.9; " + _OF_SHIFTS,
        int8_multiply=0.2,
        int32_add=0.1,
        shift=0.13,
        float32_multiply=3.7,
        float32_add=0.9,
        access=100.0,
    ),
    EnergyTable(
        name="7 nm",
        source="Jouppi et al., Ten lessons from three generations shaped Google's TPUv4i, ISCA "
        "2021, table 2; it has no shift: 1.3 times its addition, as at 45 nm",
        int8_multiply=0.07,
        int32_add=0.03,
        shift=0.039,
        float32_multiply=1.31,
        float32_add=0.38,
        access=14.0,
    ),
)
"""Energies by process, the older first."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What a layer costs for one image."""

    layer: str
    arithmetic: str
    """What additions and multiplications are of: "int32" or "float32"."""
    macs: int
    """Products of inputs and weights, which a network of floats or bytes multiplies."""
    additions: int
    shifts: int
    multiplications: int
    bits_moved: int
    """Weights as stored and inputs, each read once, and outputs, written once."""
    int8_bits_moved: int
    """The same with 8 bits for each number."""

    def energy(self, table: EnergyTable) -> float:
        """Return what its operations take, in picojoules."""
        add, multiply = table.int32_add, math.nan
        if self.arithmetic == FLOAT:
            add, multiply = table.float32_add, table.float32_multiply
        energy = self.additions * add + self.shifts * table.shift
        return energy + self.multiplications * multiply if self.multiplications else energy

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form; energies in picojoules by table."""
        return {
            **dataclasses.asdict(self),
            "energy": {table.name: self.energy(table) for table in TABLES},
            "int8_energy": {table.name: table.int8(self.macs) for table in TABLES},
            "float32_energy": {table.name: table.float32(self.macs) for table in TABLES},
        }


@dataclass(frozen=True, kw_only=True)
class Form:
    """The whole network in one form, for one image."""

    name: str
    """"stored", "int8" or "float32"."""
    additions: int
    shifts: int
    multiplications: int
    bits_moved: int
    peak_bytes: int
    """Of activations, each kept while a node needs it."""
    energy: Mapping[str, float]
    """Of the operations, in picojoules by table."""
    moving_energy: Mapping[str, float]
    """Of the bits moved, from and to a static memory of 1 MB, in picojoules by table."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Cost(Shown):
    """What one image costs, by layer and in all, beside the network in int8 and in float32."""

    layers: tuple[LayerCost, ...]
    """In order of computation."""
    forms: tuple[Form, ...]
    """As stored, in int8, in float32."""

    @property
    def macs(self) -> int:
        """Products of one image."""
        return sum(layer.macs for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "rule": RULE,
            "tables": [dataclasses.asdict(table) for table in TABLES],
            "macs": self.macs,
            "forms": [dataclasses.asdict(form) for form in self.forms],
            "layers": [layer.to_json() for layer in self.layers],
        }

    def _facts(self) -> Iterator[tuple[str, object]]:
        stored = self.forms[0]
        yield "multiply-accumulates", f"{self.macs:,}"
        yield "additions", f"{stored.additions:,}"
        yield "shifts", f"{stored.shifts:,}"
        yield "peak of activations", f"{stored.peak_bytes:,} bytes"


def cost(network: CodedNetwork) -> Cost:
    """Count what a network costs for one image by `RULE`."""
    macs, needed = products_by_node(network), _needed_bits(network)
    layers = []
    for node in network.nodes:
        if not isinstance(node.operation, (op.Convolution, op.Linear)):
            continue
        layer = network.layers[node.operation.layer]
        numbers = [math.prod(network.shapes[name]) for name in (node.inputs[0], node.name)]
        positions = math.prod(network.shapes[node.name][1:])
        arithmetic, additions, shifts, multiplications = _operations(layer, positions)
        layers.append(
            LayerCost(
                layer=layer.name,
                arithmetic=arithmetic,
                macs=macs[node.name],
                additions=additions,
                shifts=shifts,
                multiplications=multiplications,
                bits_moved=stored_bits(layer)
                + numbers[0] * _input_bits(layer)
                + numbers[1] * needed[node.name],
                int8_bits_moved=_INT8_BITS * (math.prod(layer.shape) + sum(numbers)),
            )
        )
    return Cost(layers=tuple(layers), forms=_forms(network, layers))


def stored_bits(layer: Layer) -> int:
    """Return the bits of codes, or of sign vectors and coordinates, without filling bytes."""
    if isinstance(layer, CodedLayer):
        if isinstance(layer.stored, EncodedCodes):
            return 8 * layer.stored.stored_bytes
        return math.prod(layer.shape) * layer.codebook.bits
    if isinstance(layer, PlaneLayer):
        return layer.planes.storage_bits()
    return math.prod(layer.shape) * _FLOAT_BITS


def value_bits(network: CodedNetwork) -> dict[str, int]:
    """Return the bits of a number of every value as stored: of levels, or 32 of floats."""
    bits = dict.fromkeys(network.shapes, _FLOAT_BITS)
    for node in network.nodes:
        if isinstance(node.operation, op.QuantizeActivation):
            bits[node.name] = _input_bits(network.layers[node.operation.layer])
    return bits


def _operations(layer: Layer, positions: int) -> tuple[str, int, int, int]:
    """Return the arithmetic of a layer, and its additions, shifts and multiplications."""
    if isinstance(layer, FloatLayer):
        macs = math.prod(layer.shape) * positions
        return FLOAT, macs, 0, macs
    if isinstance(layer, PlaneLayer):
        planes = layer.planes
        taps = planes.filters * planes.group_size
        if planes.terms is None:
            return FLOAT, (taps + planes.filters) * positions, 0, planes.filters * positions
        terms = int(np.count_nonzero(planes.terms))
        return INTEGER, (taps + terms) * positions, terms * positions, 0
    powers, members = layer.codebook.terms()
    of_outputs = layer.tally(members)
    used = of_outputs > 0
    shifts = int(used[:, np.array(powers) > 0].sum())
    return INTEGER, int(of_outputs.sum() + used.sum()) * positions, shifts * positions, 0


def _input_bits(layer: Layer) -> int:
    return _FLOAT_BITS if layer.activation is None else layer.activation.codebook.bits


def _needed_bits(network: CodedNetwork) -> dict[str, int]:
    """Return the widest bits in which layers read a value, themselves or behind other nodes."""
    needed = dict.fromkeys(network.shapes, 0)
    needed |= dict.fromkeys((network.output, *network.further_outputs), _FLOAT_BITS)
    for node in reversed(network.nodes):
        bits = needed[node.name]
        if isinstance(node.operation, (op.Convolution, op.Linear, op.QuantizeActivation)):
            bits = _input_bits(network.layers[node.operation.layer])
        for name in node.inputs:
            needed[name] = max(needed[name], bits)
    return needed


def _forms(network: CodedNetwork, layers: list[LayerCost]) -> tuple[Form, ...]:
    macs = sum(layer.macs for layer in layers)
    moved = sum(layer.bits_moved for layer in layers)
    bytes_moved = sum(layer.int8_bits_moved for layer in layers)
    count = {
        part: sum(getattr(layer, part) for layer in layers)
        for part in ("additions", "shifts", "multiplications")
    }
    multiplied = {"additions": macs, "shifts": 0, "multiplications": macs}
    found = (
        ("stored", count, moved, value_bits(network)),
        ("int8", multiplied, bytes_moved, dict.fromkeys(network.shapes, _INT8_BITS)),
        ("float32", multiplied, 4 * bytes_moved, dict.fromkeys(network.shapes, _FLOAT_BITS)),
    )
    energies = {
        "stored": {t.name: sum(layer.energy(t) for layer in layers) for t in TABLES},
        "int8": {table.name: table.int8(macs) for table in TABLES},
        "float32": {table.name: table.float32(macs) for table in TABLES},
    }
    return tuple(
        Form(
            name=name,
            **counted,
            bits_moved=bits,
            peak_bytes=bytes_of(activations(network, of_values)),
            energy=energies[name],
            moving_energy={table.name: table.moving(bits) for table in TABLES},
        )
        for name, counted, bits, of_values in found
    )
