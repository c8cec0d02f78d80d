"""Sizes of a packed network against entropy and other coders; times of opening and decoding it.

    python -m benchmarks.size_and_loading CHECKPOINT [--bits 2 3 4 5] [--out FILE.json]

The checkpoint is converted once a bit-width, as if it had been trained with it: the distribution of
codes is then that of its latent weights under its own thresholds. Decoding is given in weights a
second of CPU time, on one core. `zstandard`, `constriction` and `nncodec` (DeepCABAC) are measured
where they are installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from apot_export import load_packed
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.packed import PackedNetwork, tensor_bytes
from apot_export.conversion.convert import convert
from apot_export.network.layers import CodedLayer
from benchmarks._facts import interleaved, machine, median_ratio

PEERS = ("numpy", "torch", "safetensors", "zstandard", "constriction", "nncodec")
ONE_LAYER = "layer3.0.conv2"


def coded_layers(network: PackedNetwork) -> list[CodedLayer]:
    """Return the layers that have codes."""
    return [layer for layer in network.layers.values() if isinstance(layer, CodedLayer)]


def entropy_bytes(codes: Iterable[NDArray[Any]]) -> float:
    """Return the order-0 entropy of arrays of codes, each under its own frequencies."""
    total = 0.0
    for array in codes:
        counts = np.unique(array, return_counts=True)[1]
        total += float(counts @ -np.log2(counts / counts.sum())) / 8
    return total


def seconds_of(action: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of CPU time of an action."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return statistics.median(times)


def zstd(layers: list[CodedLayer]) -> dict[str, Any] | None:
    """Measure zstd at level 19 on every layer's bit stream."""
    try:
        import zstandard
    except ImportError:
        return None
    coder = zstandard.ZstdCompressor(19)
    return {"bytes": sum(len(coder.compress(layer.packed.tobytes())) for layer in layers)}


def constriction_ans(layers: list[CodedLayer]) -> dict[str, Any] | None:
    """Measure the ANS coder of `constriction`, frequencies not counted."""
    try:
        import constriction
    except ImportError:
        return None
    size = weights = 0
    seconds = 0.0
    for layer in layers:
        codes = layer.codes.reshape(-1).astype(np.int32)
        counts = np.bincount(codes, minlength=1 << layer.codebook.bits) + 1e-9
        model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(codes, model)
        words = coder.get_compressed()
        size, weights = size + words.nbytes, weights + codes.size
        decoder = constriction.stream.stack.AnsCoder(words)
        started = time.process_time()
        decoder.decode(model, codes.size)
        seconds += time.process_time() - started
    return {"bytes": size, "million_weights_per_second": weights / seconds / 1e6}


def deep_cabac(layers: list[CodedLayer]) -> dict[str, Any] | None:
    """Measure DeepCABAC of the reference software, on signed ranks of the levels.

    Ranks do not hold the sign of zeros: where training keeps it, it codes less than the others.
    """
    try:
        from nncodec.extensions import deepCABAC
        from nncodec.nnc_core.hdsp.hdsp_tool import HDSP_OPTS_OFF
    except ImportError:
        return None
    size = weights = 0
    seconds = 0.0
    for layer in layers:
        distinct = np.unique(layer.codebook.levels)
        places = np.searchsorted(distinct, layer.levels()) - np.searchsorted(distinct, 0)
        ranks = np.ascontiguousarray(places.reshape(layer.shape[0], -1), dtype=np.int32)
        coder = deepCABAC.Encoder()
        coder.initCtxModels(10, 1)
        skipped = np.zeros(len(ranks), dtype=np.int32)
        coder.encodeLayer(ranks.copy(), 0, 0, 0, 0, 0, skipped, *HDSP_OPTS_OFF(), 0, 0)
        stream = coder.finish()
        found = np.zeros_like(ranks)
        decoder = deepCABAC.Decoder()
        started = time.process_time()
        decoder.setStream(stream)
        decoder.initCtxModels(10)
        decoder.decodeLayer(found, 0, 0, 0, 0, *HDSP_OPTS_OFF(), 0, 0)
        seconds += time.process_time() - started
        if not np.array_equal(found, ranks):
            raise ValueError(f"{layer.name}: DeepCABAC decoded something else")
        size, weights = size + stream.nbytes, weights + ranks.size
    return {"bytes": size, "million_weights_per_second": weights / seconds / 1e6}


def sizes(
    checkpoint: Path, folder: Path, bits: int, rounds: int, *, unsigned_zeros: bool
) -> dict[str, Any]:
    """Convert with a bit-width, with and without compression, and compare sizes."""
    plain = folder / f"{bits}bit{'u' if unsigned_zeros else ''}"
    small = plain.with_name(f"{plain.name}-compressed")
    for path, compress in ((plain, False), (small, True)):
        convert(checkpoint, path, bits=bits, unsigned_zeros=unsigned_zeros, compress=compress)
    layers, compressed = coded_layers(load_packed(plain)), coded_layers(load_packed(small))
    file, small_file = (path / PACKED_MODEL for path in (plain, small))
    stored = {
        name: sum(size for tensor, size in tensor_bytes(path.read_bytes()).items() if
                  tensor.endswith(".codes"))
        for name, path in (("plain", file), ("compressed", small_file))
    }  # fmt: skip
    weights = sum(layer.codes.size for layer in layers)
    widths = sum(layer.codes.size * layer.codebook.bits for layer in layers) / 8
    parameters = tensor_bytes(file.read_bytes())["parameters"]
    entropy = entropy_bytes(layer.codes.reshape(-1) for layer in layers)
    decoding = seconds_of(lambda: [layer.codes for layer in compressed], rounds)
    return {
        "bits": bits,
        "unsigned_zeros": unsigned_zeros,
        "weights": weights,
        "sum_of_bits": widths,
        "packed_file": file.stat().st_size,
        "packed_over_sum_of_bits": file.stat().st_size / widths,
        "float_parameters": parameters,
        "packed_over_sum_of_bits_with_parameters": file.stat().st_size / (widths + parameters),
        "codes": stored["plain"],
        "bits_a_weight": 8 * stored["plain"] / weights,
        "entropy": entropy,
        "compressed_codes": stored["compressed"],
        "compressed_bits_a_weight": 8 * stored["compressed"] / weights,
        "compressed_over_entropy": stored["compressed"] / entropy,
        "compressed_file": small_file.stat().st_size,
        "million_weights_per_second": weights / decoding / 1e6,
        "bit_stream_million_weights_per_second": weights
        / seconds_of(lambda: [layer.codes for layer in layers], rounds)
        / 1e6,
        "zstd_19": zstd(layers),
        "constriction": constriction_ans(layers),
        "deep_cabac": deep_cabac(layers),
    }


def one_layer(export: Path) -> NDArray[np.float32]:
    """Open an export and decode one layer of it."""
    return load_packed(export, lazy=True).layers[ONE_LAYER].weights()


def loading(checkpoint: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Time opening the checkpoint, a safetensors file of its state, and the packed files."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=False)
    state = content.get("state_dict", content)
    floats = folder / "state.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, floats)
    convert(checkpoint, folder / "plain")
    convert(checkpoint, folder / "compressed", compress=True)
    plain, compressed = folder / "plain", folder / "compressed"
    actions: dict[str, Callable[[], object]] = {
        "torch.load": lambda: torch.load(checkpoint, map_location="cpu", weights_only=False),
        "safetensors.torch.load_file": lambda: load_file(floats),
        "load_packed": lambda: load_packed(plain),
        "load_packed, lazy": lambda: load_packed(plain, lazy=True),
        "load_packed, one layer's weights": lambda: one_layer(plain),
        "load_packed, all weights": lambda: [
            layer.weights() for layer in load_packed(plain).layers.values()
        ],
        "compressed: load_packed": lambda: load_packed(compressed),
        "compressed: one layer's weights": lambda: one_layer(compressed),
        "compressed: all weights": lambda: [
            layer.weights() for layer in load_packed(compressed).layers.values()
        ],
    }
    times = interleaved(actions, rounds)
    return {
        name: {
            "milliseconds": statistics.median(found) * 1e3,
            "of_torch_load": median_ratio(found, times["torch.load"]),
        }
        for name, found in times.items()
    }


def main() -> None:
    """Measure everything and print it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            sizes(arguments.checkpoint, folder, bits, arguments.rounds, unsigned_zeros=unsigned)
            for bits in arguments.bits
            for unsigned in ((False, True) if bits == 2 else (False,))
        ]
        result = {
            "machine": machine(*PEERS),
            "checkpoint": arguments.checkpoint.name,
            "rounds": arguments.rounds,
            "sizes": rows,
            "loading": loading(arguments.checkpoint, folder, arguments.rounds),
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
