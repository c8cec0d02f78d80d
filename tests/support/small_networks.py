"""A small random network with every operation, its packed file, and ways to tamper with it."""

from __future__ import annotations

import json
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from apot_export.artifacts.packed import PackedNetwork, load_packed, packed_file_bytes
from apot_export.encoding.encode import encode_network
from apot_export.errors import PackedFileError
from apot_export.network import (
    ActivationQuantizer,
    Add,
    AveragePool,
    CodedNetwork,
    Convolution,
    EightBitWeights,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
    Operation,
    Relu,
    ScaleBias,
    SourceLayer,
    WeightQuantizer,
)
from apot_export.network.codebook import apot, apot_candidates

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]
PROVENANCE = {"tool": "test", "checkpoint": "große_daten.pth", "bits": 4}


@cache
def network() -> CodedNetwork:
    """Build a network with every operation, every kind of layer and a residual branch."""
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.normal(size=shape).astype(np.float32)

    def layer(name: str, bits: int, *shape: int) -> SourceLayer:
        book = apot(bits, signed=True)
        rule = WeightQuantizer(
            codebook=book,
            alpha=np.float32(-1.7),
            rule="nearest",
            candidates=apot_candidates(bits),
        )
        levels = ActivationQuantizer(codebook=apot(bits, signed=False), alpha=np.float32(1.3))
        return SourceLayer(name=name, weight=weights(*shape), quantizer=rule, activation=levels)

    last = apot(2, signed=False)  # as in `grouped`: a codebook that two layers share
    layers = [
        SourceLayer(name="first", weight=weights(6, 3, 3, 3), quantizer=EightBitWeights()),
        layer("grouped", 2, 6, 3, 3, 3),
        layer("wide", 4, 5, 6, 1, 1),
        SourceLayer(name="float", weight=weights(3, 5, 1, 1), quantizer=None),
        SourceLayer(
            name="last",
            weight=weights(4, 3),
            quantizer=EightBitWeights(),
            bias=weights(4),
            activation=ActivationQuantizer(codebook=last, alpha=np.float32(0.7)),
        ),
    ]
    batch_norm = ScaleBias(scale=weights(6).astype(float), bias=weights(6).astype(float))
    grouped = Convolution(layer="grouped", padding=(2, 1), dilation=(2, 1), groups=2)
    graph: list[tuple[str, Operation, tuple[str, ...]]] = [
        ("first", Convolution(layer="first", stride=(2, 1), padding=(1, 1)), ("image",)),
        ("norm", batch_norm, ("first",)),
        ("relu", Relu(), ("norm",)),
        ("pool", MaxPool(kernel=(2, 3), stride=(1, 2), padding=(1, 1)), ("relu",)),
        ("branch", grouped, ("pool",)),
        ("sum", Add(), ("branch", "pool")),
        ("wide", Convolution(layer="wide"), ("sum",)),
        ("mean", AveragePool(kernel=(2, 2), stride=(1, 2)), ("wide",)),
        ("mixed", Convolution(layer="float"), ("mean",)),
        ("global", GlobalAveragePool(), ("mixed",)),
        ("flat", Flatten(), ("global",)),
        ("logits", Linear(layer="last"), ("flat",)),
    ]
    return encode_network(
        Network[SourceLayer](
            nodes=tuple(Node(name=n, inputs=sources, operation=op) for n, op, sources in graph),
            layers={layer.name: layer for layer in layers},
            input="image",
            input_shape=(3, 9, 8),
            output="logits",
        )
    )


@cache
def packed() -> bytes:
    return packed_file_bytes(network(), PROVENANCE)


def unseal(content: bytes) -> tuple[Json, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def seal(header: Json | str, data: bytes) -> bytes:
    """Write a file with a right header checksum around whatever the header says."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    raw = text.encode()
    raw += b" " * (-(8 + len(raw)) % 64)
    raw = raw[:33] + b"00000000" + raw[41:]
    raw = raw[:33] + b"%08x" % zlib.crc32(raw) + raw[41:]
    return len(raw).to_bytes(8, "little") + raw + data


def load(folder: Path, content: bytes) -> PackedNetwork:
    path = folder / "model.apot.safetensors"
    path.write_bytes(content)
    return load_packed(path).check()


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(PackedFileError) as caught:
        load(folder, content)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(folder))
    return str(caught.value)
