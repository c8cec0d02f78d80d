"""The README of an export, and the picture that it classifies."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apot_export.artifacts.directory import (
    INTEGER_MODEL,
    MANIFEST,
    ONNX_MODEL,
    PACKED_MODEL,
    PICTURE,
    README,
    SAMPLE,
)
from apot_export.artifacts.sample import SYNTHETIC, Sample

_FILES = {
    ONNX_MODEL: "the network for ONNX Runtime",
    INTEGER_MODEL: "the same in integers alone",
    PACKED_MODEL: "its weights as packed codes, with the graph",
    SAMPLE: "inputs, and what they give",
    PICTURE: "the first of these inputs",
    MANIFEST: "what it was made from, the interface, and the digests of the other files",
}
_STORED = b"\x78\x01"
"""Header of a zlib stream that is not compressed."""
_MOST_STORED = 0xFFFF


def readme(
    name: str, facts: Mapping[str, Any], files: Iterable[str], sample: Sample
) -> dict[str, bytes]:
    """Return the README, and the picture where there is one, by the names of their files.

    Args:
        name: Of the export.
        facts: `tool`, `architecture` and `batch` of the model, and `interface`.
        files: Names of the export's other files.
        sample: Its sample.
    """
    interface = facts["interface"]
    preprocessing = interface["preprocessing"]
    made: dict[str, bytes] = {}
    text = _main(name, facts, [*files, MANIFEST, *([PICTURE] if preprocessing else [])], sample)
    if "integer" in interface:
        pixels = interface["integer"]["inputs"][0]["type"] == "uint8"
        read = 'sample["images"].transpose(0, 3, 1, 2)' if pixels else 'sample["inputs"]'
        scale = interface["integer"]["outputs"][0]["scale"]
        text += _template("integer").substitute(inputs=read, scale=scale)
    if preprocessing and sample.images is not None:
        fit = _template("resize").template if preprocessing["resize"] else ""
        synthetic = ", which are noise here" if sample.source == SYNTHETIC else ""
        picture = _template("picture").template.replace("$fit\n", fit)
        text += picture.replace("$synthetic", synthetic)
        white = preprocessing["range"][1]
        made[PICTURE] = png(np.rint(sample.images[0] * (255 / white)).astype(np.uint8))
    return {README: text.encode(), **made}


def _main(name: str, facts: Mapping[str, Any], files: list[str], sample: Sample) -> str:
    interface = facts["interface"]
    values, results = interface["inputs"][0], interface["outputs"][0]
    noise = sample.source == SYNTHETIC
    return _template("readme").substitute(
        name=name,
        architecture=facts["architecture"],
        tool=facts["tool"],
        files="\n".join(f"| `{file}` | {_FILES[file]} |" for file in _FILES if file in files),
        input=values["name"],
        output=results["name"],
        shape=", ".join(map(str, values["shape"])),
        outputs=", ".join(map(str, results["shape"])),
        batch=facts["batch"] or "N",
        meaning=", a score for each class" if interface["classes"] else "",
        preprocessing=_preprocessing(interface["preprocessing"]),
        count=len(sample),
        source="noise, since no images were at hand" if noise else f"images of {sample.source}",
        oracle=0 if sample.oracle_logits is None else len(sample.oracle_logits),
    )


def _preprocessing(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return (
            "How an image becomes the input, and what the outputs mean, whoever trained the "
            "network knows; nothing in it tells."
        )
    fit = ""
    if facts["resize"]:
        height, width = facts["crop"]
        fit = (
            f" of images whose shorter side was brought to {facts['resize']} and whose middle "
            f"{height} x {width} was cut out"
        )
    mean, std = (", ".join(map(str, facts[name])) for name in ("mean", "std"))
    return (
        f"The input is made of the {facts['channels']} pixels{fit}: (pixel / {facts['range'][1]} - "
        f"mean) / std with mean {mean} and std {std}, as for the data set {facts['dataset']}."
    )


def _template(name: str) -> Template:
    folder = resources.files(__package__) / "templates"
    return Template((folder / f"{name}.md").read_text(encoding="utf-8"))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG file, uncompressed: libraries of compression differ in their bytes.

    Args:
        pixels: uint8 [height, width, channels] of 1 or 3 channels.
    """
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    data, stream = rows.tobytes(), _STORED
    for start in range(0, len(data), _MOST_STORED):
        block = data[start : start + _MOST_STORED]
        last = bytes([start + _MOST_STORED >= len(data)])
        size = len(block).to_bytes(2, "little")
        stream += last + size + bytes(255 - octet for octet in size) + block
    stream += zlib.adler32(data).to_bytes(4, "big")
    kind = 2 if channels == 3 else 0  # noqa: PLR2004 - colours, else grey
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, kind, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        for name, body in ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    )
