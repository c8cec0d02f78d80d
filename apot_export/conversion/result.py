"""What a conversion wrote, and what it took the checkpoint for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class ConversionResult:
    """What was written, and what the checkpoint was taken for."""

    path: Path
    """The export directory."""
    family: str
    architecture: str
    bits: float
    """Nominal bit-width; 32 for full precision, the average of multi-bit weights."""
    bits_from: str
    method: str
    """Level set: "apot" or "uniform"."""
    method_from: str
    grid: str
    """Grid of 2-bit weights: "zero" or "nonzero"."""
    grid_from: str
    z: int | None
    """Exponent of the non-zero grid; None for a grid with zero."""
    activation_bits: int
    layer_bits: int
    """Number of layers with bit-widths of their own."""
    files: dict[str, int]
    """Bytes of every file by name."""
    weights: int
    """Number of weights that are stored as codes."""
    code_bits: int
    """Bits that these codes take in the packed file, before each layer is filled to whole bytes."""
    weight_error: float
    """Root mean square of what --alpha-terms changed, relative to that of the weights."""
    checkpoint_bytes: int
    seconds: float
    target: str
    """Runtime that the ONNX model is lowered for."""
    integer: dict[str, Any] | None
    """What the manifest says of the integer network; None without one."""
    compressed: bool = False
    """Whether codes that get smaller by it are entropy-coded in the packed file."""

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return {
            "path": str(self.path),
            "family": self.family,
            "architecture": self.architecture,
            "bits": self.bits,
            "bits_from": self.bits_from,
            "method": self.method,
            "method_from": self.method_from,
            "grid": self.grid,
            "grid_from": self.grid_from,
            "z": self.z,
            "activation_bits": self.activation_bits,
            "layer_bits": self.layer_bits,
            "files": self.files,
            "weights": self.weights,
            "code_bits": self.code_bits,
            "weight_error": self.weight_error,
            "checkpoint_bytes": self.checkpoint_bytes,
            "seconds": self.seconds,
            "target": self.target,
            "integer": self.integer,
            "compressed": self.compressed,
        }
