"""Options that several verbs share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from ._groups import GENERAL

if TYPE_CHECKING:
    from apot_export.conversion.integer_choices import IntegerChoices
    from apot_export.original.choices import Choices

_AUTO = "auto"

Levels = Literal["apot", "pot", "uniform"]
Dataset = Literal["cifar10", "cifar100", "mnist", "imagenet", "digits", "folder"]
Export = Annotated[
    Path | None,
    typer.Argument(help="Export directory; default: the newest one in or below this folder."),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        rich_help_panel="Output",
        help="Replace an earlier export in the output directory.",
    ),
]
InProcess = Annotated[
    bool, "Read the checkpoint without a process of its own, where none can be started."
]
Weights = Annotated[
    str | None, "Which weights of the checkpoint, where it holds several sets, as state_dict_ema."
]


def parsed_bytes(text: str) -> int:
    """Parse a number of bytes, as 8G or 500M."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)i?b?", text.strip().lower())
    size = int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " ")) if found else 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is not a number of bytes, as 8G, 500M or 1073741824.")
    return size


@dataclass(frozen=True)
class General:
    """What every verb takes."""

    PANEL: ClassVar[str] = GENERAL

    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON document and nothing else.")
    ] = False
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Neither progress nor notes; of what was written the path alone, of verify the "
            "verdict.",
        ),
    ] = False
    debug: Annotated[bool, "Show a traceback when something fails."] = False
    max_memory: Annotated[
        int | None,
        typer.Option(
            parser=parsed_bytes,
            metavar="BYTES",
            help="Memory that one file may ask for, as 8G or 500M; default: 256M and 256 bytes for "
            "each byte of the file, at most 16G.",
        ),
    ] = None


@dataclass(frozen=True)
class RunImages:
    """The images that networks run on."""

    PANEL: ClassVar[str] = "Data"

    dataset: Annotated[
        Dataset | None,
        "folder: class folders, or images without labels; default: the one that fits the network.",
    ] = None
    data: Annotated[
        Path | None, "Folder of the images; default: $APOT_EXPORT_DATA, else ./data."
    ] = None
    images: Annotated[
        Path | None,
        "Images as arrays, in place of a dataset: an .npz file with images (float32 as "
        "the network reads them, or uint8 pixels), and labels where there are any.",
    ] = None
    mean: Annotated[
        str | None,
        "For folder and arrays of pixels: mean per channel of pixels in [0, 1], e.g. 0.5,0.5,0.5.",
    ] = None
    std: Annotated[str | None, "Likewise: standard deviation per channel."] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use this many images, drawn from every class in proportion."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Of that drawing.")] = 0
    batch_size: Annotated[str, "Images per batch, or auto: fits the image size."] = "auto"
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Threads that decode images; default: the cores, at most 4."),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return what `verify` and `compare` of the library take."""
        from ._parsing import parse_batch_size, parse_numbers

        return {
            **vars(self),
            "mean": parse_numbers(self.mean, "--mean"),
            "std": parse_numbers(self.std, "--std"),
            "batch_size": parse_batch_size(self.batch_size),
        }


@dataclass(frozen=True)
class Network:
    """A network of the user's own, and the size of its images."""

    PANEL: ClassVar[str] = "Network"

    model: Annotated[
        str | None,
        "Custom network, PACKAGE.MODULE:FACTORY; it is imported and called, and gets the "
        "checkpoint's tensors.",
    ] = None
    model_kwarg: Annotated[
        list[str] | None, "Argument of --model's factory, NAME=VALUE; may be repeated."
    ] = None
    input_shape: Annotated[
        str | None,
        "Image that the network takes: C,H,W, e.g. 3,32,32; needed with --model, else the "
        "size of its training.",
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return what `convert` and `verify` of the library take."""
        from ._parsing import parse_arguments

        return {
            "model": self.model,
            "model_arguments": parse_arguments(self.model_kwarg or []),
            "input_shape": self.input_shape,
        }


@dataclass(frozen=True)
class Training:
    """How a checkpoint was trained."""

    PANEL: ClassVar[str] = "Quantization (how the checkpoint was trained)"

    weights: Weights = None
    bits: Annotated[
        int | None,
        "Bit-width it was trained with; default: from its names, options in the file, or "
        "its batch-norms.",
    ] = None
    activation_bits: Annotated[
        int | None, "Bit-width of activations, if another than the weights'."
    ] = None
    method: Annotated[
        Levels | None, "Level set of weights; default: from its names or batch-norms, else apot."
    ] = None
    activation_method: Annotated[
        Levels | None, "Level set of activations, if another than the weights'."
    ] = None
    activation_sign: Annotated[
        Literal["signed", "unsigned"] | None,
        "Uniform activations that training clipped at -alpha and alpha (signed) or at 0 "
        "and alpha (unsigned); default: as the training code does; layers of --model are "
        "tried.",
    ] = None
    first_last: Annotated[
        Literal["8bit", "float"] | None,
        "Weights of the first convolution and the last linear layer; default: as the "
        "training code of the family has them.",
    ] = None
    family: Annotated[
        str | None,
        "Training code, where the checkpoint's keys are those of several: apot-v1 or "
        "first-release.",
    ] = None
    grid: Annotated[
        Literal["zero", "nonzero"] | None,
        "Grid of 2-bit weights of the non-zero-grid code; default: from its folder, else zero.",
    ] = None
    z: Annotated[int | None, "Exponent Z of the non-zero grid {2^-Z, 1}."] = None
    legacy_divisor: Annotated[
        bool, "Uniform activations as the code before 2021-03-20 divided them."
    ] = False
    raw_weights: Annotated[
        bool,
        typer.Option(
            "--no-weight-normalization",
            help="Weights were quantized without centring and scaling, as some forks do.",
        ),
    ] = False
    layer_bits: Annotated[
        list[str] | None,
        "Bit-width of some layers: 'layer1.*=3', or '...=4/2' for weights/activations; "
        "'conv1=32' leaves a layer in float; may be repeated, later ones win.",
    ] = None
    layer_bits_file: Annotated[
        Path | None, "TOML file with such patterns in a table named layers."
    ] = None
    unsigned_zeros: Annotated[
        bool,
        "Make every zero weight a +0, whatever sign training left; then ternary weights "
        "take 1.6 bits, not 2.",
    ] = False
    alpha_terms: Annotated[
        int,
        typer.Option(
            min=0,
            max=8,
            help="Write each coordinate of multi-bit weights as a sum of this many powers of two; "
            "0 keeps them as floats.",
        ),
    ] = 0
    power_of_two_layers: Annotated[
        Literal["auto", "off"],
        "auto: store layers without thresholds as codes whose weights are sums of powers "
        "of two already; off: leave them in float.",
    ] = "auto"

    def choices(self) -> Choices:
        """Return these as the library's choices.

        Raises:
            BitWidthError: A bit-width of a layer cannot be read.
        """
        from apot_export.original.choices import Choices

        from ._parsing import parse_layer_bits, read_layer_bits

        fields = dict(vars(self))
        file, stated = fields.pop("layer_bits_file"), fields.pop("layer_bits") or ()
        from_file = () if file is None else read_layer_bits(file)
        return Choices(
            layer_bits=(*from_file, *map(parse_layer_bits, stated)),
            normalize_weights=not fields.pop("raw_weights"),
            **fields,
        )


@dataclass(frozen=True)
class IntegerForm:
    """The all-integer network."""

    PANEL: ClassVar[str] = "Integer network"

    integer: Annotated[
        bool, "Write the all-integer network, too: no floats between images and logits."
    ] = False
    fraction_bits: Annotated[
        str,
        "Fraction bits of the integer network's residual stream; auto: the fewest that "
        "calibration images call for, else the most that are proven not to overflow.",
    ] = _AUTO
    input_bits: Annotated[
        int | None, "Fraction bits of the integer network's input; default: 16, or as many."
    ] = None
    input_type: Annotated[
        Literal["float", "uint8"],
        typer.Option(
            "--input", help="What the integer network reads: float images, or uint8 pixels."
        ),
    ] = "float"
    data: Annotated[Path | None, "Calibration images; default: $APOT_EXPORT_DATA, else ./data."] = (
        None
    )

    def choices(self) -> IntegerChoices | None:
        """Return these as the library's choices; None where the form is not wanted.

        Raises:
            IntegerError: Its options are no numbers, or are given without --integer.
        """
        from apot_export.conversion.integer_choices import IntegerChoices
        from apot_export.errors import IntegerError

        if not self.integer:
            if self != IntegerForm():
                raise IntegerError(
                    "Fraction bits, input and calibration images are those of the integer network.",
                    expected="--integer beside them",
                    fix="add --integer, or leave them out",
                )
            return None
        bits = self.fraction_bits
        if bits != _AUTO and not (bits.isascii() and bits.isdigit()):
            raise IntegerError(
                "Fraction bits are a number.", expected=f"0 to 24, or {_AUTO}", got=repr(bits)
            )
        return IntegerChoices(
            fraction_bits=None if bits == _AUTO else int(bits),
            input_bits=self.input_bits,
            pixels=self.input_type == "uint8",
            data=None if self.data is None else str(self.data),
        )


def printed(result: Any, general: General, brief: object = None, **more: Any) -> bool:
    """Print a result as JSON, `more` added, or briefly, where wanted; tell whether it was."""
    if general.as_json:
        content = result.to_json()  # a list at times, to which nothing is added
        typer.echo(json.dumps({**content, **more} if more else content, indent=2))
    elif general.quiet and brief is not None:
        typer.echo(brief)
        return True
    return general.as_json


def chosen(export: Path | None, doing: str, *, quiet: bool) -> Path:
    """Return an export, by default the newest one, which standard error then names."""
    if export is not None:
        return export
    from apot_export.artifacts.directory import find_newest

    newest = find_newest(Path())
    if not quiet:
        typer.echo(f"{doing} {newest} (the newest export here)", err=True)
    return newest


def given(context: typer.Context) -> Mapping[str, str]:
    """Return the options that the command line states: their flags by parameter name."""
    return {
        str(parameter.name): parameter.opts[0]
        for parameter in context.command.params
        if getattr(context.get_parameter_source(str(parameter.name)), "name", "") == "COMMANDLINE"
    }
