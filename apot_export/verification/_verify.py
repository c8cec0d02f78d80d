"""The verdict: original, ONNX Runtime and oracle on the same images."""

from __future__ import annotations

import math
import platform
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from apot_export._version import VERSION
from apot_export.datasets import Dataset, kind_of
from apot_export.errors import DatasetError, DeviceError, ExportError
from apot_export.executors import torch_executor, twin_executor
from apot_export.export_directory import ONNX_MODEL, PACKED_MODEL, check_files, read_manifest
from apot_export.network import CodedNetwork
from apot_export.original import Original
from apot_export.packfile import load_packed
from apot_export.runtime import Placement, measure_placement, open_session
from apot_export.verification._accuracy import Measured, Progress, measure
from apot_export.verification._backends import compare_backends, parse_backends
from apot_export.verification._certificate import certify_weights
from apot_export.verification._instrument import (
    by_layer,
    decoder_model,
    float_weights,
    parse_model,
    with_outputs,
)
from apot_export.verification._levels import compare_levels
from apot_export.verification._oracle import compare_oracle
from apot_export.verification._rebuild import rebuild_original
from apot_export.verification._report import (
    AccumulatorComparison,
    BackendComparison,
    LevelComparison,
    Report,
    WeightCertificate,
)

_BATCH_PIXELS = 100 * 3 * 32 * 32
"""Default batch: as many images as have this many input values, at most 100."""
_LEVEL_PIXELS = 64 * 3 * 32 * 32
"""Images of the level comparison, likewise; at most 64."""
_ORACLE_IMAGES = 2
_DEVICES = ("auto", "cuda", "cpu")


def verify(
    export: str | PathLike[str],
    *,
    dataset: str | None = None,
    data: str | PathLike[str] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    model: str | None = None,
    original: nn.Module | None = None,
    device: str = "auto",
    limit: int | None = None,
    batch_size: int | None = None,
    backends: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify an export against the PyTorch original.

    Args:
        export: The export directory.
        dataset: "cifar10", "cifar100", "mnist", "imagenet" or "digits"; None for the one that
            fits the network.
        data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.
        checkpoint: The checkpoint; None for where the manifest says it was.
        model: Factory of a network of the user's own, which is imported and called; needed again
            where the export was made with one, so that no code runs unasked.
        original: The network itself, where the export was made from one.
        device: "auto", "cuda" or "cpu", for both sides.
        limit: Use this many images, spread evenly over the dataset.
        batch_size: Images per batch; None for a size that fits the image.
        backends: Of numpy, ort-cpu, ort-cuda and c, separated by commas: run the integer network on
            these and compare every bit of its logits; None: leave it alone.
        progress: Called with (what, done, total).

    Raises:
        ApotExportError: The verification could not run. A difference is no error: see the report.
    """
    compared = None if backends is None else parse_backends(backends)
    directory = Path(export)
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    packed = load_packed(directory / PACKED_MODEL).network
    model_bytes = (directory / ONNX_MODEL).read_bytes()
    graph = parse_model(model_bytes)
    source = rebuild_original(directory, manifest, checkpoint, model, original)
    images = _dataset(packed, source.dialect.name, dataset, data).first(limit)
    chosen = _device(device)
    pixels = math.prod(packed.input_shape)
    size = batch_size or max(1, min(100, _BATCH_PIXELS // pixels))

    weights = certify_weights(source.module, packed, _model_weights(graph))
    few = max(1, min(64, _LEVEL_PIXELS // pixels, len(images)))
    sample, _ = next(images.first(few).batches(few))
    report = progress or (lambda _what, _done, _total: None)
    report("levels", 0, 1)
    exported = open_session(with_outputs(graph), chosen).run_all(sample)
    levels = compare_levels(source.module, sample, exported)
    accumulators = compare_oracle(packed, sample[:_ORACLE_IMAGES], exported)
    report("levels", 1, 1)

    placement = measure_placement(model_bytes, chosen, sample[:1])
    session = open_session(model_bytes, chosen)
    module = source.module.to(chosen)
    measured = measure(
        images,
        size,
        torch_executor(module, chosen),
        twin_executor(module, chosen),
        session.run,
        report,
    )
    integers = (
        None
        if compared is None
        else compare_backends(directory, manifest, packed, compared, images, size, report)
    )
    return Report(
        path=directory,
        dataset=images.name,
        dataset_root=images.root,
        images=measured.images,
        original=measured.original.side(measured.images),
        export=measured.export.side(measured.images),
        flips=measured.flips(),
        agreement=measured.agreement,
        self_agreement=measured.self_agreement,
        self_agreement_images=measured.self_images,
        largest_logit_difference=measured.largest_difference,
        mean_logit_difference=measured.difference_sum / measured.logits,
        weights=weights,
        levels=levels,
        accumulators=accumulators,
        provider=placement.provider(),
        settings=_settings(chosen, size, session.options, source),
        failures=(
            *_failures(weights, levels, accumulators, placement, session.provider, measured),
            *_backend_failures(integers),
        ),
        backends=integers,
    )


# --- what is compared -----------------------------------------------------------------------------


def _dataset(
    network: CodedNetwork,
    family: str,
    name: str | None,
    data: str | PathLike[str] | None,
) -> Dataset:
    classes = network.shapes[network.output][0]
    kind = kind_of(name, network.input_shape, classes)
    images = kind.open(None if data is None else Path(data), family)
    if len(images) == 0:
        raise DatasetError("The dataset holds no images.", where=images.root)
    return images


def _device(device: str) -> str:
    if device not in _DEVICES:
        raise DeviceError("There is no such device.", expected=", ".join(_DEVICES), got=device)
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            "CUDA was asked for, but PyTorch sees no CUDA device.",
            expected="a GPU and its driver",
            got="torch.cuda.is_available() is false",
            fix="run where a GPU is, or use --device cpu",
        )
    # TF32 would make both sides' float layers differ far beyond float32 rounding.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def _model_weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Decode the ONNX model's weights with ONNX Runtime: what the runtime itself will use."""
    try:
        weights: dict[str, NDArray[Any]] = dict(float_weights(model))
        decoders = decoder_model(model)
    except (LookupError, TypeError, ValueError) as error:
        raise ExportError(
            "The ONNX model does not hold what an export's model holds.",
            got=f"{type(error).__name__}: {error}",
            fix="convert the checkpoint again",
        ) from error
    if decoders is not None:
        weights |= by_layer(open_session(decoders, "cpu").run_all())
    return weights


# --- the verdict ----------------------------------------------------------------------------------


def _failures(
    weights: WeightCertificate,
    levels: LevelComparison,
    accumulators: AccumulatorComparison,
    placement: Placement,
    provider: str,
    measured: Measured,
) -> list[str]:
    failures = []
    if weights.exact != weights.layers or weights.offenders:
        failures.append(
            f"{weights.layers - weights.exact} of {weights.layers} layers have other weights "
            f"than the original: {'; '.join(weights.offenders)}"
        )
    if levels.unexplained or levels.values_outside:
        failures.append(
            f"{levels.unexplained} levels and {levels.values_outside} values differ by more than "
            f"float rounding: {'; '.join(levels.offenders)}"
        )
    if accumulators.mismatches or accumulators.values_outside:
        failures.append(
            f"{accumulators.mismatches} integers and {accumulators.values_outside} values differ "
            f"from the oracle's: {'; '.join(accumulators.offenders)}"
        )
    strays = placement.strays(provider)
    if strays:
        failures.append(f"{len(strays)} nodes did not run on {provider}: {', '.join(strays[:5])}")
    shortfall = measured.self_agreement - measured.agreement
    if shortfall > _sampling_noise(measured):
        failures.append(
            f"the export agrees with the original on {measured.agreement:.2%} of the images, the "
            f"original with itself on {measured.self_agreement:.2%}"
        )
    return failures


def _backend_failures(found: BackendComparison | None) -> list[str]:
    if found is None:
        return []
    return [
        f"the integer network's logits on {name} differ from those on {found.names[0]} for {count} "
        f"images, first at {found.first_difference[name]}"
        for name, count in found.differing.items()
        if count
    ]


def _sampling_noise(measured: Measured) -> float:
    """Return how far two agreements may differ by chance: four standard errors and an image."""
    images = min(measured.images, measured.self_images)
    rate = (measured.self_agreeing + 1) / (measured.self_images + 2)
    return 4 * math.sqrt(2 * rate * (1 - rate) / images) + 1 / images


def _settings(device: str, batch_size: int, options: Any, original: Original) -> dict[str, Any]:
    import onnxruntime
    import torchvision

    settings: dict[str, Any] = {
        "apot_export": VERSION,
        "device": device,
        "batch_size": batch_size,
        "bits": original.quantization.weight_bits,
        "method": original.quantization.method,
        "family": original.dialect.name,
        "alpha_terms": original.alpha_terms,
        "architecture": original.architecture.name,
        "tf32": False,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__,
        "provider_options": dict(options),
        "python": platform.python_version(),
    }
    if device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    return settings
