"""The trained network itself: a checkpoint rebuilt as the PyTorch module that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from apot_export import architectures, dialects
from apot_export.architectures import Architecture
from apot_export.checkpoint import Checkpoint, load_checkpoint, require_finite
from apot_export.dialects import Dialect
from apot_export.errors import BitWidthError, RecognitionError
from apot_export.quantization import (
    FULL_PRECISION_BITS,
    BitWidth,
    Quantization,
    bits_from_name,
    method_from_name,
    require_method,
    require_offered,
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
    state = canonical_state(checkpoint, dialect)
    architecture = architectures.recognise({key: tuple(t.shape) for key, t in state.items()})
    width = _bit_width(path, dialect, bits)
    level_set, method_from = _method(path, method)
    quantization = Quantization(
        family=dialect.name,
        weight_bits=width.bits,
        activation_bits=width.bits,
        method=level_set,
    )
    require_finite(checkpoint.state)
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


def canonical_state(checkpoint: Checkpoint, dialect: Dialect) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors under the names that `torch_layers` uses.

    Raises:
        RecognitionError: Two tensors claim one name.
    """
    origins: dict[str, str] = {}
    for key in checkpoint.state:
        first = origins.setdefault(dialect.canonical_key(key), key)
        if first != key:
            raise RecognitionError(
                "Two tensors of the checkpoint mean the same threshold.", where=f"{first}, {key}"
            )
    return {name: checkpoint.state[key] for name, key in origins.items()}


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
    require_offered(width, dialect.name, dialect.bit_widths, path)
    return width


def _method(path: Path, option: str | None) -> tuple[str, str]:
    if option is not None:
        require_method(option)
        return option, "option"
    return method_from_name(path)
