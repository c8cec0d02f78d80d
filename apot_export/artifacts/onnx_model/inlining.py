"""Serialised models as OpenVINO reads them."""

from __future__ import annotations

import onnx

from apot_export.artifacts.onnx_model.openvino_model import openvino_model


def model_for_openvino(model: bytes) -> bytes:
    """Serialise what `openvino_model` makes of a serialised model."""
    return bytes(openvino_model(onnx.load_model_from_string(model)).SerializeToString())
