"""Networks of the published architectures, rebuilt from their checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from apot_export.errors import BitWidthError, CodebookError, RecognitionError
from apot_export.original import architectures, families
from apot_export.original.checkpoint import Checkpoint, load_checkpoint, require_finite
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.multi_bit import _require_bases_of, multi_bit_layers, shorten_coordinates
from apot_export.original.naming import (
    BitWidth,
    bits_from_name,
    grid_from_name,
    method_from_name,
    require_method,
    require_offered,
)
from apot_export.original.original import _ACTIVATION_ALPHA, _WEIGHT_ALPHA, Original
from apot_export.original.quantization import FULL_PRECISION_BITS, GRIDS, LayerPlan, Quantization


def load_original(path: Path, choices: Choices) -> Original:
    """Load a checkpoint and rebuild its network.

    Raises:
        CheckpointError: The file cannot be loaded safely or is not of a known network.
        BitWidthError: The bit-width is not given, or contradicts the file.
        CodebookError: The level set or grid is none that the family has.
    """
    return rebuild(load_checkpoint(path), choices)


def rebuild(checkpoint: Checkpoint, choices: Choices) -> Original:
    """Rebuild the network of a loaded checkpoint, whose tensors the module shares.

    Raises:
        CheckpointError: It is not of a known network.
        BitWidthError: The bit-width is not given, or contradicts the file.
        CodebookError: The level set or grid is none that the family has.
    """
    path = checkpoint.path
    family = families.recognise(checkpoint.keys)
    state = canonical_state(checkpoint, family)
    architecture = architectures.recognise({key: tuple(t.shape) for key, t in state.items()})
    method, method_from = _method(path, choices.method, family)
    width = _bit_width(path, family, choices.bits, method)
    activation_bits = width.bits
    if choices.activation_bits is not None:
        given = BitWidth(bits=choices.activation_bits, source="option")
        require_offered(given, family.name, family.bit_widths(method), path, "--activation-bits N")
        activation_bits = given.bits
    grid, z, grid_from = _grid(path, choices, family, width.bits)
    _require_applicable(choices, family, method, path)
    plan = LayerPlan(
        default=Quantization(
            family=family.name,
            weight_bits=width.bits,
            activation_bits=activation_bits,
            method=method,
            grid=grid,
            z=z,
            legacy_divisor=choices.legacy_divisor,
            normalize_weights=choices.normalize_weights,
            unsigned_zeros=choices.unsigned_zeros,
        ),
        exceptions=choices.layer_bits,
    )
    require_finite(checkpoint.state)
    quantized = plan.for_layers(quantized_layers(state))
    for name, quantization in quantized.items():
        for bits in (quantization.weight_bits, quantization.activation_bits):
            layer_width = BitWidth(bits=bits, source=f"bit-width of {name}")
            require_offered(
                layer_width, family.name, family.bit_widths(method), path, "--layer-bits"
            )
    eight_bit = [architecture.first, architecture.last] if family.has_eight_bit_layers else []
    module = architectures.build(architecture, state, quantized, eight_bit, family.name)
    multi_bit = multi_bit_layers(checkpoint, state)
    for name, weights in multi_bit.items():
        _require_bases_of(name, weights, state[f"{name}.weight"], path)
    if choices.alpha_terms:
        shorten_coordinates(module, multi_bit, choices.alpha_terms)
    return Original(
        checkpoint=checkpoint,
        family=family,
        architecture=architecture,
        plan=plan,
        bits_from=width.source,
        method_from=method_from,
        grid_from=grid_from,
        module=module,
        multi_bit=multi_bit,
        alpha_terms=choices.alpha_terms,
    )


def _require_applicable(choices: Choices, family: Family, method: str, path: Path) -> None:
    """Raise `BitWidthError` for a choice that says nothing of such a network."""
    levels = family.bit_widths(method) not in ((), (FULL_PRECISION_BITS,))
    uniform = levels and method == "uniform"
    wrong = [
        (option, wanted)
        for option, given, holds, wanted in (
            ("--legacy-divisor", choices.legacy_divisor, uniform, "uniform levels"),
            (
                "--no-weight-normalization",
                not choices.normalize_weights,
                levels,
                "weights with clipping thresholds",
            ),
            ("--layer-bits", bool(choices.layer_bits), levels, "layers with clipping thresholds"),
            (
                "--unsigned-zeros",
                choices.unsigned_zeros,
                levels,
                "weights with clipping thresholds",
            ),
            (
                "--alpha-terms",
                bool(choices.alpha_terms),
                family.name == "alq",
                "multi-bit weights",
            ),
        )
        if given and not holds
    ]
    for option, wanted in wrong:
        raise BitWidthError(
            "An option does not apply to the network.",
            where=str(path),
            expected=wanted,
            got=f"{option}; family {family.name}, {method} levels" if levels else option,
            fix=f"leave out {option}",
        )


def quantized_layers(state: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the layers that have a threshold, in file order."""
    suffixes = (_WEIGHT_ALPHA, _ACTIVATION_ALPHA)
    return list(dict.fromkeys(key.rpartition(".")[0] for key in state if key.endswith(suffixes)))


def canonical_state(checkpoint: Checkpoint, family: Family) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors under the names that `quantized_layers` uses.

    Raises:
        RecognitionError: Two tensors claim one name.
    """
    origins: dict[str, str] = {}
    for key in checkpoint.state:
        name = family.canonical_key(key)
        if name is None:
            continue
        first = origins.setdefault(name, key)
        if first != key:
            raise RecognitionError(
                "Two tensors of the checkpoint mean the same threshold.", where=f"{first}, {key}"
            )
    return {name: checkpoint.state[key] for name, key in origins.items()}


def _bit_width(path: Path, family: Family, option: int | None, method: str) -> BitWidth:
    offered = family.bit_widths(method)
    if option is not None:
        width: BitWidth | None = BitWidth(bits=option, source="option")
    else:
        width = bits_from_name(path)
    if width is None and FULL_PRECISION_BITS in offered:
        return BitWidth(bits=FULL_PRECISION_BITS, source="checkpoint")
    if width is None:
        raise BitWidthError(
            "The bit-width is not known: a checkpoint does not hold it, nor does its name.",
            where=str(path),
            expected="a name such as res20_4bit/model_best.pth.tar or res18_4bit.pth.tar",
            fix="say it: --bits N",
        )
    require_offered(width, family.name, offered, path)
    return width


def _method(path: Path, option: str | None, family: Family) -> tuple[str, str]:
    if option is not None:
        require_method(option)
    method, source = (option, "option") if option is not None else method_from_name(path)
    if method not in family.methods:
        raise CodebookError(
            f"The family {family.name} has no such level set.",
            where=str(path),
            expected=" or ".join(family.methods),
            got=f"{method} from the {source}",
            fix="name the level set that the network was trained with: --method NAME",
        )
    return method, source


def _grid(path: Path, choices: Choices, family: Family, bits: int) -> tuple[str, int, str]:
    """Return the grid of 2-bit weights, its Z, and where they were learned."""
    has_grids = family.name == "nonzero" and bits == 2  # noqa: PLR2004 - 2-bit weights alone have it
    named = grid_from_name(path) if has_grids else None
    grid = choices.grid or named or "zero"
    source = "option" if choices.grid else ("folder name" if named else "default")
    if grid not in GRIDS or (grid == "nonzero" and not has_grids):
        raise CodebookError(
            "The network cannot have this grid.",
            where=str(path),
            expected="zero or nonzero; nonzero only for 2-bit weights of the family nonzero",
            got=f"{grid}, {bits} bits, family {family.name}",
            fix="leave out --grid",
        )
    if grid == "nonzero" and choices.z is None:
        raise BitWidthError(
            "The exponent Z of the non-zero grid is not known: a checkpoint does not hold it.",
            where=str(path),
            expected="the Z that the network was trained with",
            fix="say it: --z N",
        )
    if grid == "zero" and choices.z is not None:
        raise BitWidthError(
            "A grid with zero has no exponent Z.",
            where=str(path),
            got=f"--z {choices.z}",
            fix="add --grid nonzero, or leave out --z",
        )
    return grid, 2 if choices.z is None else choices.z, source
