"""`apot-export convert`: a checkpoint becomes an export directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from ._errors import reported
from ._options import Debug, Json

_Bits = Optional[int]  # noqa: UP045 - typer evaluates annotations on Python 3.10
_Text = Optional[str]  # noqa: UP045 - likewise


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The trained checkpoint (.pth.tar).")],
    output: Annotated[
        Optional[Path],  # noqa: UP045 - likewise
        typer.Option(
            "--output", "-o", help="Export directory; default: named after the checkpoint, here."
        ),
    ] = None,
    bits: Annotated[
        _Bits,
        typer.Option(
            help="Bit-width it was trained with; default: from its file or folder name.",
            show_default=False,
        ),
    ] = None,
    activation_bits: Annotated[
        _Bits,
        typer.Option(help="Bit-width of activations, if another than the weights'."),
    ] = None,
    method: Annotated[
        _Text,
        typer.Option(
            help="Level set: apot, pot or uniform; default: from its name, else apot.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        _Text,
        typer.Option(
            help="Grid of 2-bit weights of the non-zero-grid code: zero or nonzero; "
            "default: from its folder, else zero.",
            show_default=False,
        ),
    ] = None,
    z: Annotated[
        _Bits, typer.Option("--z", help="Exponent Z of the non-zero grid {2^-Z, 1}.")
    ] = None,
    legacy_divisor: Annotated[
        bool,
        typer.Option(
            "--legacy-divisor",
            help="Uniform activations as the code before 2021-03-20 divided them.",
        ),
    ] = False,
    raw_weights: Annotated[
        bool,
        typer.Option(
            "--no-weight-normalization",
            help="Weights were quantized without centring and scaling, as some forks do.",
        ),
    ] = False,
    unsigned_zeros: Annotated[
        bool,
        typer.Option(
            "--unsigned-zeros",
            help="Make every zero weight a +0, whatever sign training left; then ternary weights "
            "take 1.6 bits, not 2.",
        ),
    ] = False,
    layer_bits: Annotated[
        Optional[list[str]],  # noqa: UP045 - likewise
        typer.Option(
            help="Bit-width of some layers: 'layer1.*=3', or '...=4/2' for weights/activations; "
            "may be repeated, later ones win.",
        ),
    ] = None,
    layer_bits_file: Annotated[
        Optional[Path],  # noqa: UP045 - likewise
        typer.Option(help="TOML file with such patterns in a table named layers."),
    ] = None,
    alpha_terms: Annotated[
        int,
        typer.Option(
            min=0,
            max=8,
            help="Write each coordinate of multi-bit weights as a sum of this many powers of two; "
            "0 keeps them as floats.",
        ),
    ] = 0,
    model: Annotated[
        _Text,
        typer.Option(
            help="Network of your own, PACKAGE.MODULE:FACTORY; it is imported and called, and gets "
            "the checkpoint's tensors.",
        ),
    ] = None,
    model_kwarg: Annotated[
        Optional[list[str]],  # noqa: UP045 - likewise
        typer.Option(help="Argument of --model's factory, NAME=VALUE; may be repeated."),
    ] = None,
    input_shape: Annotated[
        _Text, typer.Option(help="Image that --model's network takes: C,H,W, e.g. 3,32,32.")
    ] = None,
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
        _Bits,
        typer.Option(help="Fraction bits of the integer network's input; default: 16, or as many."),
    ] = None,
    input_type: Annotated[
        str,
        typer.Option(
            "--input", help="What the integer network reads: float images, or uint8 pixels."
        ),
    ] = "float",
    data: Annotated[
        Optional[Path],  # noqa: UP045 - likewise
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
            "CPUs), cuda (ONNX Runtime on NVIDIA GPUs) or openvino; every one runs in any."
        ),
    ] = "portable",
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in the output directory.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert CHECKPOINT into an ONNX model and a packed-weight file.

    Writes model.onnx, model.apot.safetensors and manifest.json; with --integer also
    model.integer.onnx.
    """
    with reported(debug=debug):
        from apot_export.conversion.convert import convert as convert_checkpoint
        from apot_export.original.choices import Choices

        from ._parsing import (
            integer_choices,
            parse_arguments,
            parse_layer_bits,
            read_layer_bits,
        )

        from_file = read_layer_bits(layer_bits_file) if layer_bits_file is not None else ()
        choices = Choices(
            bits=bits,
            activation_bits=activation_bits,
            method=method,
            grid=grid,
            z=z,
            legacy_divisor=legacy_divisor,
            normalize_weights=not raw_weights,
            alpha_terms=alpha_terms,
            unsigned_zeros=unsigned_zeros,
            layer_bits=(*from_file, *map(parse_layer_bits, layer_bits or [])),
        )
        result = convert_checkpoint(
            checkpoint,
            output,
            model=model,
            model_arguments=parse_arguments(model_kwarg or []),
            input_shape=input_shape,
            choices=choices,
            integer=integer_choices(fraction_bits, input_bits, input_type, data, wanted=integer),
            compress=compress,
            target=target,
            force=force,
        )
        if as_json:
            typer.echo(json.dumps(result.to_json(), indent=2))
        else:
            from ._render import print_conversion

            print_conversion(result)
