"""Reports of verifications that never ran: one that passes, and one in which everything fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apot_export.datasets.significance import mcnemar, wilson_interval
from apot_export.network.comparison import AccumulatorComparison
from apot_export.runtimes.exactness import Exactness
from apot_export.verification.report import (
    BackendComparison,
    ComparedSide,
    Divergence,
    FlippedImage,
    Flips,
    LayerLevels,
    LevelComparison,
    Report,
    Side,
    SkippedImage,
    WeightCertificate,
    Yardstick,
)

_SEARCH = "cudnn_conv_algo_search"
_REFUSED = Exactness(
    shapes=11,
    integers=5_107_712,
    largest_error=0.14,
    algorithm={_SEARCH: "EXHAUSTIVE", "cudnn_conv_use_max_workspace": "0"},
    refused={"HEURISTIC": "12 of 3,584 integers of layer1.0.conv1 differ"},
)
_WRONG = Exactness(shapes=11, algorithm={_SEARCH: "DEFAULT"}, wrong="sums of fc err by 87.0 times")

SCRIPT = "<script>document.title='hacked'</script>"
HANDLER = '"><img src=x onerror="document.title=\'hacked\'">'
REVERSED = "cat\u202egnp.exe\n\udcff"
CLOSING = "</title></style></svg></table><h1>PASS</h1>&amp;"


def side(top1: int, top5: int, images: int, speed: float) -> Side:
    return Side(
        top1=top1 / images,
        top1_hits=top1,
        top1_interval=wilson_interval(top1, images),
        top5=top5 / images,
        top5_hits=top5,
        images_per_second=speed,
    )


def flips(original_only: int, export_only: int) -> Flips:
    return Flips(
        original_only=original_only,
        export_only=export_only,
        probability=mcnemar(original_only, export_only),
    )


def layer(name: str, compared: int, distances: tuple[int, ...], largest: float) -> LayerLevels:
    return LayerLevels(
        layer=name,
        compared=compared,
        differing=sum(distances),
        unexplained=distances[-1],
        distances=distances,
        largest_distance=largest,
    )


def comparison(layers: list[LayerLevels], **others: float | tuple[str, ...]) -> LevelComparison:
    return LevelComparison(
        compared=sum(each.compared for each in layers),
        differing=sum(each.differing for each in layers),
        unexplained=sum(each.unexplained for each in layers),
        layers=tuple(layers),
        **others,  # type: ignore[arg-type]
    )


# --- one that passes ------------------------------------------------------------------------------


def passing() -> Report:
    """Return the report of a 4-bit ResNet-20, with few differences, all of them explained."""
    images = 761
    few = {"layer1.0.conv2": (1, 0, 0, 0, 0), "layer2.1.conv1": (2, 1, 0, 0, 0)}
    few |= {"layer3.2.conv2": (1, 0, 1, 1, 0)}
    layers = [
        layer(
            name,
            64 * size,
            few.get(name, (0, 0, 0, 0, 0)),
            {"layer1.0.conv2": 0.031, "layer3.2.conv2": 0.71, "layer2.1.conv1": 0.2}.get(name, 0.0),
        )
        for name, size in _resnet20()
    ]
    return Report(
        path=Path("exports/res20_4bit"),
        dataset="cifar10",
        dataset_root="datasets/cifar10-test-head",
        images=images,
        skipped=(),
        data_sha256="5f" * 32,
        date="2026-03-14T15:09:26+00:00",
        original=side(708, 760, images, 68.1),
        sides=(
            ComparedSide(
                name="ort-cpu",
                side=side(708, 760, images, 737.4),
                agreement=1.0,
                flips=flips(0, 0),
                largest_logit_difference=1.0619797,
                mean_logit_difference=0.0213709,
                logit_differences=(312, 2811, 1936, 43, 12, 107, 1003, 1297, 88, 1, 0),
            ),
            ComparedSide(
                name="oracle",
                side=side(707, 760, images, 0.412),
                agreement=760 / 761,
                flips=flips(1, 0),
                largest_logit_difference=1.5,
                mean_logit_difference=0.02,
                logit_differences=(0,) * 11,
            ),
        ),
        yardsticks=(
            Yardstick(name="convolution algorithm", images=761, agreeing=756),
            Yardstick(name="batch size", images=761, agreeing=760),
        ),
        flipped=(),
        weights=WeightCertificate(layers=22, exact=22, weights=270896, offenders=()),
        levels=comparison(
            layers,
            images=64,
            values_compared=30_417_536,
            values_outside=0,
            largest_ratio=0.09614925610994093,
            offenders=(),
        ),
        accumulators=AccumulatorComparison(
            images=2,
            compared=786_432,
            mismatches=0,
            offenders=(),
            values_compared=983_336,
            values_outside=0,
        ),
        placement={"CPUExecutionProvider": 412},
        exactness={"ort-cpu": Exactness(shapes=9, integers=106_496, largest_error=0.023)},
        provider="CPUExecutionProvider",
        settings={
            "apot_export": "0.1.0",
            "device": "cpu",
            "batch_size": 100,
            "bits": 4,
            "method": "apot",
            "family": "apot-v1",
            "alpha_terms": 0,
            "unsigned_zeros": False,
            "architecture": "ResNet-20 (CIFAR)",
            "assumptions": [
                {"what": "weight bits", "value": 4, "source": "folder name"},
                {"what": "activation bits", "value": 4, "source": "assumption"},
            ],
            "tf32": False,
            "provider_options": {},
        },
        failures=(),
        backends=BackendComparison(
            names=("numpy", "ort-cpu", "c"),
            images=761,
            random_images=8,
            differing={"ort-cpu": 0, "c": 0},
            first_difference={},
            top1=0.9304,
            fraction_bits=16,
        ),
    )


def _resnet20() -> Iterator[tuple[str, int]]:
    channels, side_length = 16, 32
    for stage in (1, 2, 3):
        for block in range(3):
            first = stage > 1 and block == 0
            before = channels * side_length**2 * (2 if first else 1)
            yield f"layer{stage}.{block}.conv1", before
            yield f"layer{stage}.{block}.conv2", channels * side_length**2
            if first:
                yield f"layer{stage}.{block}.downsample.0", before
        channels, side_length = 2 * channels, side_length // 2


# --- one that fails -------------------------------------------------------------------------------


def failing() -> Report:
    """Return the report of a ResNet-50 that is wrong everywhere, with names that mean mischief."""
    images = 49_997
    layers = _deep_layers()
    return Report(
        path=Path("exports") / CLOSING.replace("/", "\N{DIVISION SLASH}"),
        dataset="imagenet",
        dataset_root=f"datasets/{SCRIPT}",
        images=images,
        skipped=(
            SkippedImage(name=f"val/{SCRIPT}.png", reason=f"cannot identify image {HANDLER}"),
            SkippedImage(name=REVERSED, reason="truncated after 1,024 of 110,527 bytes"),
            SkippedImage(name="n01440764/" + "x" * 180 + ".JPEG", reason="no pixels"),
        ),
        data_sha256="a0" * 32,
        date="2026-03-14T15:09:26+00:00",
        original=side(37_811, 46_250, images, 1911.7),
        sides=(
            ComparedSide(
                name="ort-cuda",
                side=side(36_900, 45_811, images, 2733.2),
                agreement=0.9312,
                flips=flips(1402, 491),
                largest_logit_difference=148.2,
                mean_logit_difference=0.731,
                logit_differences=(
                    *(812, 12_044, 98_112, 310_245, 1_004_511, 9_904_114),
                    *(29_481_001, 8_893_104, 292_011, 1_033, 13),
                ),
            ),
        ),
        yardsticks=(
            Yardstick(name="convolution algorithm", images=1000, agreeing=991),
            Yardstick(name="TF32", images=1000, agreeing=962),
        ),
        flipped=tuple(_flipped()),
        weights=WeightCertificate(
            layers=54,
            exact=53,
            weights=25_502_912,
            offenders=(
                "layer3.0.conv1: 131,072 of 131,072 weights differ, first at [0, 0, 0, 0]: "
                f"0.1875 instead of 0.375 {SCRIPT}",
            ),
        ),
        levels=comparison(
            layers,
            images=1,
            values_compared=11_113_984,
            values_outside=2_408,
            largest_ratio=37.25,
            offenders=("layer3.0.conv1: 4,011 of 401,408 levels differ without a decision point",),
        ),
        accumulators=AccumulatorComparison(
            images=1,
            compared=9_608_704,
            mismatches=12,
            offenders=("layer3.0.conv1: 12 of 200,704 integers differ",),
            values_compared=1_505_280,
            values_outside=3,
        ),
        placement={"CUDAExecutionProvider": 1_204, "CPUExecutionProvider": 17},
        exactness={"ort-cuda": _WRONG, "ort-cpu": _REFUSED},
        provider="CUDAExecutionProvider",
        settings={
            "apot_export": "0.1.0",
            "device": "cuda",
            "bits": 4,
            "method": "apot",
            "family": "apot-v2",
            "architecture": "ResNet-50 (ImageNet)",
            "tf32": True,
            "provider_options": {"device_id": "0", "use_tf32": "0"},
            SCRIPT: HANDLER,
            "assumptions": [{"what": SCRIPT, "value": HANDLER, "source": REVERSED}, 7],
        },
        failures=(
            f"1 of 54 layers have other weights than the original: {SCRIPT}",
            "4,011 levels and 2,408 values differ by more than float rounding",
            "the export agrees with the original on 93.12% of the images, the original with itself "
            "on 99.10%",
        ),
        divergence=Divergence(
            layer=f"layer3.0.conv1{SCRIPT}",
            kind="weights",
            place=(0, 0, 0, 0),
            channel=0,
            original=0.375,
            export=0.1875,
            cause="wrong bits",
            evidence=f"the export's codes are those of 3 bits {HANDLER}",
        ),
        backends=BackendComparison(
            names=("numpy", "c"),
            images=images,
            random_images=8,
            differing={"c": 3},
            first_difference={"c": f"logits[17, 3]: 1093 instead of 1094 {SCRIPT}"},
            top1=0.7381,
            fraction_bits=12,
        ),
    )


def _deep_layers() -> list[LayerLevels]:
    found = []
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            names = ["conv1", "conv2", "conv3"] + ["downsample.0"] * (block == 0)
            for place, name in enumerate(names):
                size = 802_816 // 2 ** (stage - 1)
                distances = ((stage * block + place) % 5, place, block % 2, 0, 0)
                largest = 0.45 if any(distances) else 0.0
                full = f"layer{stage}.{block}.{name}"
                if full == "layer3.0.conv1":
                    distances, largest = (12, 7, 5, 3, 4011), 5120.0
                found.append(layer(full, size, distances, largest))
    return found


def _flipped() -> Iterator[FlippedImage]:
    rows, columns = np.mgrid[0:224, 0:224]
    photo = np.stack([rows, columns, (rows * columns) // 224], axis=2).astype(np.uint8)
    pictures: tuple[tuple[str, NDArray[np.uint8]], ...] = (
        (f"{SCRIPT}.png", photo),
        (HANDLER, photo[:32, :32] * 7),
        (REVERSED, photo[100:128, 100:128, :1]),
        ("n01440764/ILSVRC2012_val_00000293.JPEG", photo[::-1, :160]),
        ("n02102040/" + "long" * 20 + ".JPEG", photo[:, ::-1]),
    )
    for name, pixels in pictures:
        yield FlippedImage(
            name=name,
            label="tench, Tinca tinca",
            original="tench, Tinca tinca",
            export=f"goldfish {SCRIPT}",
            pixels=pixels,
        )
