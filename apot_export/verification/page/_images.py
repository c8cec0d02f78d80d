"""The images on which both sides part, and those that could not be read."""

from __future__ import annotations

from apot_export.verification.page._markup import Column, Markup, joined, section, table, tag
from apot_export.verification.page._numbers import TIMES, plural
from apot_export.verification.page._pictures import data_uri, shrunk
from apot_export.verification.report import FlippedImage, Report

_LARGEST = 128
"""Pixels of a side in the page; larger images would make it heavy."""


def flipped(report: Report) -> Markup:
    """Return the images of which the two sides name different classes."""
    note = (
        "Images of which original and export name different classes, the first few in the order "
        "of the dataset. Worth a look: they should be hard for a person, too."
    )
    if not report.flipped:
        text = f"Both sides name the same class for all {plural(report.images, 'image')}."
        if report.agreement < 1:
            text = "Both sides differ on some images, but none was kept for this page."
        return section("flipped", "Flipped images", note, tag("p", text, class_="summary"))
    content = tag("ul", *(_image(image) for image in report.flipped), class_="flipped")
    return section("flipped", "Flipped images", note, content)


def skipped(report: Report) -> Markup:
    """Return the images that could not be read."""
    note = "Images that could not be read count nowhere on this page."
    if not report.skipped:
        text = tag("p", "No image was skipped.", class_="summary")
        return section("skipped", "Skipped images", note, text)
    columns = (Column(title="Image", number=False), Column(title="Reason", number=False))
    rows = [(tag("code", image.name), image.reason) for image in report.skipped]
    caption = f"{plural(len(report.skipped), 'image')} could not be read"
    return section("skipped", "Skipped images", note, table(caption, columns, rows, tall=True))


def _image(image: FlippedImage) -> Markup:
    height, width = image.pixels.shape[:2]
    pixels, factor = shrunk(image.pixels, _LARGEST)
    size = f"{width}{TIMES}{height} pixels" + ("" if factor == 1 else f", shown at 1/{factor}")
    picture = tag(
        "img",
        src=data_uri(pixels),
        width=pixels.shape[1],
        height=pixels.shape[0],
        alt=f"{image.name}: a picture of {image.label}",
        title=size,
    )
    choices = tag(
        "dl",
        tag("dt", "label"),
        tag("dd", image.label),
        tag("dt", "original"),
        tag("dd", _choice(image.original, image.label)),
        tag("dt", "export"),
        tag("dd", _choice(image.export, image.label)),
    )
    caption = tag("figcaption", tag("code", image.name), choices)
    return tag("li", tag("figure", picture, caption))


def _choice(choice: str, label: str) -> Markup:
    right = choice == label
    sign = tag(
        "span", "right" if right else "wrong", class_="mark holds" if right else "mark fails"
    )
    return joined([choice, sign], " ")
