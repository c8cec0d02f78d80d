"""The differences of one value of the original: weights first, then constants, then what it does.

The ONNX model is held to the original, and so is the packed file, from the model's own inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export.network import CodedLayer, CodedNetwork, Layer, Node, PlaneLayer, oracle
from apot_export.original.quantized_layers import QuantConv2d, QuantizedLayer
from apot_export.verification.diagnosis.differences import (
    BOTH,
    MODEL,
    PACKED,
    Array,
    ConstantDifference,
    Difference,
    LayerRun,
    LevelDifference,
    ValueDifference,
    WeightDifference,
    outside,
)
from apot_export.verification.proof.certificate import (
    plane_rounding,
    step_error,
    weight_threshold,
    wrong_attributes,
)
from apot_export.verification.proof.forced import LOGITS, Step, dequantized, exact, level_range
from apot_export.verification.proof.rounding import Bounded, bounded_layer

_PACKED_IMAGES = 2
"""Images that the packed file's slow oracle computes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """Both artifacts, and what the ONNX model computed."""

    packed: CodedNetwork
    weights: Mapping[str, Array]
    """What the ONNX model decodes by layer: integer levels, or float weights."""
    attributes: Mapping[str, Mapping[str, Any]]
    """What the ONNX model's nodes say of themselves, by value."""
    images: NDArray[np.float32]
    values: Mapping[str, Array]
    """Every value of the ONNX graph on these images, by name."""

    @cached_property
    def _nodes(self) -> dict[str, Node]:
        return {self._name(node.name): node for node in self.packed.nodes}

    def _name(self, value: str) -> str:
        return LOGITS if value == self.packed.output else value

    def of_packed(self, name: str, limit: int | None = _PACKED_IMAGES) -> Array | None:
        """Compute a value with the packed file from the model's inputs of it, for some images.

        Returns:
            float32, or int64 levels and sums; None where the packed file has no such value, or the
            model not what it is made of.
        """
        node = self._nodes.get(name)
        if node is None:
            return None
        inputs = []
        for source in node.inputs:
            value = self.images if source == self.packed.input else None
            value = self.values.get(self._name(source)) if value is None else value
            if value is None or value.shape[1:] != self.packed.shapes[source]:
                return None
            inputs.append(value[:limit] if value.dtype == np.float32 else _integers(value[:limit]))
        return oracle.compute(self.packed, node, inputs)

    def both(self, name: str) -> Iterator[tuple[str, Array | None]]:
        """Yield a value as each artifact has it; the packed file for a few images only."""
        yield MODEL, self.values.get(name)
        if name in self.values:
            yield PACKED, self.of_packed(name)


def differences(step: Step, export: Export) -> Iterator[Difference]:
    """Yield what differs at a step beyond what is allowed, first things first."""
    module = step.module
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        run = _layer_run(step, module, export)
        yield from _weights(step, run, export)
        yield from _constants(step, module, export)
        if isinstance(module, QuantConv2d):
            yield from _levels(step, module, export)
        yield from _sums(step, run, export)
        yield from _values(step, run, export)
    elif step.source is not None and isinstance(step.source.module, (nn.Conv2d, nn.Linear)):
        yield from _values(step, _layer_run(step.source, step.source.module, export), export)
    else:
        yield from _values(step, None, export)


def _layer_run(step: Step, module: nn.Conv2d | nn.Linear, export: Export) -> LayerRun:
    operand = step.operand
    levels = export.values.get(f"{step.inner}.levels")
    fits = levels is not None and levels.shape == tuple(operand.value.shape)
    if isinstance(module, QuantConv2d) and levels is not None and fits:
        operand = exact(dequantized(module, levels))
    return LayerRun(
        module=module,
        norm=step.norm,
        operand=operand,
        sums=export.values.get(f"{step.inner}.sums"),
        result=export.values.get(step.result),
    )


def _integers(array: Array) -> NDArray[np.int64]:
    return array.astype(np.int64)


# --- weights and constants ------------------------------------------------------------------------


def _weights(step: Step, run: LayerRun, export: Export) -> Iterator[Difference]:
    module = run.module
    weight = module.quantized_weight() if isinstance(module, QuantizedLayer) else module.weight
    expected = weight.detach().numpy()
    layer = export.packed.layers.get(step.path)
    in_model = export.weights.get(step.path)
    packed = None if layer is None else layer.weights()
    allowed = plane_rounding(layer) if isinstance(layer, PlaneLayer) else None

    def difference(artifact: str, original: Array, got: Array, **more: Any) -> Difference:
        return WeightDifference(
            layer=step.path,
            kind="weights",
            artifact=artifact,
            original=original,
            export=got,
            run=run,
            **more,
        )

    for artifact, got in ((PACKED, packed), (MODEL, in_model)):
        original = expected
        if artifact == MODEL and isinstance(layer, CodedLayer) and got is not None:
            # Once the packed file's weights are the original's, so are its integers.
            levels = layer.levels()
            if got.dtype.kind in "iu" or (got.shape == levels.shape and (got == levels).all()):
                original = levels
        if got is None:
            says = f"the {artifact} has no weights of that name"
            yield difference(artifact, expected, np.zeros(0, dtype=np.float32), says=says)
        elif got.shape != original.shape:
            says = f"weights of shape {list(got.shape)} instead of {list(original.shape)}"
            yield difference(artifact, original, got, says=says)
        else:
            differs = _differing_weights(got, original, allowed)
            if differs.any():
                alike = artifact == PACKED and _alike(layer, in_model)
                yield difference(BOTH if alike else artifact, original, got, differs=differs)


def _alike(layer: Layer | None, in_model: Array | None) -> bool:
    """Tell whether the model decodes just what the packed file holds."""
    if layer is None or in_model is None:
        return False
    held = layer.levels() if isinstance(layer, CodedLayer) else layer.weights()
    return np.array_equal(held, in_model)


def _differing_weights(got: Array, original: Array, allowed: Array | None) -> NDArray[np.bool_]:
    if allowed is not None and allowed.shape == original.shape:
        return np.asarray(~(np.abs(got.astype(np.float64) - original) <= allowed))
    if got.dtype == original.dtype == np.float32:
        # Bit for bit: the sign of a zero counts.
        return np.asarray(got.view(np.uint32) != original.view(np.uint32))
    return np.asarray(got != original)


def _constants(step: Step, module: nn.Module, export: Export) -> Iterator[Difference]:
    layer = export.packed.layers[step.path]
    quantizer = layer.activation if isinstance(layer, CodedLayer) else None

    def difference(says: str, original: float | None, got: float | None) -> Difference:
        return ConstantDifference(
            layer=step.path,
            kind="constants",
            artifact=PACKED,
            original=np.array(np.nan if original is None else original),
            export=np.array(np.nan if got is None else got),
            says=says,
            module=module,
            quantizer=quantizer,
        )

    if isinstance(layer, CodedLayer):
        true_step = step_error(layer)
        if true_step is not None:
            yield difference("the weights are no multiples of their step", true_step, layer.step)
        if layer.alpha != weight_threshold(module):
            yield difference("another weight threshold", weight_threshold(module), layer.alpha)
    threshold = float(module.act_alpha) if isinstance(module, QuantConv2d) else None
    got = None if quantizer is None else float(quantizer.alpha)
    if threshold != got:
        yield difference("another activation threshold", threshold, got)
    if isinstance(module, QuantConv2d) and quantizer is not None and threshold is not None:
        denominator, steps = module.activation_denominator(), module.input_denominator()
        if denominator != quantizer.codebook.denominator:
            original_step = threshold / denominator
            yield difference("another step of the activations", original_step, quantizer.step)
        if steps != quantizer.input_steps:
            says = "another number of input steps up to the activation threshold"
            yield difference(says, steps, quantizer.input_steps)


def attribute_differences(module: nn.Module, export: Export) -> Iterator[Difference]:
    """Yield what the ONNX model says of its codes and does not hold: it computes the right values.

    A runtime with operators of its own would believe it.
    """
    for name in export.packed.layers:
        for wrong in wrong_attributes(export.packed, name, export.attributes):
            yield ConstantDifference(
                layer=name,
                kind="constants",
                artifact=MODEL,
                original=np.array(np.nan if wrong.expected is None else wrong.expected),
                export=np.array(np.nan if wrong.got is None else wrong.got),
                says=wrong.says,
                module=module.get_submodule(name),
                quantizer=None,
            )


# --- levels ---------------------------------------------------------------------------------------


def _levels(step: Step, module: QuantConv2d, export: Export) -> Iterator[Difference]:
    name = f"{step.inner}.levels"
    around = level_range(module, step.operand)
    original = around.levels.numpy().astype(np.int64)

    def difference(artifact: str, got: Array, **more: Any) -> Difference:
        return LevelDifference(
            layer=step.path,
            kind="levels",
            artifact=artifact,
            original=original,
            export=got,
            module=module,
            operand=step.operand,
            around=around,
            **more,
        )

    found: dict[str, Array] = {}
    for artifact, got in (
        (MODEL, export.values.get(name)),
        (PACKED, export.of_packed(name, limit=None)),
    ):
        if got is None:
            says = f"the {artifact} has no levels of that name"
            yield difference(artifact, np.zeros(0, dtype=np.int64), says=says)
        elif got.shape != original.shape:
            yield difference(artifact, got, says=f"levels of shape {list(got.shape)}")
        else:
            found[artifact] = _integers(got)
            low, high = around.lowest.numpy(), around.highest.numpy()
            differs = (found[artifact] < low) | (found[artifact] > high)
            if differs.any():
                yield difference(artifact, found[artifact], differs=differs)
    if len(found) > 1 and (found[MODEL] != found[PACKED]).any():
        # Both are within rounding, but from one input they must be the same integers.
        apart = found[MODEL] != found[PACKED]
        artifact = MODEL if (apart & (found[MODEL] != original)).any() else PACKED
        differs = apart & (found[artifact] != original)
        says = "within rounding, but the packed file and the ONNX model are not alike"
        yield difference(artifact, found[artifact], differs=differs, says=says)


# --- sums and values ------------------------------------------------------------------------------


def _sums(step: Step, run: LayerRun, export: Export) -> Iterator[Difference]:
    """Compare what a layer sums up before it is scaled; its weights are right by now."""
    name, quantized = f"{step.inner}.sums", isinstance(run.module, QuantConv2d)
    if run.sums is None:
        yield ValueDifference(
            layer=step.path,
            kind="integers" if quantized else "values",
            artifact=MODEL,
            original=np.zeros(0),
            export=np.zeros(0),
            says=f"the {MODEL} has no sums of that name",
            allowed=np.zeros(0),
            run=run,
        )
        return
    weights = torch.from_numpy(export.weights[step.path].astype(np.float32))
    layer = summing_layer(run.module, weights)
    operand = run.operand
    if quantized:
        # Integers below 2^53: float64 sums them exactly.
        layer = layer.double()
        operand = exact(torch.from_numpy(_integers(export.values[f"{step.inner}.levels"])).double())
        computed = exact(layer(operand.value))
    else:
        computed = bounded_layer(layer, operand.value, operand.bound)
    bare = LayerRun(module=layer, norm=None, operand=operand, sums=run.sums, result=run.sums)
    for artifact, got in export.both(name):
        yield from _compared(step.path, artifact, computed, got, bare, whole=quantized)


def summing_layer(module: nn.Conv2d | nn.Linear, weights: torch.Tensor) -> nn.Conv2d | nn.Linear:
    """Return a plain layer of given weights without bias, float32."""
    made: nn.Conv2d | nn.Linear
    if isinstance(module, nn.Conv2d):
        made = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            (module.kernel_size[0], module.kernel_size[1]),
            (module.stride[0], module.stride[1]),
            module.padding if isinstance(module.padding, str) else tuple(module.padding),  # type: ignore[arg-type]
            (module.dilation[0], module.dilation[1]),
            module.groups,
            bias=False,
        )
    else:
        made = nn.Linear(module.in_features, module.out_features, bias=False)
    made.weight = nn.Parameter(weights, requires_grad=False)
    return made


def _values(step: Step, run: LayerRun | None, export: Export) -> Iterator[Difference]:
    if step.name not in export.values:
        return
    for artifact, got in export.both(step.name):
        yield from _compared(step.path or step.name, artifact, step.computed, got, run, whole=False)


def _compared(
    layer: str,
    artifact: str,
    computed: Bounded,
    got: Array | None,
    run: LayerRun | None,
    *,
    whole: bool,
) -> Iterator[Difference]:
    original = computed.value.detach().numpy()
    shown = np.zeros(0) if got is None else got
    more: dict[str, Any] = {}
    if got is None:
        more["says"] = f"the {artifact} does not compute such a value"
    elif got.shape[1:] != original.shape[1:]:
        more["says"] = f"shape {list(got.shape[1:])} instead of {list(original.shape[1:])}"
    elif whole and got.dtype.kind not in "iu":
        more["says"] = f"sums of type {got.dtype} instead of integers"
    else:
        original = original[: len(got)]
        computed = Bounded(computed.value[: len(got)], computed.bound[: len(got)])
        more["differs"] = outside(computed, got)
        if not more["differs"].any():
            return
    yield ValueDifference(
        layer=layer,
        kind="integers" if whole else "values",
        artifact=artifact,
        original=original,
        export=shown,
        allowed=2 * computed.bound.double().detach().numpy(),
        run=run,
        **more,
    )
