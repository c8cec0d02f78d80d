"""The network between a checkpoint and its artifacts: operations, layers and the graph."""

from __future__ import annotations

from apot_export.network.graph import CodedNetwork, Network, Node, Shape, SourceNetwork
from apot_export.network.layers import (
    ActivationQuantizer,
    CodedLayer,
    FloatLayer,
    Layer,
    PlaneLayer,
)
from apot_export.network.operations import (
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Operation,
    Pair,
    QuantizeActivation,
    Relu,
    ScaleBias,
    Upsample,
)
from apot_export.network.source import (
    EightBitWeights,
    MultiBitWeights,
    SourceLayer,
    WeightQuantizer,
)

__all__ = [
    "ActivationQuantizer",
    "Add",
    "AveragePool",
    "Clip",
    "CodedLayer",
    "CodedNetwork",
    "Concat",
    "Convolution",
    "EightBitWeights",
    "Flatten",
    "FloatLayer",
    "GlobalAveragePool",
    "Layer",
    "Linear",
    "MaxPool",
    "MultiBitWeights",
    "Network",
    "Node",
    "Operation",
    "Pair",
    "PlaneLayer",
    "QuantizeActivation",
    "Relu",
    "ScaleBias",
    "Shape",
    "SourceLayer",
    "SourceNetwork",
    "Upsample",
    "WeightQuantizer",
]
