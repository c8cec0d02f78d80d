"""One network in one form: its file, the images, and what every client has to compute."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from apot_export import convert, load_packed
from apot_export.artifacts.directory import INTEGER_MODEL, ONNX_MODEL
from apot_export.artifacts.onnx_model.probe import with_outputs
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.datasets import open_dataset
from apot_export.network import CodedLayer, CodedNetwork, Node, operations
from apot_export.network.oracle import convolve
from apot_export.original import families
from apot_export.runtimes.onnx_runtime import open_session

from .environments import Client

_PROJECT = Path(__file__).resolve().parents[2]
_REFERENCE = Path(os.environ.get("APOT_EXPORT_REFERENCE", _PROJECT.parent / "shared"))
_DIGITS = _PROJECT / "examples/digits/res8_4bit/model_best.pth.tar"
_RUNNER = Path(__file__).with_name("run.py")
_SECONDS = 600

NETWORKS: dict[str, tuple[Path | str, str, str | None, int]] = {
    "digits": (_DIGITS, "digits", None, 64),
    "res20_2bit": (
        "CIFAR10/result/res20_2bit/model_best.pth.tar",
        "cifar10",
        "cifar10-test-head",
        32,
    ),
    "res20_4bit": (
        "CIFAR10/result/res20_4bit/model_best.pth.tar",
        "cifar10",
        "cifar10-test-head",
        32,
    ),
    "lenet5": ("ALQ/lenet5_model.pth", "mnist", "", 64),
    "res18": ("ImageNet/res18_4bit.pth.tar", "imagenet", "imagenet-sample", 4),
}
"""Checkpoint, dataset, its folder, images."""

TARGETS: dict[str, dict[str, Any]] = {
    "portable": {},
    "cpu": {"target": "cpu"},
    "cuda": {"target": "cuda"},
    "openvino": {"target": "openvino"},
    "plain": {"target": "plain"},
    "plain batch 1": {"target": "plain", "batch": 1},
    "integer": {"integer": IntegerChoices(fraction_bits=12)},
    "plain integer": {"integer": IntegerChoices(fraction_bits=12), "target": "plain"},
}
_TERMS: dict[str, dict[str, Any]] = {"lenet5": {"alpha_terms": 3}}
"""Coordinates of multi-bit weights are floats, which no integer network has, unless made terms."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A file, its images, and the outputs of the default file in this ONNX Runtime."""

    model: Path
    observed: Path
    """The same with all integers as outputs."""
    images: Path
    """float32 [N, C, H, W]."""
    expected: dict[str, NDArray[Any]]
    """Logits and integers, by name."""
    network: CodedNetwork

    @classmethod
    def prepared(cls, network: str, target: str, folder: Path) -> Case:
        """Convert a network below a folder and compute what is expected."""
        checkpoint, dataset, images_below, count = NETWORKS[network]
        file = INTEGER_MODEL if "integer" in TARGETS[target] else ONNX_MODEL
        base = folder / network
        chosen, default = TARGETS[target], TARGETS["portable"]
        terms: dict[str, Any] = {}
        if "integer" in chosen:
            default, terms = TARGETS["integer"], _TERMS.get(network, {})
        exports = {name: base / name.replace(" ", "-") for name in ("default", target)}
        results = {
            name: convert(
                _REFERENCE / "checkpoints" / checkpoint, path, force=True, **terms, **options
            )
            for (name, path), options in zip(exports.items(), (default, chosen), strict=True)
        }
        parsed = onnx.load(exports[target] / file)
        shape = [size.dim_value for size in parsed.graph.input[0].type.tensor_type.shape.dim][1:]
        classes = parsed.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        data = None if images_below is None else _REFERENCE / "datasets" / images_below
        preprocessing = families.by_name(results[target].family).preprocessing
        opened = open_dataset(
            dataset, input_shape=shape, classes=classes, data=data, preprocessing=preprocessing
        ).first(count)
        images, _ = next(opened.batches(count))
        np.save(base / "images.npy", images)
        reference = onnx.load(exports["default"] / file)
        expected = open_session(with_outputs(reference, _integers(reference)), "cpu").run_all(
            images
        )
        observed = exports[target].with_suffix(".observed.onnx")
        observed.write_bytes(with_outputs(parsed, _integers(parsed) & set(expected)))
        return cls(
            model=exports[target] / file,
            observed=observed,
            images=base / "images.npy",
            expected=expected,
            network=load_packed(exports[target]).network,
        )

    def outcome(self, client: Client, root: Path) -> dict[str, Any]:
        """Return what one client makes of it.

        Returns:
            `loads` and `runs`. Where it runs: `top1`, the images on which it names the expected
            class, of `images`; `difference`, the largest of a logit; `levels`, the share of the
            expected ones; `sums`, the share that its own levels make (both None where there are
            none, or the client cannot show them). Else `breaks`, its message.
        """
        try:
            found, loads = self._run(client, root, self.model)
        except _BreaksError as error:
            return {"loads": error.loads, "runs": False, "breaks": str(error)}
        logits, expected = (
            values["logits"].astype(np.float64) for values in (found, self.expected)
        )
        result: dict[str, Any] = {
            "loads": loads,
            "runs": True,
            "images": len(expected),
            "top1": int((logits.argmax(1) == expected.argmax(1)).sum()),
            "difference": float(np.abs(logits - expected).max()),
            "levels": None,
            "sums": None,
        }
        try:
            inner, _ = self._run(client, root, self.observed)
        except _BreaksError as error:
            return {**result, "shows_no_integers": str(error)}
        levels, sums = [], []
        for node in self.network.nodes:
            if node.name in inner and node.inputs[0] in inner:
                own = inner[node.inputs[0]]
                levels.append(own == self.expected[node.inputs[0]])
                sums.append(inner[node.name] == _sums(self.network, node, own))
        return {**result, "levels": _share(levels), "sums": _share(sums)}

    def _run(self, client: Client, root: Path, model: Path) -> tuple[dict[str, NDArray[Any]], bool]:
        with tempfile.TemporaryDirectory() as folder:
            outputs = Path(folder) / "outputs.npz"
            command = [client.interpreter(root), _RUNNER, client.runs, model, self.images, outputs]
            try:
                done = subprocess.run(
                    [*map(str, command)],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_SECONDS,
                    cwd=client.working_folder(root),
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            except subprocess.TimeoutExpired:
                raise _BreaksError(f"no result in {_SECONDS} s", loads=False) from None
            loads = "loaded" in done.stdout
            if not outputs.exists():
                raise _BreaksError(_reason(done), loads=loads)
            with np.load(outputs) as arrays:
                prefix = "output "
                return {name.removeprefix(prefix): arrays[name] for name in arrays.files}, loads


class _BreaksError(Exception):
    """A client could not load or run a model."""

    def __init__(self, reason: str, *, loads: bool) -> None:
        super().__init__(reason)
        self.loads = loads


def _integers(model: onnx.ModelProto) -> set[str]:
    """Return the levels and the sums of quantized layers, by the names of their values."""
    values = {value.name for value in model.graph.value_info}
    quantized = {name.removesuffix(".levels") for name in values if name.endswith(".levels")}
    return {f"{layer}.{kind}" for layer in quantized for kind in ("levels", "sums")} & values


def _sums(network: CodedNetwork, node: Node, levels: NDArray[Any]) -> NDArray[Any]:
    """Return the integers that a quantized layer makes of levels."""
    assert isinstance(node.operation, (operations.Convolution, operations.Linear))
    layer = network.layers[node.operation.layer]
    assert isinstance(layer, CodedLayer)
    weights, image = layer.levels().astype(np.float64), levels.astype(np.float64)
    if isinstance(node.operation, operations.Linear):
        return np.asarray(image @ weights.T)
    return convolve(node.operation, image, weights, lambda rows, chosen: rows @ chosen.T)


def _share(equal: list[NDArray[np.bool_]]) -> float | None:
    """Return the share of true values; None where there are none."""
    return float(np.concatenate([values.ravel() for values in equal]).mean()) if equal else None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line of a client's output that says most."""
    said = (done.stdout + done.stderr).partition("Stack backtrace")[0]
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "panicked" in line]
    return (telling or lines or [f"exit code {done.returncode}"])[-1][:300]
