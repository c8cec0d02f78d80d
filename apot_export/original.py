"""The trained network itself: a checkpoint rebuilt as the PyTorch module that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from apot_export import architectures, dialects
from apot_export.architectures import Architecture
from apot_export.checkpoint import Checkpoint, load_checkpoint
from apot_export.dialects import Dialect
from apot_export.errors import BitWidthError
from apot_export.quantization import (
    FULL_PRECISION_BITS,
    BitWidth,
    Quantization,
    bits_from_name,
    method_from_name,
)
from apot_export.torch_layers import LayerFactory


@dataclass(frozen=True, kw_only=True, eq=False)
class Original:
    """A checkpoint, what it was recognised as, and its module in evaluation mode on the CPU."""

    checkpoint: Checkpoint
    dialect: Dialect
    architecture: Architecture
    quantization: Quantization
    bits_from: str
    """Where the bit-width was learned: "option", "file name", "folder name" or "checkpoint"."""
    method_from: str
    """Where the level set was learned: "option", "file name", "folder name" or "default"."""
    module: nn.Module


def load_original(path: Path, *, bits: int | None = None, method: str | None = None) -> Original:
    """Load a checkpoint and rebuild its network.

    Args:
        path: The checkpoint file.
        bits: Nominal bit-width of weights and activations; None to take it from the name.
        method: "apot" or "uniform"; None to take it from the name, else "apot".

    Raises:
        CheckpointError: The file cannot be loaded safely or is not of a known network.
        BitWidthError: The bit-width is not given, or contradicts the file.
    """
    checkpoint = load_checkpoint(path)
    dialect = dialects.recognise(checkpoint.state)
    state = {dialect.canonical_key(key): value for key, value in checkpoint.state.items()}
    architecture = architectures.recognise({key: tuple(t.shape) for key, t in state.items()})
    width = _bit_width(path, dialect, bits)
    level_set, method_from = _method(path, method)
    quantization = Quantization(
        family=dialect.name,
        weight_bits=width.bits,
        activation_bits=width.bits,
        method=level_set,
    )
    module = architectures.build(architecture, LayerFactory(quantization=quantization), state)
    return Original(
        checkpoint=checkpoint,
        dialect=dialect,
        architecture=architecture,
        quantization=quantization,
        bits_from=width.source,
        method_from=method_from,
        module=module,
    )


def _bit_width(path: Path, dialect: Dialect, option: int | None) -> BitWidth:
    if option is not None:
        width: BitWidth | None = BitWidth(bits=option, source="option")
    else:
        width = bits_from_name(path)
    if width is None and FULL_PRECISION_BITS in dialect.bit_widths:
        return BitWidth(bits=FULL_PRECISION_BITS, source="checkpoint")
    if width is None:
        raise BitWidthError(
            "The bit-width is not known: a checkpoint does not hold it, nor does its name.",
            where=str(path),
            expected="a name such as res20_4bit/model_best.pth.tar or res18_4bit.pth.tar",
            fix="say it: --bits N",
        )
    if width.bits not in dialect.bit_widths:
        offered = ", ".join(map(str, dialect.bit_widths))
        raise BitWidthError(
            f"The {width.source} says {width.bits} bits, which does not fit the checkpoint.",
            where=str(path),
            expected=f"{offered} bits (family {dialect.name}: "
            + ("no clipping thresholds)" if dialect.bit_widths == (32,) else "it has thresholds)"),
            got=f"{width.bits} bits from the {width.source}",
            fix="say the bit-width that the network was trained with: --bits N",
        )
    return width


def _method(path: Path, option: str | None) -> tuple[str, str]:
    if option is not None:
        return option, "option"
    return method_from_name(path)
