"""A compiled network: its program, its memory and its constants."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.errors import KernelError
from apot_export.network import CodedNetwork
from apot_export.network.oracle import require_images
from apot_export.runtimes.native._arena import large_memory
from apot_export.runtimes.native._library import Library, default_library
from apot_export.runtimes.native._lower import Program, lower

MOST_THREADS = 64
Observer = Callable[[str, NDArray[Any]], None]


class FastNetwork:
    """A network ready to run on this processor.

    Calls from several threads wait for each other: all use one memory.
    """

    def __init__(
        self, network: CodedNetwork, program: Program, library: Library, kernel: int, threads: int
    ) -> None:
        """Take the parts that `compile_network` made."""
        self._network = network
        self._program = program
        self._library = library
        self._kernel = kernel
        self.threads = threads
        """Threads that share the work on an image."""
        self._lock = threading.Lock()
        size = program.arena_bytes + threads * program.scratch_bytes
        self._arena = large_memory(size)

    @property
    def kernels(self) -> str:
        """Name of the kernels: "avx512_vbmi", "avx512", "avx_vnni", "avx2", "neon" or "plain"."""
        return self._library.kernels[self._kernel]

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
        results = np.empty((len(pixels), int(np.prod(shape))), dtype=np.float32)
        with self._lock:
            if observe is None:
                self._run(pixels, results, 0, len(self._program.steps))
            else:
                self._observed(pixels, results, observe)
        return results.reshape(len(pixels), *shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image: (channels, height, width)."""
        return self._network.input_shape

    def run_step(self, index: int, image: NDArray[np.float32], *, projections: bool = True) -> None:
        """Run one step on what the steps before it left; for profiles.

        Args:
            index: Number of the step.
            image: The image that step 0 reads, float32 [channels, height, width], contiguous.
            projections: Whether it also writes the levels that others read.
        """
        step = self._program.steps[index]
        with self._lock:
            counts = step.finish.projections, step.after.projections
            if not projections:
                step.finish.projections = step.after.projections = 0
            self._run(image[None], None, index, index + 1)
            step.finish.projections, step.after.projections = counts

    def _run(
        self, pixels: NDArray[np.float32], results: NDArray[np.float32] | None, begin: int, end: int
    ) -> None:
        program = self._program
        classes = 0 if results is None else results.shape[1]
        status = self._library.functions.apot_fast_run(
            program.steps,
            begin,
            end,
            len(pixels),
            pixels.ctypes.data,
            int(np.prod(pixels.shape[1:])),
            None if results is None else results.ctypes.data,
            classes,
            program.output.view(),
            self._arena.ctypes.data,
            program.arena_bytes,
            program.scratch_bytes,
            self.threads,
            self._kernel,
        )
        if status:
            raise KernelError("The kernels could not start their threads.", got=str(self.threads))

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
                    found.setdefault(name, []).append(program.buffers[name].read(self._arena))
            result[...] = program.output.read(self._arena).ravel()
        for name, arrays in found.items():
            if name in self._network.shapes:
                shape = self._network.shapes[name]
                observe(name, np.stack(arrays).reshape(len(arrays), *shape))

    def _traced(self, image: NDArray[np.float32], index: int) -> NDArray[Any] | None:
        """Run a step; return its sums [channels, height, width] if it has weights."""
        step, sums = self._program.steps[index], self._program.parts[index].sums
        if sums is None:
            self._run(image[None], None, index, index + 1)
            return None
        channels, height, width = sums
        trace = np.zeros((height, width, channels), dtype=np.int32 if step.integers else np.float32)
        step.trace = trace.ctypes.data
        self._run(image[None], None, index, index + 1)
        step.trace = None
        return trace.transpose(2, 0, 1)


def compile_network(
    network: CodedNetwork,
    *,
    threads: int = 1,
    kernels: str | None = None,
    library: Library | None = None,
) -> FastNetwork:
    """Prepare a network for the native kernels; they are compiled on first use.

    Args:
        network: A coded network, for example `load_packed(...).network`.
        threads: Threads that share the work on an image, 1 to 64.
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
    found = library or default_library()
    kernel = found.index_of(kernels)
    # AVX2 adds products in 16 bits, which transformed levels and weights leave.
    program = lower(network, winograd=found.kernels[kernel] != "avx2")
    return FastNetwork(network, program, found, kernel, threads)
