"""Resolve bit-widths, level sets and grid of every layer, and record what stated each of them.

The user's options come first, then the attributes of the layers' objects (custom networks only),
then the names of the checkpoint's file and folder. Statements that contradict each other are
refused.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apot_export.errors import BitWidthError, CodebookError
from apot_export.original import naming
from apot_export.original.architectures import Architecture
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.original import LayerPlan
from apot_export.original.quantization import (
    ASSUMPTION,
    CHECKPOINT,
    FAMILY,
    FLOAT,
    FULL_PRECISION_BITS,
    GRIDS,
    LAYER_BITS,
    NETWORK,
    OPTION,
    LayerBits,
    Quantization,
    Stated,
)
from apot_export.original.statements import (
    LayerFacts,
    fitting_quantizations,
    layer_exceptions,
    require_applicable,
)


def resolve(
    family: Family,
    layers: Sequence[LayerFacts],
    choices: Choices,
    path: Path | None,
    *,
    architecture: Architecture | None = None,
    ours: Mapping[str, Quantization] | None = None,
) -> LayerPlan:
    """Decide how every layer quantizes.

    Args:
        family: Of the checkpoint or network.
        layers: Layers with clipping thresholds.
        choices: The user's options.
        path: The checkpoint, whose names state what nothing else does; None if there is none.
        architecture: A published one; None for a custom network.
        ours: Quantization of layers that are `QuantConv2d` already.

    Raises:
        BitWidthError: A bit-width is not known, contradicted, or not offered by the family; or an
            option does not apply to it.
        CodebookError: A level set or grid is contradicted, or not offered by the family.
    """
    resolver = _Resolver(family, layers, ours or {}, choices, path, architecture)
    found = {
        layer.name: resolver.quantization(layer)
        for layer in layers
        if layer.name not in resolver.floats
    }
    for layer in (layer for layer in layers if layer.name in resolver.floats):
        resolver.weight_bits(layer.name, layer.bits)  # refuses what its object contradicts
    for name, own in resolver.ours.items():
        resolver.weight_bits(name, own.weight_bits)
        found[name] = own
    usual = [found[name] for name in found if name not in resolver.exceptions]
    usual = usual or [*found.values()] or [resolver.of_no_layer()]
    ((default, _),) = Counter(usual).most_common(1)
    bits, method, activation = resolver.bits, resolver.method, resolver.activation_method
    sign = OPTION if choices.activation_sign else FAMILY
    return LayerPlan(
        default=default,
        layers=found,
        bits=Stated(default.weight_bits, bits.source),
        activation_bits=Stated(default.activation_bits, resolver.activation_bits.source),
        method=Stated(default.method, method.source),
        activation_method=Stated(default.activation_method, activation.source),
        activation_sign=Stated(default.activation_sign, sign),
        grid=Stated(default.grid, resolver.grid.source),
        first_last=resolver.first_last,
        floats=resolver.floats,
        choices=dataclasses.replace(
            choices,
            bits=bits.value,
            activation_bits=resolver.activation_bits.value,
            method=method.value,
            activation_method=activation.value or method.value,
            grid=resolver.grid.value,
        ),
    )


@dataclass
class _Resolver:
    """What is stated about a network as a whole, and from it the quantization of each layer."""

    family: Family
    layers: Sequence[LayerFacts]
    ours: Mapping[str, Quantization]
    choices: Choices
    path: Path | None
    architecture: Architecture | None
    exceptions: Mapping[str, LayerBits] = field(init=False)
    """Bit-widths that the user gave to layers by name."""
    floats: frozenset[str] = field(init=False)
    """Layers that the user leaves in float."""
    bits: Stated[int | None] = field(init=False)
    """Bits of layers that state none; None where all layers state theirs."""
    activation_bits: Stated[int | None] = field(init=False)
    """Bits of activations; None for those of weights."""
    method: Stated[str | None] = field(init=False)
    """Level set of weights; None for the first that fits what a layer states."""
    activation_method: Stated[str | None] = field(init=False)
    """Level set of activations; None for the one that the family has beside that of weights."""
    grid: Stated[str | None] = field(init=False)
    """Grid of 2-bit weights; None for the first that fits what a layer states."""
    first_last: Stated[str] = field(init=False)

    def __post_init__(self) -> None:
        self.method = self._method()
        self.activation_method = self._activation_method()
        activation = self.activation_method
        require_applicable(
            self.family,
            self.choices,
            self._where(),
            uniform=activation.value == "uniform" or activation == Stated(None, NETWORK),
        )
        self.first_last = self._first_last()
        names = [*(layer.name for layer in self.layers), *self.ours]
        ends = [self.architecture.first, self.architecture.last] if self.architecture else []
        self.exceptions = layer_exceptions(self.choices, names, ends)
        self.floats = frozenset(n for n, bits in self.exceptions.items() if bits.is_float)
        self.bits = self._bits()
        self.activation_bits = self._activation_bits()
        self.grid = self._grid()

    def _method(self) -> Stated[str | None]:
        one = len(self.family.methods) == 1
        method: Stated[str | None] = Stated(None, FAMILY if one else ASSUMPTION)
        if self.choices.method is not None:
            method = Stated(self.choices.method, OPTION)
        elif (self.layers or self.ours) and all(
            layer.power is not None or layer.activation_levels is not None for layer in self.layers
        ):
            method = Stated(None, NETWORK)
        elif self.path is not None and self.family.has_thresholds:
            method = naming.method_from_name(self.path) or method
        if method.value not in (None, *self.family.methods):
            raise CodebookError(
                f"The family {self.family.name} has no such level set.",
                where=self._where(),
                expected=" or ".join(self.family.methods),
                got=f"{method.value!r} from the {method.source}",
                fix="name the level set that the network was trained with: --method NAME",
            )
        return method

    def _activation_method(self) -> Stated[str | None]:
        stated, offered = self.choices.activation_method, self.family.activation_methods
        if stated is None and self.method.value is None and self.method.source == NETWORK:
            return Stated(None, NETWORK)
        if stated is None:
            usual = self.family.activation_method(self.method.value or self.family.methods[0])
            return Stated(None if self.method.value is None else usual.value, usual.source)
        if stated not in offered:
            raise CodebookError(
                f"The family {self.family.name} has no such level set of activations.",
                where=self._where(),
                expected=" or ".join(offered),
                got=f"--activation-method {stated}",
                fix="leave it out, or name the level set that the network was trained with",
            )
        return Stated(stated, OPTION)

    def _first_last(self) -> Stated[str]:
        stated = self.choices.first_last
        if stated is not None:
            return Stated(stated, OPTION)
        if self.architecture is None:  # a custom network, whose layers tell
            return Stated(FLOAT, NETWORK)
        return self.family.first_last(self.architecture.tree)

    def _bits(self) -> Stated[int | None]:
        if self.choices.bits is not None:
            return Stated(self.choices.bits, OPTION)
        silent = [layer.name for layer in self.layers if layer.bits is None]
        silent = [name for name in silent if name not in self.exceptions]
        if (self.layers or self.ours) and not silent:
            self._require_name_agrees()
            return Stated(None, NETWORK if self._network_states_bits else OPTION)
        named = naming.bits_from_name(self.path) if self.path else None
        if named is None and not self.family.has_thresholds:
            return Stated(FULL_PRECISION_BITS, CHECKPOINT)
        if named is None:
            raise BitWidthError(
                "The bit-width is not known: no name states it.",
                where=self._where(silent[0]),
                expected="a name such as res20_4bit/model_best.pth.tar or res18_4bit.pth.tar",
                fix="say it: --bits N; apot-export inspect identify ranks what it may be",
            )
        return named

    @property
    def _network_states_bits(self) -> bool:
        return bool(self.ours) or any(layer.bits is not None for layer in self.layers)

    def _activation_bits(self) -> Stated[int | None]:
        if self.choices.activation_bits is not None:
            return Stated(self.choices.activation_bits, OPTION)
        if self.choices.bits is None and self._network_states_bits:
            return Stated(None, NETWORK)
        if self.choices.bits is None and self.bits.value is not None and self.path is not None:
            return naming.activation_bits_from_name(self.path) or Stated(None, ASSUMPTION)
        return Stated(None, ASSUMPTION)

    def _require_name_agrees(self) -> None:
        """Raise `BitWidthError` where a name states a bit-width that no layer has."""
        held = {layer.bits for layer in self.layers} - {None}
        try:
            named = naming.bits_from_name(self.path) if self.path else None
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
        grid: Stated[str | None] = Stated(None, ASSUMPTION)
        if self.choices.grid is not None:
            grid = Stated(self.choices.grid, OPTION)
        elif self.family.exponents and any(f.weight_levels is not None for f in self.layers):
            return Stated(None, NETWORK)
        elif has_grids and self.path is not None:
            grid = naming.grid_from_name(self.path) or grid
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
            bits = Stated(exception.weight_bits, f"{LAYER_BITS}{name}")
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
        return Stated(held, NETWORK)

    def of_no_layer(self) -> Quantization:
        """Return the quantization of a network in which all layers are floats."""
        if self.bits.value is not None:
            return self.quantization(LayerFacts(name=self.family.name))
        bits = FULL_PRECISION_BITS
        return Quantization(family=self.family.name, weight_bits=bits, activation_bits=bits)

    def quantization(self, layer: LayerFacts) -> Quantization:
        """Return the first of the family's quantizations that fits all statements."""
        activation_bits = weight_bits = self.weight_bits(layer.name, layer.bits)
        if exception := self.exceptions.get(layer.name):
            activation_bits = Stated(exception.activation_bits, weight_bits.source)
        elif self.activation_bits.value is not None:
            activation_bits = Stated(self.activation_bits.value, self.activation_bits.source)
        elif layer.activation_bits is not None:
            activation_bits = Stated(layer.activation_bits, NETWORK)
        base = Quantization(
            family=self.family.name,
            weight_bits=weight_bits.value,
            activation_bits=activation_bits.value,
            activation_sign=self.choices.activation_sign or "",
            legacy_divisor=self.choices.legacy_divisor,
            normalize_weights=self.choices.normalize_weights,
            unsigned_zeros=self.choices.unsigned_zeros,
        )
        exponents = [base.z if self.choices.z is None else self.choices.z]
        if layer.weight_levels is not None:
            exponents = [*self.family.exponents]
        fitting = fitting_quantizations(self.family, layer, base, exponents)
        wanted = [each for each in fitting if self._is_wanted(each)]
        if not wanted:
            raise self._contradiction(layer, base, fitting)
        chosen = wanted[0]
        if activation_bits.source == NETWORK:  # its layers tell the level sets, too
            chosen = next((each for each in wanted if self.family.offers(each)), chosen)
        if chosen.grid == "nonzero" and self.choices.z is None and layer.weight_levels is None:
            raise BitWidthError(
                "The exponent Z of the non-zero grid is not known.",
                where=self._where(layer.name),
                fix="say the one that the network was trained with: --z N",
            )
        offered = self.family.bit_widths(chosen.method)
        self._require_offered(weight_bits, chosen.method, offered, "--bits N")
        method = chosen.activation_method
        offered = self.family.activation_bit_widths(method)
        self._require_offered(activation_bits, method, offered, "--activation-bits N")
        return chosen

    def _is_wanted(self, candidate: Quantization) -> bool:
        """Tell whether a quantization fits what is stated about the network as a whole."""
        if self.method.value not in (None, candidate.method):
            return False
        usual = self.family.activation_method(candidate.method).value
        if candidate.activation_method != (self.activation_method.value or usual):
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

    def _require_offered(
        self, bits: Stated[int], method: str, offered: Sequence[int], option: str
    ) -> None:
        if bits.value not in offered:
            has = "it has thresholds" if self.family.has_thresholds else "no clipping thresholds"
            source = option.removesuffix(" N") if bits.source == OPTION else f"the {bits.source}"
            if bits.source.startswith(LAYER_BITS):
                option = f"--layer-bits '{bits.source.removeprefix(LAYER_BITS)}=N'"
            raise BitWidthError(
                f"The checkpoint cannot have the {bits.value} bits that {source} states.",
                where=self._where(),
                expected=f"{', '.join(map(str, offered))} bits (family {self.family.name}, level "
                f"set {method}: {has})",
                got=f"{bits.value} bits from {source}",
                fix=f"say which of these the network was trained with: {option}",
            )
