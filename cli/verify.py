"""`apot-export verify`: an export against its PyTorch original."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options
from ._errors import reported

if TYPE_CHECKING:
    from apot_export.verification import Report

_FAIL = 1
_INTERRUPTED = "Interrupted. Repeat the command with --resume to go on from what is finished."
_REPORTS = os.environ.get("RANK", "0") == "0"
"""Of several processes that torchrun launched, one reports."""


def verify(
    export: Annotated[
        Path | None,
        typer.Argument(help="Export directory; default: the newest one in or below this folder."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="cifar10, cifar100, mnist, imagenet, digits, or folder (class folders, or images "
            "without labels); default: the one that fits the network."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; default: $APOT_EXPORT_DATA, else ./data."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Images as arrays, in place of a dataset: an .npz file with images (float32 as "
            "the network reads them, or uint8 pixels), and labels where there are any.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Outputs of your own code: an .npz file with images and logits, to which the "
            "export is held, too; it needs neither dataset nor checkpoint.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="For folder and arrays of pixels: mean per channel of pixels in [0, 1], e.g. "
            "0.5,0.5,0.5."
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Likewise: standard deviation per channel."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The original checkpoint; default: where the manifest says it was. Another file "
            "needs --bits or the like beside it, which state how it was trained."
        ),
    ] = None,
    weights: _options.Weights = None,
    bits: _options.Bits = None,
    activation_bits: _options.ActivationBits = None,
    method: _options.Method = None,
    activation_method: _options.ActivationMethod = None,
    activation_sign: _options.ActivationSign = None,
    first_last: _options.FirstLast = None,
    family: _options.Family = None,
    grid: _options.Grid = None,
    z: _options.Exponent = None,
    legacy_divisor: _options.LegacyDivisor = False,
    raw_weights: _options.RawWeights = False,
    unsigned_zeros: _options.UnsignedZeros = False,
    layer_bits: _options.LayerBits = None,
    layer_bits_file: _options.LayerBitsFile = None,
    alpha_terms: _options.AlphaTerms = 0,
    power_of_two_layers: _options.PowerOfTwoLayers = "auto",
    model: _options.Model = None,
    model_kwarg: _options.ModelKwarg = None,
    input_shape: _options.InputShape = None,
    device: Annotated[
        str, typer.Option(help="auto, cuda or cpu: where the original and side ort run.")
    ] = "auto",
    sides: Annotated[
        str,
        typer.Option(
            help="What is compared with the original, the export of the verdict first: any of "
            "ort, ort-cpu, ort-cuda, openvino, native, oracle, packed.",
        ),
    ] = "ort",
    backends: Annotated[
        str | None,
        typer.Option(
            help="Run the integer network on these, too, and compare every bit: two or more of "
            "numpy, ort-cpu, ort-cuda, c.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use this many images, drawn from every class in proportion."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of that drawing.")] = 0,
    batch_size: Annotated[
        str, typer.Option(help="Images per batch, or auto: fits the image size.")
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Threads that decode images; default: the cores, at most 4."),
    ] = None,
    ignore_record: Annotated[
        bool,
        typer.Option(
            "--ignore-record",
            help="Do not fail where the accuracy is clearly below the one that the checkpoint "
            "records.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run of this kind ended.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write the report as one self-contained page, too."),
    ] = None,
    attach: Annotated[
        bool,
        typer.Option("--attach/--no-attach", help="Write the verdict into the export's manifest."),
    ] = True,
    as_json: _options.Json = False,
    debug: _options.Debug = False,
) -> None:
    """Verify an export against its original, on the same images.

    The original is the one that the export was made from. With options of convert that say how the
    checkpoint was trained (--bits, --method, ...), it is the one that they state.

    Exit code 0: PASS, 1: FAIL, 2: could not run. Several processes share the images under
    torchrun --nproc-per-node N --no-python apot-export verify ...
    """
    with reported(debug=debug, interrupted=_INTERRUPTED):
        from ._page import require_writable
        from ._parsing import parse_arguments, parse_batch_size, parse_numbers, quantization_choices

        require_writable(html)
        choices = quantization_choices(
            layer_bits,
            layer_bits_file,
            weights=weights,
            bits=bits,
            activation_bits=activation_bits,
            method=method,
            activation_method=activation_method,
            activation_sign=activation_sign,
            first_last=first_last,
            family=family,
            grid=grid,
            z=z,
            legacy_divisor=legacy_divisor,
            normalize_weights=not raw_weights,
            alpha_terms=alpha_terms,
            unsigned_zeros=unsigned_zeros,
            power_of_two_layers=power_of_two_layers,
        )
        report = _verified(
            _newest() if export is None else export,
            checkpoint=checkpoint,
            model=model,
            model_arguments=parse_arguments(model_kwarg or []),
            input_shape=input_shape,
            choices=choices if choices != quantization_choices(None, None) else None,
            dataset=dataset,
            data=data,
            images=images,
            reference=reference,
            mean=parse_numbers(mean, "--mean"),
            std=parse_numbers(std, "--std"),
            device=device,
            sides=sides,
            backends=backends,
            limit=limit,
            seed=seed,
            batch_size=parse_batch_size(batch_size),
            workers=workers,
            ignore_record=ignore_record,
            resume=resume,
            attach=attach,
        )
        if _REPORTS:
            _show(report, html, as_json=as_json)
        if report.failures:
            raise typer.Exit(_FAIL)


def _verified(export: Path, **options: Any) -> Report:
    from ._progress import image_progress

    with image_progress() as progress:
        from apot_export.verification import verify as verify_export

        return verify_export(export, progress=progress, **options)


def _newest() -> Path:
    from apot_export.artifacts.directory import find_newest

    export = find_newest(Path())
    if _REPORTS:
        typer.echo(f"Verifying {export} (the newest export here)", err=True)
    return export


def _show(report: Report, html: Path | None, *, as_json: bool) -> None:
    from ._page import write_page
    from ._render_verify import print_report

    if html is not None:
        write_page(html, report)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        print_report(report)
