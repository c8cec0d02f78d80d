"""Golden vectors of one layer: what it reads, its sums, and what is made of them, all exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.directory import SAMPLE
from apot_export.artifacts.sample import read_sample
from apot_export.devices.export import OpenExport, open_export
from apot_export.devices.writing import require_free, write_project
from apot_export.errors import DatasetError, ExportError
from apot_export.integer import IntegerNetwork, run_integer
from apot_export.integer.network import LARGEST_PIXEL, IntegerNode, Integers, Quantize, Requantize
from apot_export.network import Convolution, Linear

_SEED = 20260101
"""Of images where an export has none: the same ones always."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerVectors:
    """Numbers that a layer of the integer network reads and makes, image by image."""

    layer: str
    images: NDArray[Any]
    """What the network read, [N, channels, height, width]: float32, or uint8 pixels."""
    inputs: Integers
    """What the layer read: levels of activations, or fixed-point numbers; [N, inputs, ...]."""
    sums: Integers
    """Its sums of products, [N, outputs, ...]."""
    outputs: Mapping[str, Integers]
    """What requantizers and quantizers make of the sums, each [N, outputs, ...], by node."""

    def named(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by the names that files have."""
        made = {f"outputs.{node}": values for node, values in self.outputs.items()}
        return {"images": self.images, "inputs": self.inputs, "sums": self.sums, **made}


def weighted_node(network: IntegerNetwork, layer: str) -> IntegerNode:
    """Return the node that computes a layer's sums.

    Raises:
        ExportError: The network has no such layer.
    """
    for node in network.nodes:
        if isinstance(node.operation, (Convolution, Linear)) and node.operation.layer == layer:
            return node
    raise ExportError(
        "The network has no such layer.",
        where=layer,
        expected=", ".join(network.layers),
        fix="name one of these",
    )


def finishing_nodes(network: IntegerNetwork, name: str) -> list[IntegerNode]:
    """Return the requantizers and quantizers that read a value."""
    return [
        node
        for node in network.nodes
        if name in node.inputs and isinstance(node.operation, (Requantize, Quantize))
    ]


def layer_vectors(network: IntegerNetwork, layer: str, images: NDArray[Any]) -> LayerVectors:
    """Run the network on images, and keep what one layer reads and makes.

    Args:
        network: The integer network.
        layer: Name of a layer.
        images: What the network reads, [N, channels, height, width]: float32, or uint8 pixels.

    Raises:
        ExportError: The network has no such layer.
        DatasetError: The images are not those that the network reads.
    """
    node = weighted_node(network, layer)
    finishing = [reader.name for reader in finishing_nodes(network, node.name)]
    wanted = {node.inputs[0], node.name, *finishing}
    seen: dict[str, Integers] = {}

    def keep(name: str, values: Integers) -> None:
        if name in wanted:
            seen[name] = values

    run_integer(network, images, keep)
    return LayerVectors(
        layer=layer,
        images=images,
        inputs=seen[node.inputs[0]],
        sums=seen[node.name],
        outputs={name: seen[name] for name in finishing},
    )


def chosen_images(
    network: IntegerNetwork, count: int, data: Path | None = None, export: Path | None = None
) -> NDArray[Any]:
    """Return images for golden vectors: the same ones always.

    Args:
        network: What reads them.
        count: How many.
        data: A .npy file of what the network reads, [N, channels, height, width].
        export: Whose samples are taken where there is no such file, and noise behind them.

    Raises:
        DatasetError: The file cannot be read, or holds no such images.
        ExportError: The export's samples are damaged.
    """
    if data is not None:
        return _read_images(network, count, data)
    generator = np.random.default_rng(_SEED)
    shape = (count, *network.input_shape)
    images: NDArray[Any] = generator.standard_normal(shape, dtype=np.float32)
    if network.pixels is not None:
        images = generator.integers(0, LARGEST_PIXEL + 1, shape, dtype=np.uint8)
    if export is not None and (export / SAMPLE).is_file():
        inputs = read_sample(export / SAMPLE).inputs[:count]
        images[: len(inputs)] = network.pixels.of_images(inputs) if network.pixels else inputs
    return images


def _read_images(network: IntegerNetwork, count: int, path: Path) -> NDArray[Any]:
    dtype = np.dtype(np.float32 if network.pixels is None else np.uint8)
    try:
        images = np.load(path, allow_pickle=False)
        found = f"{images.dtype} {list(images.shape)}"
    except (OSError, ValueError) as error:
        raise DatasetError("The images cannot be read.", where=str(path), got=str(error)) from error
    if images.shape[1:] != network.input_shape or images.dtype != dtype or len(images) < count:
        raise DatasetError(
            "The file does not hold the images that are needed.",
            where=str(path),
            expected=f"{dtype} [{count} or more, {', '.join(map(str, network.input_shape))}]",
            got=found,
            fix="save them with numpy.save, preprocessed as the network reads them",
        )
    return np.asarray(images[:count])


# --- as text --------------------------------------------------------------------------------------


def bits_of(low: int, high: int, *, signed: bool | None = None) -> int:
    """Return the bits of the numbers from `low` to `high`; of two's complement if `signed`.

    They are signed by default where some are negative.

    >>> bits_of(0, 10), bits_of(-8, 7), bits_of(0, 7, signed=True)
    (4, 4, 4)
    """
    if signed is None:
        signed = low < 0
    return max(low ^ -(low < 0), high).bit_length() + signed or 1


def hexadecimal(words: Integers, bits: int) -> list[str]:
    """Return words as hexadecimal digits, each of several numbers, the first in the lowest bits.

    Args:
        words: The numbers, int64 [words, numbers of a word].
        bits: Of a number, in two's complement where it is negative; at most 64.

    >>> hexadecimal(np.array([[1, 2], [-1, 0]]), 4)
    ['21', '0f']
    """
    count, numbers = words.shape
    octets = np.ascontiguousarray(words, "<i8").view(np.uint8).reshape(count, numbers, 8)
    single = np.unpackbits(octets, axis=2, count=bits, bitorder="little").reshape(
        count, numbers * bits
    )
    packed = np.packbits(single, axis=1, bitorder="little")[:, ::-1]
    digits = math.ceil(numbers * bits / 4)
    return [row.tobytes().hex()[-digits:] for row in packed]


def hexadecimal_text(values: NDArray[Any]) -> str:
    """Return integers in C order as text for `$readmemh`, one a line."""
    flat = values.reshape(-1, 1).astype(np.int64)
    bits = bits_of(int(flat.min()), int(flat.max()))
    return "\n".join(hexadecimal(flat, bits)) + "\n"


def c_header(vectors: LayerVectors) -> str:
    """Return the integers as arrays of a C99 header, each of the smallest type that holds it."""
    guard = "APOT_VECTORS_" + identifier(vectors.layer).upper()
    lines = [
        f"/* Golden vectors of layer {vectors.layer}: arrays in C order, images first. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stdint.h>",
    ]
    for name, values in vectors.named().items():
        if name == "images" and values.dtype != np.uint8:
            continue
        bits = bits_of(int(values.min()), int(values.max()), signed=True)
        width = next(width for width in (8, 16, 32, 64) if bits <= width)
        kind = f"int{width}_t"
        if name == "images":
            kind = "uint8_t"
        extents = "".join(f"[{extent}]" for extent in values.shape)
        lines += [
            "",
            f"/* {extents} */",
            f"static const {kind} {identifier(name)}[{values.size}] = {{",
        ]
        flat = values.reshape(-1).tolist()
        lines += [
            "    " + ", ".join(map(str, flat[i : i + 16])) + "," for i in range(0, len(flat), 16)
        ]
        lines += ["};"]
    return "\n".join([*lines, "", "#endif", ""])


def identifier(name: str) -> str:
    """Return a name as an identifier of C and SystemVerilog.

    >>> identifier("layer1.0.conv1")
    'layer1_0_conv1'
    """
    changed = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return changed if changed[:1].isalpha() else f"n{changed}"


# --- as files -------------------------------------------------------------------------------------


def emit_vectors(
    export: str | PathLike[str],
    directory: str | PathLike[str],
    *,
    layer: str,
    images: int = 1,
    data: str | PathLike[str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write golden vectors of one layer: vectors.npz, vectors.h, and a .hex file an array.

    Args:
        export: The export directory.
        directory: The directory to write.
        layer: Name of the layer.
        images: How many images.
        data: A .npy file of images as the network reads them; None: samples, then noise.
        force: Replace earlier vectors in `directory`.

    Returns:
        The stable JSON form: what was written, with shapes and ranges.

    Raises:
        ApotExportError: With what is wrong; nothing is left half-written.
    """
    path = Path(directory)
    require_free(path, force=force)
    opened: OpenExport = open_export(export)
    read = chosen_images(opened.network, images, Path(data) if data else None, opened.path)
    vectors = layer_vectors(opened.network, layer, read)
    arrays = vectors.named()
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    files = {"vectors.npz": buffer.getvalue(), "vectors.h": c_header(vectors).encode()}
    for name, values in arrays.items():
        if values.dtype.kind != "f":
            files[f"{name}.hex"] = hexadecimal_text(values).encode()
    summary = {
        "export": str(export),
        "layer": layer,
        "images": images,
        "arrays": {
            name: {
                "shape": list(values.shape),
                "lowest": values.min().item(),
                "highest": values.max().item(),
            }
            for name, values in arrays.items()
        },
    }
    return write_project(path, files, summary, force=force)
