"""The trained network itself: a checkpoint rebuilt as the PyTorch module that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from apot_export.errors import BitWidthError, CodebookError, RecognitionError
from apot_export.network.layers import MultiBitWeights
from apot_export.original import architectures, families
from apot_export.original.architectures import Architecture
from apot_export.original.checkpoint import Checkpoint, load_checkpoint, require_finite
from apot_export.original.families import Dialect
from apot_export.original.naming import (
    BitWidth,
    bits_from_name,
    grid_from_name,
    method_from_name,
    require_method,
    require_offered,
)
from apot_export.original.quantization import (
    FULL_PRECISION_BITS,
    GRIDS,
    Choices,
    Plan,
    Quantization,
)

_ACTIVATION_ALPHA = ".act_alpha"
_WEIGHT_ALPHA = ".weight_alpha"


@dataclass(frozen=True, kw_only=True, eq=False)
class Original:
    """A checkpoint, what it was recognised as, and its module in evaluation mode on the CPU."""

    checkpoint: Checkpoint | None
    """None for a network that was given as a module."""
    dialect: Dialect
    architecture: Architecture
    plan: Plan
    bits_from: str
    """Where the bit-width was learned: "option", "file name", "folder name", "network" or
    "checkpoint"."""
    method_from: str
    """Where the level set was learned: "option", "file name", "folder name", "network" or
    "default"."""
    grid_from: str
    """Where the grid was learned: "option", "folder name", "network" or "default"."""
    module: nn.Module
    multi_bit: Mapping[str, MultiBitWeights]
    """Weights as scaled sign vectors, by layer."""
    state_sha256: str | None = None
    """Digest of the state dict of a network of the user's own."""
    alpha_terms: int = 0
    """Powers of two that coordinates of multi-bit weights were rounded to sums of; 0: none."""
    own_choices: Choices | None = None
    """Choices that need no name to rebuild a network of the user's own."""

    @property
    def quantization(self) -> Quantization:
        """The quantization of layers without a bit-width of their own."""
        return self.plan.default


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
    dialect = families.recognise(checkpoint.keys)
    state = canonical_state(checkpoint, dialect)
    architecture = architectures.recognise({key: tuple(t.shape) for key, t in state.items()})
    method, method_from = _method(path, choices.method, dialect)
    width = _bit_width(path, dialect, choices.bits, method)
    activation_bits = width.bits
    if choices.activation_bits is not None:
        given = BitWidth(bits=choices.activation_bits, source="option")
        require_offered(
            given, dialect.name, dialect.bit_widths(method), path, "--activation-bits N"
        )
        activation_bits = given.bits
    grid, z, grid_from = _grid(path, choices, dialect, width.bits)
    _require_applicable(choices, dialect, method, path)
    plan = Plan(
        default=Quantization(
            family=dialect.name,
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
                layer_width, dialect.name, dialect.bit_widths(method), path, "--layer-bits"
            )
    eight_bit = [architecture.first, architecture.last] if dialect.has_eight_bit_layers else []
    module = architectures.build(architecture, state, quantized, eight_bit, dialect.name)
    multi_bit = multi_bit_layers(checkpoint, state)
    for name, weights in multi_bit.items():
        _require_bases_of(name, weights, state[f"{name}.weight"], path)
    if choices.alpha_terms:
        shorten_coordinates(module, multi_bit, choices.alpha_terms)
    return Original(
        checkpoint=checkpoint,
        dialect=dialect,
        architecture=architecture,
        plan=plan,
        bits_from=width.source,
        method_from=method_from,
        grid_from=grid_from,
        module=module,
        multi_bit=multi_bit,
        alpha_terms=choices.alpha_terms,
    )


def _require_applicable(choices: Choices, dialect: Dialect, method: str, path: Path) -> None:
    """Raise `BitWidthError` for a choice that says nothing of such a network."""
    levels = dialect.bit_widths(method) not in ((), (FULL_PRECISION_BITS,))
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
                dialect.name == "alq",
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
            got=f"{option}; family {dialect.name}, {method} levels" if levels else option,
            fix=f"leave out {option}",
        )


def _require_bases_of(
    name: str, weights: MultiBitWeights, expected: torch.Tensor, path: Path
) -> None:
    """Raise `RecognitionError` unless sign vectors add up to the state dict's weights."""
    coordinates = torch.from_numpy(weights.coordinates * weights.mask).unsqueeze(-1)
    groups = (torch.from_numpy(weights.bases).float() * coordinates).sum(dim=2)
    magnitudes = coordinates.abs().sum(dim=2).expand_as(groups)
    if weights.position_major:
        groups, magnitudes = groups.transpose(1, 2), magnitudes.transpose(1, 2)
    if groups.numel() != expected.numel():
        return  # encoding says so with both shapes
    slots = weights.mask.shape[2]
    differs = (groups.reshape(expected.shape) - expected).abs() > (
        slots * 2.0**-23 * magnitudes.reshape(expected.shape)
    )
    if differs.any():
        raise RecognitionError(
            "The bases of a layer contradict its weights.",
            where=f"{path}: {name}",
            expected="sign vectors that add up to the layer's weights",
            got=f"{int(differs.sum())} of {expected.numel()} weights differ",
            fix="convert a checkpoint whose bases and state dict were saved together",
        )


def shorten_coordinates(
    module: nn.Module, multi_bit: Mapping[str, MultiBitWeights], terms: int
) -> None:
    """Give a module the weights whose coordinates are sums of the nearest powers of two."""
    for name, weights in multi_bit.items():
        rest = torch.from_numpy(weights.coordinates).double()
        rounded = torch.zeros_like(rest)
        for _ in range(terms):
            mantissa, exponent = torch.frexp(rest.abs())
            power = torch.ldexp(torch.ones_like(rest), exponent - (mantissa < 0.75).int())  # noqa: PLR2004 - between a power of two and the next
            power = torch.where(rest.abs() > 0, power * rest.sign(), 0.0)
            rounded, rest = rounded + power, rest - power
        used = rounded.float() * torch.from_numpy(weights.mask).float()
        groups = (torch.from_numpy(weights.bases).float() * used.unsqueeze(-1)).sum(dim=2)
        if weights.position_major:
            groups = groups.transpose(1, 2)
        layer = module.get_submodule(name)
        layer.weight = nn.Parameter(groups.reshape(layer.weight.shape), requires_grad=False)  # type: ignore[arg-type]


def multi_bit_layers(
    checkpoint: Checkpoint, state: dict[str, torch.Tensor]
) -> dict[str, MultiBitWeights]:
    """Match sign vectors with the layers that they belong to: the weights of two or more axes.

    Raises:
        RecognitionError: There are more or fewer of them than layers.
    """
    if not checkpoint.multi_bit:
        return {}
    names = [
        key.removesuffix(".weight")
        for key, value in state.items()
        if key.endswith(".weight") and value.ndim > 1
    ]
    if len(names) != len(checkpoint.multi_bit):
        raise RecognitionError(
            "The checkpoint's bases do not match its layers.",
            where=str(checkpoint.path),
            expected=f"{len(names)} layers: {', '.join(names[:4])}, ...",
            got=f"{len(checkpoint.multi_bit)} sets of bases",
        )
    return dict(zip(names, checkpoint.multi_bit, strict=True))


def quantized_layers(state: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the layers that have a threshold, in file order."""
    suffixes = (_WEIGHT_ALPHA, _ACTIVATION_ALPHA)
    return list(dict.fromkeys(key.rpartition(".")[0] for key in state if key.endswith(suffixes)))


def canonical_state(checkpoint: Checkpoint, dialect: Dialect) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors under the names that `quantized_layers` uses.

    Raises:
        RecognitionError: Two tensors claim one name.
    """
    origins: dict[str, str] = {}
    for key in checkpoint.state:
        name = dialect.canonical_key(key)
        if name is None:
            continue
        first = origins.setdefault(name, key)
        if first != key:
            raise RecognitionError(
                "Two tensors of the checkpoint mean the same threshold.", where=f"{first}, {key}"
            )
    return {name: checkpoint.state[key] for name, key in origins.items()}


def _bit_width(path: Path, dialect: Dialect, option: int | None, method: str) -> BitWidth:
    offered = dialect.bit_widths(method)
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
    require_offered(width, dialect.name, offered, path)
    return width


def _method(path: Path, option: str | None, dialect: Dialect) -> tuple[str, str]:
    if option is not None:
        require_method(option)
    method, source = (option, "option") if option is not None else method_from_name(path)
    if method not in dialect.methods:
        raise CodebookError(
            f"The family {dialect.name} has no such level set.",
            where=str(path),
            expected=" or ".join(dialect.methods),
            got=f"{method} from the {source}",
            fix="name the level set that the network was trained with: --method NAME",
        )
    return method, source


def _grid(path: Path, choices: Choices, dialect: Dialect, bits: int) -> tuple[str, int, str]:
    """Return the grid of 2-bit weights, its Z, and where they were learned."""
    has_grids = dialect.name == "nonzero" and bits == 2  # noqa: PLR2004 - 2-bit weights alone have it
    named = grid_from_name(path) if has_grids else None
    grid = choices.grid or named or "zero"
    source = "option" if choices.grid else ("folder name" if named else "default")
    if grid not in GRIDS or (grid == "nonzero" and not has_grids):
        raise CodebookError(
            "The network cannot have this grid.",
            where=str(path),
            expected="zero or nonzero; nonzero only for 2-bit weights of the family nonzero",
            got=f"{grid}, {bits} bits, family {dialect.name}",
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
