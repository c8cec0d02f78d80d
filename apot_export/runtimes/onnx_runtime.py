"""ONNX Runtime: sessions on a chosen provider, and proof of where the nodes really ran."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from apot_export.errors import DeviceError
from apot_export.runtimes.refusals import refusals

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
ALGORITHMS: tuple[Mapping[str, str], ...] = tuple(
    {"cudnn_conv_algo_search": search, "cudnn_conv_use_max_workspace": workspace}
    for search in ("HEURISTIC", "EXHAUSTIVE", "DEFAULT")
    for workspace in ("1", "0")
)
"""Ways in which CUDA's provider chooses cuDNN's convolutions, in the order in which to try them.

None of them excludes an algorithm that rounds, as Winograd's or one by FFT: `exactness` finds out.
The three are cuDNN's heuristics A and B, and its fallback, which is slow; without the largest
workspace, algorithms that transform whole tensors are left out.
"""
_NOT_RUN = "ONNX Runtime could not run the model."
_ERRORS_ONLY = 3
_SMALL_SHAPE_ELEMENTS = 16
"""A CPU node that makes only int64 tensors of at most this size computes shapes, not values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """An ONNX Runtime session of a model with one image input."""

    session: Any
    provider: str
    options: Mapping[str, str]
    """Provider options that were set."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch: float32 [N, C, H, W] to logits float32 [N, classes]."""
        return np.asarray(self._compute(images)[0], dtype=np.float32)

    def run_all(self, images: NDArray[np.float32] | None = None) -> dict[str, NDArray[Any]]:
        """Run a batch, or a model without inputs, and return every output by name."""
        return self._named(self._compute(images))

    def run_named(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a model with any inputs, and return every output by name."""
        with refusals(_NOT_RUN):
            return self._named(self.session.run(None, dict(inputs)))

    def _named(self, values: list[Any]) -> dict[str, NDArray[Any]]:
        return dict(zip((one.name for one in self.session.get_outputs()), values, strict=True))

    def _compute(self, images: NDArray[np.float32] | None) -> list[Any]:
        inputs = self.session.get_inputs()
        size = next(iter(inputs[0].shape), None) if inputs else None
        with refusals(_NOT_RUN):
            if images is not None and isinstance(size, int) and 0 < size != len(images):
                return self._compute_batches(images, size)
            if self.provider == CUDA and inputs:
                return self.run_bound(images)
            return list(self.session.run(None, {inputs[0].name: images} if inputs else {}))

    def _compute_batches(self, images: NDArray[np.float32], size: int) -> list[Any]:
        """Run a model of fixed batches; the last one is filled with its last image."""
        filled = images[np.minimum(np.arange(-(-len(images) // size) * size), len(images) - 1)]
        batches = [self._compute(batch) for batch in np.split(filled, len(filled) // size)]
        return [np.concatenate(parts)[: len(images)] for parts in zip(*batches, strict=True)]

    def run_bound(self, images: NDArray[np.float32] | None) -> list[Any]:
        """Run a batch with its input and outputs bound to the device's own memory.

        One copy there and one back, and none that ONNX Runtime decides on in between.
        """
        kind, number = "cpu", 0
        if self.provider == CUDA:
            kind, number = "cuda", int(self.options["device_id"])
        binding = self.session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(images, kind, number)
        binding.bind_ortvalue_input(self.session.get_inputs()[0].name, value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, kind, number)
        self.session.run_with_iobinding(binding)
        return [result.numpy() for result in binding.get_outputs()]


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(onnxruntime.__version__)


def algorithms(device: str) -> tuple[Mapping[str, str], ...]:
    """Return the ways to choose algorithms that a device's provider has; one where it has none."""
    return ({},) if device == "cpu" else ALGORITHMS


def provider_for(
    device: str, *, tf32: bool = False, algorithm: Mapping[str, str] | None = None
) -> tuple[str, dict[str, str]]:
    """Return the execution provider of a device ("cpu", "cuda" or "cuda:1") and its options.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        tf32: Whether the model is one that TF32 does not round: of target "cuda", and with
            `tf32_exact` = "true" in its metadata.
        algorithm: One of the device's `algorithms`; None for the first.

    Raises:
        DeviceError: This ONNX Runtime has no such provider.
    """
    if device == "cpu":
        return CPU, {}
    if CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(
            "This ONNX Runtime has no CUDA provider.",
            expected=CUDA,
            got=", ".join(onnxruntime.get_available_providers()),
            fix="install onnxruntime-gpu (and remove onnxruntime), or use --device cpu",
        )
    # TF32 would round the float layers of other targets.
    own = {"device_id": device.partition(":")[2] or "0", "use_tf32": str(int(tf32))}
    return CUDA, {**own, **(algorithm or ALGORITHMS[0])}


def open_session(
    model: bytes,
    device: str,
    *,
    threads: int = 0,
    profile: str = "",
    tf32: bool = False,
    algorithm: Mapping[str, str] | None = None,
    folded: bool = True,
) -> Session:
    """Open a session.

    Args:
        model: A serialised ONNX model.
        device: "cpu", "cuda" or "cuda:1".
        threads: Intra-operator threads; 0 for ONNX Runtime's choice.
        profile: Prefix of a profile file to write; empty for none.
        tf32: Let CUDA use TF32: for models alone that it does not round (see `provider_for`).
        algorithm: One of the device's `algorithms`; None for the first.
        folded: Compute what no input changes once, when the session is made. It takes about 45
            bytes for each weight; else every run decodes them anew, a layer at a time, and sums of
            floats may end in other last bits.

    Raises:
        DeviceError: The provider is missing or did not load.
        ExportError: ONNX Runtime refuses the model.
    """
    provider, provider_options = provider_for(device, tf32=tf32, algorithm=algorithm)
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    if provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        with _printing_to_standard_error():
            onnxruntime.preload_dlls()
    providers = [(provider, provider_options), *([] if provider == CPU else [(CPU, {})])]
    with refusals("ONNX Runtime does not load the model."):
        session = onnxruntime.InferenceSession(
            model,
            _options(threads, profile),
            providers=providers,
            enable_fallback=False,
            disabled_optimizers=[] if folded else ["ConstantFolding"],
        )
    if provider not in session.get_providers():
        raise DeviceError(
            "ONNX Runtime could not load its CUDA provider and fell back silently.",
            expected=provider,
            got=", ".join(session.get_providers()),
            fix="check that CUDA and cuDNN of the versions that onnxruntime-gpu needs are found",
        )
    return Session(session=session, provider=provider, options=provider_options)


def _options(threads: int, profile: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return options


@contextlib.contextmanager
def _printing_to_standard_error() -> Iterator[None]:
    """Send what Python and native libraries print on standard output to standard error."""
    sys.stdout.flush()
    output = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # what C has buffered belongs there, too
        os.dup2(output, 1)
        os.close(output)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which provider executed which nodes."""

    nodes: Mapping[str, tuple[str, ...]]
    """Node names by provider, in order of execution."""
    shape_nodes: tuple[str, ...]
    """Nodes on the CPU that only compute shapes."""

    def counts(self) -> dict[str, int]:
        """Return how many nodes computed values, by provider."""
        return {provider: len(names) for provider, names in self.nodes.items()}

    def provider(self) -> str:
        """Return the provider or providers that computed values."""
        return " + ".join(sorted(self.nodes)) or CPU

    def strays(self, wanted: str) -> tuple[str, ...]:
        """Return the nodes that computed values on another provider than the wanted one."""
        return tuple(
            name for provider, names in self.nodes.items() if provider != wanted for name in names
        )


def measure_placement(
    model: bytes,
    device: str,
    images: NDArray[np.float32],
    *,
    tf32: bool = False,
    algorithm: Mapping[str, str] | None = None,
) -> Placement:
    """Run a batch under ONNX Runtime's profiler and read off where every node ran."""
    with tempfile.TemporaryDirectory() as folder:
        profile = str(Path(folder) / "profile")
        session = open_session(model, device, profile=profile, tf32=tf32, algorithm=algorithm)
        session.run(images)
        events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
    return placement_of_events(events)


def placement_of_events(events: list[dict[str, Any]]) -> Placement:
    """Read the placement off the events of an ONNX Runtime profile."""
    nodes: dict[str, list[str]] = {}
    shape_nodes = []
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") != "Node" or not arguments.get("provider"):
            continue
        name = f"{event['name'].removesuffix('_kernel_time')} ({arguments.get('op_name', '?')})"
        if arguments["provider"] == CPU and _computes_shapes(arguments):
            shape_nodes.append(name)
        else:
            nodes.setdefault(arguments["provider"], []).append(name)
    return Placement(
        nodes={provider: tuple(names) for provider, names in nodes.items()},
        shape_nodes=tuple(shape_nodes),
    )


def _computes_shapes(arguments: Mapping[str, Any]) -> bool:
    outputs = arguments.get("output_type_shape") or []
    return bool(outputs) and all(
        kind == "int64" and int(np.prod(shape, dtype=np.int64)) <= _SMALL_SHAPE_ELEMENTS
        for output in outputs
        for kind, shape in output.items()
    )
