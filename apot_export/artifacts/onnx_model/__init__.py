"""ONNX: the coded network as a graph of `apot` operators with standard-operator bodies."""

from __future__ import annotations

from apot_export.artifacts.onnx_model._builder import INPUT, OUTPUT, codebook_attributes, serialise
from apot_export.artifacts.onnx_model.blocks import model_file
from apot_export.artifacts.onnx_model.functions import DOMAIN, OPSET
from apot_export.artifacts.onnx_model.graph import build_model
from apot_export.artifacts.onnx_model.integer_graph import build_integer_model
from apot_export.artifacts.onnx_model.openvino_model import openvino_model

__all__ = [
    "DOMAIN",
    "INPUT",
    "OPSET",
    "OUTPUT",
    "build_integer_model",
    "build_model",
    "codebook_attributes",
    "model_file",
    "openvino_model",
    "serialise",
]
