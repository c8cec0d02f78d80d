"""Resolve bit-widths, level set and grid of every layer, and record what stated each of them.

The user's options come first, then the attributes of the layers' objects (custom networks only),
then the names of the checkpoint's file and folder. Statements that contradict each other are
refused.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from apot_export.errors import BitWidthError, CodebookError
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.naming import bits_from_name, grid_from_name, method_from_name
from apot_export.original.quantization import (
    FULL_PRECISION_BITS,
    GRIDS,
    TERNARY_BITS,
    LayerBits,
    Quantization,
    Stated,
)

_OPTION, _NETWORK, _CHECKPOINT, _DEFAULT = "option", "network", "checkpoint", "default"
_SAME = 1e-6
"""Largest difference of two spellings of one level."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerFacts:
    """What the object of a layer states about its quantization; None where it states nothing."""

    name: str
    bits: int | None = None
    """Nominal bits of weights and activations."""
    power: bool | None = None
    """Whether levels are powers of two or sums of them, rather than uniform."""
    weight_levels: torch.Tensor | None = None
    """Magnitudes of the weights' level set, float32 [levels]."""
    activation_levels: torch.Tensor | None = None
    """Likewise, of activations."""


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The quantization of every layer with clipping thresholds, and the sources of its parts."""

    default: Quantization
    """That of most layers to which the user gave no bits by name."""
    layers: Mapping[str, Quantization]
    bits: Stated[int]
    """The default's bits of weights."""
    method: Stated[str]
    grid: Stated[str]
    choices: Choices
    """The user's, completed by what names state: they rebuild the plan without names."""


def resolve(
    family: Family,
    layers: Sequence[LayerFacts],
    choices: Choices,
    path: Path | None,
    ours: Mapping[str, Quantization] | None = None,
) -> LayerPlan:
    """Decide how every layer quantizes.

    Args:
        family: Of the checkpoint or network.
        layers: Layers with clipping thresholds.
        choices: The user's options.
        path: The checkpoint, whose names state what nothing else does; None if there is none.
        ours: Quantization of layers that are `QuantConv2d` already.

    Raises:
        BitWidthError: A bit-width is not known, contradicted, or not offered by the family; or an
            option does not apply to it.
        CodebookError: A level set or grid is contradicted, or not offered by the family.
    """
    resolver = _Resolver(family, layers, ours or {}, choices, path)
    found = {layer.name: resolver.quantization(layer) for layer in layers}
    for name, own in resolver.ours.items():
        resolver.weight_bits(name, own.weight_bits)
        found[name] = own
    usual = [found[name] for name in found if name not in resolver.exceptions]
    usual = usual or [*found.values()] or [resolver.quantization(LayerFacts(name=family.name))]
    ((default, _),) = Counter(usual).most_common(1)
    bits, method, grid = resolver.bits, resolver.method, resolver.grid
    return LayerPlan(
        default=default,
        layers=found,
        bits=Stated(default.weight_bits, bits.source),
        method=Stated(default.method, method.source),
        grid=Stated(default.grid, grid.source),
        choices=dataclasses.replace(choices, bits=bits.value, method=method.value, grid=grid.value),
    )


@dataclass
class _Resolver:
    """What is stated about a network as a whole, and from it the quantization of each layer."""

    family: Family
    layers: Sequence[LayerFacts]
    ours: Mapping[str, Quantization]
    choices: Choices
    path: Path | None
    exceptions: Mapping[str, LayerBits] = field(init=False)
    """Bit-widths that the user gave to layers by name."""
    bits: Stated[int | None] = field(init=False)
    """Bits of layers that state none; None where all layers state theirs."""
    method: Stated[str | None] = field(init=False)
    """Level set; None for the first that fits what a layer states."""
    grid: Stated[str | None] = field(init=False)
    """Grid of 2-bit weights, likewise."""

    def __post_init__(self) -> None:
        self.method = self._method()
        self._require_applicable()
        self.exceptions = self._exceptions()
        self.bits = self._bits()
        self.grid = self._grid()

    def _method(self) -> Stated[str | None]:
        method: Stated[str | None] = Stated(None, _DEFAULT)
        if self.choices.method is not None:
            method = Stated(self.choices.method, _OPTION)
        elif (self.layers or self.ours) and all(
            layer.power is not None or layer.activation_levels is not None for layer in self.layers
        ):
            method = Stated(None, _NETWORK)
        elif self.path is not None:
            method = method_from_name(self.path) or method
        if method.value not in (None, *self.family.methods):
            raise CodebookError(
                f"The family {self.family.name} has no such level set.",
                where=self._where(),
                expected=" or ".join(self.family.methods),
                got=f"{method.value!r} from the {method.source}",
                fix="name the level set that the network was trained with: --method NAME",
            )
        return method

    def _require_applicable(self) -> None:
        """Raise `BitWidthError` for an option that has no effect on such a network."""
        choices, levels = self.choices, self.family.has_thresholds
        uniform = levels and (
            self.method.value == "uniform" or self.method == Stated(None, _NETWORK)
        )
        of_weights = "weights with clipping thresholds"
        multi_bit = self.family.has_sign_vectors
        for option, given, applies, expected in (
            ("--legacy-divisor", choices.legacy_divisor, uniform, "uniform levels"),
            ("--no-weight-normalization", not choices.normalize_weights, levels, of_weights),
            ("--layer-bits", choices.layer_bits, levels, "layers with clipping thresholds"),
            ("--unsigned-zeros", choices.unsigned_zeros, levels, of_weights),
            ("--alpha-terms", choices.alpha_terms, multi_bit, "multi-bit weights"),
        ):
            if given and not applies:
                raise BitWidthError(
                    "An option does not apply to the network.",
                    where=self._where(),
                    expected=expected,
                    got=f"{option}; family {self.family.name}",
                    fix=f"leave out {option}",
                )

    def _exceptions(self) -> dict[str, LayerBits]:
        names = [*(layer.name for layer in self.layers), *self.ours]
        found: dict[str, LayerBits] = {}
        for exception in self.choices.layer_bits:  # later ones win
            matching = [name for name in names if fnmatchcase(name, exception.pattern)]
            if not matching:
                raise BitWidthError(
                    "A pattern of layer bit-widths matches no quantized layer.",
                    where=exception.pattern,
                    expected="one of " + ", ".join(names[:4]) + ", ...",
                    fix="correct the pattern; * stands for any characters",
                )
            found |= dict.fromkeys(matching, exception)
        return found

    def _bits(self) -> Stated[int | None]:
        if self.choices.bits is not None:
            return Stated(self.choices.bits, _OPTION)
        silent = [
            layer.name
            for layer in self.layers
            if layer.bits is None and layer.name not in self.exceptions
        ]
        if (self.layers or self.ours) and not silent:
            self._require_name_agrees()
            return Stated(None, _NETWORK)
        named = bits_from_name(self.path) if self.path else None
        if named is None and not self.family.has_thresholds:
            return Stated(FULL_PRECISION_BITS, _CHECKPOINT)
        if named is None:
            raise BitWidthError(
                "The bit-width is not known: neither a layer's object nor a name states it.",
                where=self._where(silent[0]),
                expected="a name such as res20_4bit/model_best.pth.tar or res18_4bit.pth.tar; or, "
                "in a custom network, an attribute `bit`",
                fix="say it: --bits N",
            )
        return named

    def _require_name_agrees(self) -> None:
        """Raise `BitWidthError` where a name states a bit-width that no layer has."""
        held = {layer.bits for layer in self.layers} - {None}
        try:
            named = bits_from_name(self.path) if self.path else None
        except BitWidthError:
            return  # it states several, and none is needed
        if named and held and named.value not in held:
            raise BitWidthError(
                "The checkpoint's name states another bit-width than the network's layers.",
                where=str(self.path),
                expected=f"{', '.join(sorted(map(str, held)))} bits, which the layers state",
                got=f"{named.value} bits from the {named.source}",
                fix="build the network with the bit-width that it was trained with "
                "(--model-kwarg), or confirm that of its layers: --bits N",
            )

    def _grid(self) -> Stated[str | None]:
        widths = {self.weight_bits(layer.name, layer.bits).value for layer in self.layers}
        has_grids = any(self.family.has_grids(bits) for bits in widths)
        grid: Stated[str | None] = Stated(None, _DEFAULT)
        if self.choices.grid is not None:
            grid = Stated(self.choices.grid, _OPTION)
        elif self.family.exponents and any(f.weight_levels is not None for f in self.layers):
            return Stated(None, _NETWORK)
        elif has_grids and self.path is not None:
            grid = grid_from_name(self.path) or grid
        if grid.value not in (None, *GRIDS) or (grid.value == "nonzero" and not has_grids):
            raise CodebookError(
                "The network cannot have this grid.",
                where=self._where(),
                expected="zero; or nonzero, for 2-bit weights of a family that offers it",
                got=f"{grid.value}, {self.bits.value} bits, family {self.family.name}",
                fix="leave out --grid",
            )
        if grid.value != "nonzero" and self.choices.z is not None:
            raise BitWidthError(
                "A grid with zero has no exponent Z.",
                where=self._where(),
                got=f"--z {self.choices.z}",
                fix="add --grid nonzero, or leave out --z",
            )
        return grid

    def _where(self, layer: str | None = None) -> str | None:
        return str(self.path) if self.path else layer

    def weight_bits(self, name: str, held: int | None) -> Stated[int]:
        """Return a layer's bits of weights; `held` are those that its object states.

        Raises:
            BitWidthError: The object contradicts the user.
        """
        exception = self.exceptions.get(name)
        bits: Stated[int | None] = self.bits
        if exception is not None:
            bits = Stated(exception.weight_bits, f"bit-width of {name}")
        if held is None:
            if bits.value is None:
                raise TypeError(f"{name}: no bit-width")
            return Stated(bits.value, bits.source)
        if bits.value not in (None, held):
            raise BitWidthError(
                "A layer of the network has another bit-width than was stated.",
                where=name,
                expected=f"{held} bits, which the layer's object states",
                got=f"{bits.value} bits from the {bits.source}",
                fix="leave out --bits, or build the network with the bit-width that it was trained "
                "with (--model-kwarg)",
            )
        return Stated(held, _NETWORK)

    def quantization(self, layer: LayerFacts) -> Quantization:
        """Return the first of the family's quantizations that fits all statements."""
        activation_bits = weight_bits = self.weight_bits(layer.name, layer.bits)
        if layer.name in self.exceptions:
            exception = self.exceptions[layer.name]
            activation_bits = Stated(exception.activation_bits, weight_bits.source)
        elif self.choices.activation_bits is not None:
            activation_bits = Stated(self.choices.activation_bits, _OPTION)
        base = Quantization(
            family=self.family.name,
            weight_bits=weight_bits.value,
            activation_bits=activation_bits.value,
            legacy_divisor=self.choices.legacy_divisor,
            normalize_weights=self.choices.normalize_weights,
            unsigned_zeros=self.choices.unsigned_zeros,
        )
        fitting = self._fitting(layer, base)
        wanted = [each for each in fitting if self._is_wanted(each)]
        if not wanted:
            raise self._contradiction(layer, base, fitting)
        chosen = wanted[0]
        if chosen.grid == "nonzero" and self.choices.z is None and layer.weight_levels is None:
            raise BitWidthError(
                "The exponent Z of the non-zero grid is not known.",
                where=self._where(layer.name),
                fix="say the one that the network was trained with: --z N",
            )
        self._require_offered(weight_bits, chosen, "--bits N")
        self._require_offered(activation_bits, chosen, "--activation-bits N")
        return chosen

    def _fitting(self, layer: LayerFacts, base: Quantization) -> list[Quantization]:
        """Return the family's quantizations that a layer's object allows, in the family's order."""
        grids = [("zero", base.z)]
        has_grids = self.family.has_grids(base.weight_bits)
        if has_grids and layer.weight_levels is not None:
            grids += [("nonzero", z) for z in self.family.exponents]
        elif has_grids:
            grids += [("nonzero", base.z if self.choices.z is None else self.choices.z)]
        # Other codes hold a level set of 2-bit weights, but round them.
        compared = layer.weight_levels if has_grids or base.weight_bits > TERNARY_BITS else None
        candidates = (
            dataclasses.replace(base, method=method, grid=grid, z=z)
            for method, (grid, z) in itertools.product(self.family.methods, grids)
            if layer.power in (None, method != "uniform")
        )
        return [
            candidate
            for candidate in candidates
            if candidate.method == "uniform"
            or (
                _is_set(compared, candidate, weight_level_set)
                and _is_set(layer.activation_levels, candidate, activation_level_set)
            )
        ]

    def _is_wanted(self, candidate: Quantization) -> bool:
        """Tell whether a quantization fits what is stated about the network as a whole."""
        if self.method.value not in (None, candidate.method):
            return False
        if not self.family.has_grids(candidate.weight_bits):
            return True
        grid, z = candidate.grid, self.choices.z
        return self.grid.value in (None, grid) and (
            z is None or (grid, candidate.z) == ("nonzero", z)
        )

    def _contradiction(
        self, layer: LayerFacts, base: Quantization, fitting: Sequence[Quantization]
    ) -> CodebookError:
        stated = f"level set {self.method.value or 'any'}, grid {self.grid.value or 'any'}"
        if self.choices.z is not None:
            stated += f", Z {self.choices.z}"
        held = sorted({f"{each.method} ({each.grid})" for each in fitting})
        return CodebookError(
            "A layer's level set contradicts what was stated, or its family does not have it.",
            where=layer.name,
            expected=" or ".join(held) or f"one of {base.weight_bits}-bit {base.family}",
            got=stated if held else "another level set in the layer's own tensors",
            fix="leave out --method, --grid and --z, or name the factory that it was trained with",
        )

    def _require_offered(self, bits: Stated[int], chosen: Quantization, option: str) -> None:
        offered = self.family.bit_widths(chosen.method)
        if bits.value not in offered:
            has = "it has thresholds" if self.family.has_thresholds else "no clipping thresholds"
            raise BitWidthError(
                f"The {bits.source} says {bits.value} bits, which does not fit the checkpoint.",
                where=self._where(),
                expected=f"{', '.join(map(str, offered))} bits (family {self.family.name}, level "
                f"set {chosen.method}: {has})",
                got=f"{bits.value} bits from the {bits.source}",
                fix=f"say the bit-width that the network was trained with: {option}",
            )


def _is_set(
    held: torch.Tensor | None,
    candidate: Quantization,
    make: Callable[[Quantization], torch.Tensor | None],
) -> bool:
    """Tell whether an object's level set, if it holds one, is that of a quantization."""
    if held is None:
        return True
    try:
        wanted = make(candidate)
    except BitWidthError:
        return False
    if wanted is None:
        return True
    first, second = (torch.tensor(sorted(set(levels.tolist()))) for levels in (held, wanted))
    return first.shape == second.shape and bool((first - second).abs().max() <= _SAME)
