"""A compiled network: its program, its memory and its constants."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.packed import PackedNetwork
from apot_export.errors import KernelError
from apot_export.network import CodedNetwork
from apot_export.network.oracle import require_images
from apot_export.network.shown import Shown, dimensions
from apot_export.runtimes.native._arena import large_memory
from apot_export.runtimes.native._library import Library, default_library
from apot_export.runtimes.native._lower import Program, lower

MOST_THREADS = 64
Observer = Callable[[str, NDArray[Any]], None]


class FastNetwork(Shown):
    """A network ready to run on this processor: a plan that the library opened.

    Calls from several threads wait for each other: all use one workspace.
    """

    def __init__(
        self, network: CodedNetwork, program: Program, library: Library, kernels: str, threads: int
    ) -> None:
        """Take the parts that `compile_network` made.

        Raises:
            KernelError: The library refuses the plan.
        """
        self._network = network
        self._program = program
        self._library = library
        self._plan = library.opened(program.plan(), kernels)
        weakref.finalize(self, library.functions.apot_close, self._plan)
        self.kernels = kernels
        """Name of the kernels, such as "amx" or "plain": `docs/native-kernels.md` lists them."""
        self.threads = threads
        """Threads that share the images of a batch, and the rows of those that are left over."""
        self._lock = threading.Lock()
        self._workspace = large_memory(library.functions.apot_workspace_bytes(self._plan, threads))

    @property
    def steps(self) -> tuple[str, ...]:
        """Name of the node that each step starts with."""
        return tuple(part.name for part in self._program.parts)

    def run(
        self, images: NDArray[np.float32], observe: Observer | None = None
    ) -> NDArray[np.float32]:
        """Run a batch.

        Args:
            images: float32 [N, channels, height, width], preprocessed.
            observe: Called with the name and array of every value that is computed: sums of
                weighted nodes as they are before what follows them (int32 or float32), levels
                (uint8, signed ones int16), and floats that are written. Fused values in between
                are not.

        Returns:
            Logits, float32 [N, classes].

        Raises:
            DatasetError: The images do not have the network's input shape.
        """
        require_images(images, self._network.input_shape)
        pixels = np.ascontiguousarray(images, dtype=np.float32)
        shape = self._network.shapes[self._network.output]
        results = np.empty((len(pixels), math.prod(shape)), dtype=np.float32)
        with self._lock:
            if observe is None:
                self._library.require_done(
                    self._library.functions.apot_run(
                        self._plan,
                        pixels.ctypes.data,
                        len(pixels),
                        results.ctypes.data,
                        self.threads,
                        self._workspace.ctypes.data,
                    )
                )
            else:
                self._observed(pixels, results, observe)
        return results.reshape(len(pixels), *shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image: (channels, height, width)."""
        return self._network.input_shape

    def run_step(
        self, index: int, image: NDArray[np.float32], sums: NDArray[Any] | None = None
    ) -> None:
        """Run one step on what the steps before it left; for profiles.

        Args:
            index: Number of the step.
            image: The image that step 0 reads, float32 [channels, height, width], contiguous.
            sums: Where the sums of a step with weights go, [height, width, channels], int32 where
                it reads levels, else float32.
        """
        status = self._library.functions.apot_run_step(
            self._plan,
            index,
            image.ctypes.data,
            None if sums is None else sums.ctypes.data,
            self.threads,
            self._workspace.ctypes.data,
        )
        self._library.require_done(status)

    def _observed(
        self, pixels: NDArray[np.float32], results: NDArray[np.float32], observe: Observer
    ) -> None:
        found: dict[str, list[NDArray[Any]]] = {}
        program = self._program
        for image, result in zip(pixels, results, strict=True):
            for index, part in enumerate(program.parts):
                sums = self._traced(image, index)
                if sums is not None:
                    found.setdefault(part.name, []).append(sums)
                for name in part.written:
                    found.setdefault(name, []).append(program.buffers[name].read(self._workspace))
            result[...] = program.output.read(self._workspace).ravel()
        for name, arrays in found.items():
            if name in self._network.shapes:
                shape = self._network.shapes[name]
                observe(name, np.stack(arrays).reshape(len(arrays), *shape))

    def _traced(self, image: NDArray[np.float32], index: int) -> NDArray[Any] | None:
        """Run a step; return its sums [channels, height, width] if it has weights."""
        sums = self._program.parts[index].sums
        if sums is None:
            self.run_step(index, image)
            return None
        channels, height, width = sums
        kind = np.int32 if self._program.steps[index].integers else np.float32
        trace = np.zeros((height, width, channels), dtype=kind)
        self.run_step(index, image, trace)
        return trace.transpose(2, 0, 1)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "kernels", self.kernels
        yield "threads", self.threads
        yield "input", dimensions(self._network.input_shape)


def compile_network(
    network: CodedNetwork | PackedNetwork,
    *,
    threads: int = 1,
    kernels: str | None = None,
    library: Library | None = None,
) -> FastNetwork:
    """Prepare a network for the native kernels; they are compiled on first use.

    Args:
        network: What `load_packed` returns, or a coded network.
        threads: Threads that share the images of a batch, or the rows of an image, 1 to 64.
        kernels: Name of the kernels; None: those that the environment's `APOT_EXPORT_KERNELS`
            names, else the fastest that this processor has the instructions for.
        library: Another build of the kernels; None: that of the user's cache.

    Raises:
        KernelError: There is no C compiler, the processor lacks the kernels asked for, or the
            network has a layer that they do not run: levels of activations above 255, weights
            beyond 16 bits, or sums that could leave int32.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise KernelError(
            "This number of threads is not possible.",
            expected=f"1 to {MOST_THREADS}",
            got=str(threads),
        )
    if isinstance(network, PackedNetwork):
        network = network.network
    found = library or default_library()
    chosen = found.chosen(kernels)
    return FastNetwork(network, lower(network, chosen), found, chosen, threads)
