"""OpenVINO: an export on a second runtime, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.onnx_model.openvino_model import model_for_openvino
from apot_export.errors import DeviceError
from apot_export.runtimes.refusals import refusals

_DEVICE = "CPU"
_OPTIONS = {
    # On CPUs with bfloat16 or float16 arithmetic OpenVINO takes it unless told otherwise: neither
    # holds the accumulators of a quantized layer.
    "INFERENCE_PRECISION_HINT": "f32",
    "EXECUTION_MODE_HINT": "ACCURACY",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "PERFORMANCE_HINT": "LATENCY",
}
_THREADS = "INFERENCE_NUM_THREADS"


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenVinoSession:
    """A model with one image input, compiled by OpenVINO."""

    compiled: Any
    version: str
    options: Mapping[str, str]
    """Properties of the compiled model that decide about its numbers and speed, as OpenVINO
    reports them: precision, execution mode, number of threads."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch: float32 [N, C, H, W] to logits float32 [N, classes].

        Raises:
            ExportError: OpenVINO does not run the model on these images.
        """
        # OpenVINO writes the next batch over its results, so they are copied.
        return np.array(self._results(images)[0], dtype=np.float32)

    def run_all(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Run a batch and return every output by name.

        Raises:
            ExportError: OpenVINO does not run the model on these images.
        """
        results = self._results(images)
        return {
            name: np.array(results[port])
            for port in self.compiled.outputs
            for name in port.get_names()
        }

    def _results(self, images: NDArray[np.float32]) -> Any:
        # The lines of OpenVINO's messages before the last one name its source files.
        with refusals("OpenVINO could not run the model.", line=-1):
            return self.compiled(np.ascontiguousarray(images))


def open_openvino(model: bytes, *, threads: int = 0, batch: int = 0) -> OpenVinoSession:
    """Compile a model for the CPU.

    Args:
        model: A serialised ONNX model, functions of the domain `apot` included.
        threads: Threads of an inference; 0 for OpenVINO's choice.
        batch: Images in every batch, which makes for faster kernels; 0 for any number.

    Raises:
        DeviceError: OpenVINO is not installed.
        ExportError: OpenVINO refuses the model.
    """
    openvino = _library()
    options = {**_OPTIONS, **({_THREADS: str(threads)} if threads else {})}
    core = openvino.Core()
    with refusals("OpenVINO does not load the model.", line=-1):
        read = core.read_model(model_for_openvino(model), b"")
        shape = read.inputs[0].partial_shape
        if batch or shape[0].is_static:
            shape[0] = batch or -1
            read.reshape(shape)
        compiled = core.compile_model(read, _DEVICE, options)
    return OpenVinoSession(
        compiled=compiled,
        version=version(),
        options={name: _text(compiled.get_property(name)) for name in (*_OPTIONS, _THREADS)},
    )


def version() -> str:
    """Return OpenVINO's version.

    Raises:
        DeviceError: OpenVINO is not installed.
    """
    return str(_library().__version__.partition("-")[0])


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise DeviceError(
            "OpenVINO is not installed.", fix="pip install 'apot-export[openvino]'"
        ) from error
    return openvino


def _text(value: Any) -> str:
    """Return a property's value as OpenVINO prints it: f32, ACCURACY, 4."""
    for attribute in ("to_string", "name"):
        found = getattr(value, attribute, None)
        if found is not None:
            return str(found() if callable(found) else found)
    return str(value)
