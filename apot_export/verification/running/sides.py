"""What the original is compared with: runtimes of the ONNX model, readers of the packed file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from apot_export import budgets
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.artifacts.onnx_model.probe import tf32_exact, with_outputs
from apot_export.errors import ExportError, KernelError
from apot_export.network import CodedNetwork, oracle
from apot_export.network.comparison import LOGITS
from apot_export.runtimes.exactness import Exactness, find_exact
from apot_export.runtimes.onnx_runtime import Placement, measure_placement, open_session
from apot_export.runtimes.torch_runtime import Executor

if TYPE_CHECKING:
    from apot_export.downstream import DownstreamNetwork

Values = Mapping[str, NDArray[Any]]
"""Values of a network by name, its output as `LOGITS`."""


@dataclass(kw_only=True)
class OpenedSides:
    """Sides that are ready to run."""

    executors: dict[str, Executor] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options that were set explicitly, by side."""
    placements: dict[str, tuple[str, Placement]] = field(default_factory=dict)
    """(provider that was asked for, where the nodes ran), by side of ONNX Runtime."""
    exactness: dict[str, Exactness] = field(default_factory=dict)
    """What the probe of their products found, by side of ONNX Runtime."""
    values: dict[str, Callable[[NDArray[np.float32]], Values]] = field(default_factory=dict)
    """Executors that return every value that a side shows, by side; not of `of_model`."""

    packed_values: Callable[[NDArray[np.float32]], Values] = field(default=lambda _: {})
    """Returns the values of the packed file, of the fastest side that runs it."""

    def open_onnx_runtime(
        self,
        name: str,
        device: str,
        model: bytes,
        graph: onnx.ModelProto,
        image: NDArray[np.float32],
        threads: int,
    ) -> None:
        """Open a side of ONNX Runtime with the algorithm that was found to be exact."""
        exact: Any = {"tf32": tf32_exact(graph), "algorithm": self.exactness[name].algorithm}
        session = open_session(model, device, threads=threads, **exact)
        self.executors[name] = session.run
        shown = partial(open_session, with_outputs(graph), device, threads=threads, **exact)
        self.values[name] = lambda images: shown().run_all(images)
        self.options[name] = {"threads": threads, **session.options}
        placement = measure_placement(model, device, image, **exact)
        self.placements[name] = (session.provider, placement)

    @property
    def of_model(self) -> str:
        """The side whose values are proven as those of the ONNX model: ONNX Runtime's first."""
        return next(iter(self.exactness), "")

    @property
    def graphs(self) -> set[str]:
        """Sides that run the ONNX model, whose batches may be computed differently by size."""
        return {name for name in self.executors if name == "openvino" or name in self.exactness}

    def provider(self) -> str:
        """Return what computed the first side's values."""
        first = next(iter(self.executors))
        return self.placements[first][1].provider() if first in self.placements else first

    def placement(self) -> dict[str, int]:
        """Return the nodes that computed values, by execution provider."""
        return {
            provider: count
            for _, placement in self.placements.values()
            for provider, count in placement.counts().items()
        }

    def failures(self) -> list[str]:
        """Return a sentence for each side that is wrong, or ran elsewhere than on its provider."""
        found = [
            f"{name} does not compute the packed file's network: {exactness.wrong}"
            for name, exactness in self.exactness.items()
            if exactness.wrong
        ]
        for wanted, placement in self.placements.values():
            strays = placement.strays(wanted)
            if strays:
                found.append(
                    f"{len(strays)} nodes did not run on {wanted}: {', '.join(strays[:5])}"
                )
        return found


def ort_device(name: str, device: str) -> str:
    """Return the device of a side of ONNX Runtime: the original's, if it is of that kind."""
    kind = name.removeprefix("ort-")
    return device if device.startswith(kind) else kind


def open_sides(
    names: Sequence[str],
    *,
    directory: Path,
    model: bytes,
    graph: onnx.ModelProto,
    packed: CodedNetwork,
    device: str,
    threads: int,
    batches: Collection[int],
    image: NDArray[np.float32],
) -> OpenedSides:
    """Open sides of an export.

    Args:
        names: Of `SIDES`, each once, "ort" as the one on the original's device.
        directory: The export.
        model: Its ONNX model.
        graph: The same, parsed.
        packed: The network of its packed file.
        device: Where the original runs.
        threads: Threads of each runtime.
        batches: Images of every batch that there will be: CUDA chooses algorithms by them.
        image: An image to find out with where nodes run, float32 [1, C, H, W].

    Raises:
        DeviceError: One cannot be opened here.
    """
    opened = OpenedSides(packed_values=partial(_packed_values, directory, packed, threads))
    for name in names:
        if name == "oracle":
            opened.executors[name] = partial(oracle.run, packed)
            opened.values[name] = partial(_observed, opened.executors[name], packed.output)
        elif name == "native":
            from apot_export.runtimes.native import compile_network

            compiled = compile_network(packed, threads=threads)
            opened.executors[name] = compiled.run
            opened.values[name] = partial(_observed, compiled.run, packed.output)
            opened.options[name] = {"threads": threads, "kernels": compiled.kernels}
        elif name == "packed":
            reader = _downstream(directory / PACKED_MODEL)
            opened.executors[name] = reader.run
            opened.values[name] = partial(_traced, reader)
        elif name == "openvino":
            from apot_export.runtimes.openvino_runtime import open_openvino

            compiled_model = open_openvino(model, threads=threads)
            opened.executors[name] = compiled_model.run
            opened.values[name] = open_openvino(with_outputs(graph), threads=threads).run_all
            opened.options[name] = {"version": compiled_model.version, **compiled_model.options}
        else:
            place = ort_device(name, device)
            probed = (2,) if place == "cpu" else batches
            found = find_exact(graph, packed, place, batches=probed, threads=threads)
            opened.exactness[name] = found
            opened.open_onnx_runtime(name, place, model, graph, image, threads)
    return opened


def packed_executor(path: Path, packed: CodedNetwork, threads: int) -> tuple[str, Executor]:
    """Return the name and the executor of the fastest side that runs a packed file."""
    from apot_export.runtimes.native import compile_network

    try:
        return "native", compile_network(packed, threads=threads).run
    except KernelError:  # no C compiler, or a network that the kernels do not run
        return "packed", _downstream(path).run


def _packed_values(
    directory: Path, packed: CodedNetwork, threads: int, images: NDArray[np.float32]
) -> Values:
    """Return the values of an export's packed file, of the fastest side that runs it."""
    from apot_export.runtimes.native import compile_network

    try:
        return _observed(compile_network(packed, threads=threads).run, packed.output, images)
    except KernelError:
        return _traced(_downstream(directory / PACKED_MODEL), images)


def _observed(run: Callable[..., Any], output: str, images: NDArray[np.float32]) -> Values:
    """Return what an executor tells an observer, and its result."""
    found: dict[str, NDArray[Any]] = {}
    logits = run(images, found.__setitem__)
    found.pop(output, None)
    return {**found, LOGITS: logits}


def _traced(reader: DownstreamNetwork, images: NDArray[np.float32]) -> Values:
    found = reader.trace(images)
    return {**found, LOGITS: found[reader.output]}


def _downstream(path: Path) -> DownstreamNetwork:
    from apot_export.downstream import load

    try:
        return load(path, budgets.stated_memory())
    except ValueError as error:
        raise ExportError(
            "The stand-alone reader refuses the packed file.",
            where=str(path),
            got=str(error),
            fix="convert the checkpoint again",
        ) from error
