"""`apot-export convert`: a checkpoint becomes an export directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _options
from ._errors import reported

if TYPE_CHECKING:
    from apot_export.conversion.integer_choices import IntegerChoices

_OF_AN_EXPORT = ("target", "batch", "keep_functions", "dynamic_size", "compress", "force")
"""Options that say what is made of an export, beside those of the integer network."""


def convert(
    ctx: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="The trained checkpoint (.pth.tar, .ckpt, .safetensors, ...), or an export, to "
            "write another model of it."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Export directory; default: named after the checkpoint, here; after an export and "
            "its target.",
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
    integer: Annotated[
        bool,
        typer.Option(
            "--integer",
            help="Write the all-integer network, too: adds, shifts and compares alone.",
        ),
    ] = False,
    fraction_bits: Annotated[
        str,
        typer.Option(
            help="Fraction bits of the integer network's residual stream; auto: the fewest that "
            "calibration images call for, else the most that are proven not to overflow.",
        ),
    ] = "auto",
    input_bits: Annotated[
        int | None,
        typer.Option(help="Fraction bits of the integer network's input; default: 16, or as many."),
    ] = None,
    input_type: Annotated[
        str,
        typer.Option(
            "--input", help="What the integer network reads: float images, or uint8 pixels."
        ),
    ] = "float",
    data: Annotated[
        Path | None,
        typer.Option(help="Calibration images; default: $APOT_EXPORT_DATA, else ./data."),
    ] = None,
    compress: Annotated[
        bool,
        typer.Option(
            "--compress",
            help="Entropy-code the packed file's weights: smaller at rest, decoded when used.",
        ),
    ] = False,
    target: Annotated[
        str,
        typer.Option(
            help="Runtime that the ONNX model is made fast for: portable, cpu (ONNX Runtime on "
            "CPUs), cuda (ONNX Runtime on NVIDIA GPUs) or openvino; every one runs in any. plain: "
            "float weights and old standard operators alone, for clients that know no functions."
        ),
    ] = "portable",
    batch: Annotated[
        int, typer.Option(min=0, help="Images in every batch of target plain; 0: any number.")
    ] = 0,
    keep_functions: Annotated[
        bool,
        typer.Option(
            "--keep-functions", help="Leave the apot functions in the model of target plain."
        ),
    ] = False,
    dynamic_size: Annotated[
        bool,
        typer.Option(
            "--dynamic-size",
            help="Leave the height and width of the ONNX model's images open: targets portable, "
            "cuda and plain, for networks that average over the whole image or return images.",
        ),
    ] = False,
    trust_options: Annotated[
        bool,
        typer.Option(
            "--trust-options",
            help="Convert also where the checkpoint's batch-norms contradict the bits or level set "
            "that options or names state.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in the output directory.")
    ] = False,
    as_json: _options.Json = False,
    debug: _options.Debug = False,
) -> None:
    """Convert CHECKPOINT into an ONNX model and a packed-weight file.

    Writes model.onnx, model.apot.safetensors and manifest.json; with --integer also
    model.integer.onnx. Of an export it writes another one, for another --target, with --integer or
    with --compress: from its packed file, without the checkpoint.
    """
    with reported(debug=debug):
        from apot_export.artifacts.directory import MANIFEST

        from ._parsing import integer_choices

        form = integer_choices(fraction_bits, input_bits, input_type, data, wanted=integer)
        if (checkpoint / MANIFEST).is_file():
            _convert_export(ctx, checkpoint, output, form, as_json=as_json)
            return
        from apot_export.conversion.convert import convert as convert_checkpoint

        from ._parsing import parse_arguments, quantization_choices

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
        result = convert_checkpoint(
            checkpoint,
            output,
            model=model,
            model_arguments=parse_arguments(model_kwarg or []),
            input_shape=input_shape,
            choices=choices,
            integer=form,
            compress=compress,
            target=target,
            batch=batch,
            keep_functions=keep_functions,
            dynamic_size=dynamic_size,
            trust_options=trust_options,
            force=force,
        )
        if as_json:
            typer.echo(json.dumps(result.to_json(), indent=2))
        else:
            from ._render import print_conversion

            print_conversion(result)


def _convert_export(
    ctx: typer.Context,
    export: Path,
    output: Path | None,
    integer: IntegerChoices | None,
    *,
    as_json: bool,
) -> None:
    """Write another export from an export's packed file."""
    from apot_export.conversion.convert_export import convert_export

    _require_options_of_exports(ctx, export)
    options = {name: ctx.params[name] for name in _OF_AN_EXPORT}
    result = convert_export(export, output, integer=integer, **options)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        from ._render import print_export_conversion

        print_export_conversion(result)


def _require_options_of_exports(ctx: typer.Context, export: Path) -> None:
    """Raise `ExportError` for options that describe a checkpoint."""
    from apot_export.errors import ExportError

    possible = {*_OF_AN_EXPORT, "checkpoint", "output", "as_json", "debug"}
    possible |= {"integer", "fraction_bits", "input_bits", "input_type", "data"}
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name not in possible
        and getattr(ctx.get_parameter_source(str(parameter.name)), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ExportError(
            "The weights of an export are codes already: no option can change them.",
            where=str(export),
            expected="--target, --batch, --keep-functions, --dynamic-size, --integer, --compress, "
            "-o, --force",
            got=", ".join(given),
            fix="leave them out, or convert the checkpoint again",
        )
