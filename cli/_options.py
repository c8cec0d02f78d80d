"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document and nothing else.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]

# --- how a checkpoint was trained -----------------------------------------------------------------

Weights = Annotated[
    str | None,
    typer.Option(
        help="Which weights of the checkpoint, where it holds several sets, as state_dict_ema.",
        show_default=False,
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(
        help="Bit-width it was trained with; default: from its names, options "
        "in the file, or its batch-norms.",
        show_default=False,
    ),
]
ActivationBits = Annotated[
    int | None,
    typer.Option(help="Bit-width of activations, if another than the weights'."),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="Level set of weights: apot, pot or uniform; default: from its names or "
        "batch-norms, else apot.",
        show_default=False,
    ),
]
ActivationMethod = Annotated[
    str | None,
    typer.Option(
        help="Level set of activations, if another than the weights': apot, pot or uniform.",
        show_default=False,
    ),
]
FirstLast = Annotated[
    str | None,
    typer.Option(
        help="Weights of the first convolution and the last linear layer: 8bit or float; default: "
        "as the training code of the family has them.",
        show_default=False,
    ),
]
Family = Annotated[
    str | None,
    typer.Option(
        help="Training code, where the checkpoint's keys are those of several: apot-v1 or "
        "first-release.",
        show_default=False,
    ),
]
ActivationSign = Annotated[
    str | None,
    typer.Option(
        help="Uniform activations that training clipped at -alpha and alpha (signed) or at 0 and "
        "alpha (unsigned); default: as the training code does; layers of --model are tried.",
        show_default=False,
    ),
]
Grid = Annotated[
    str | None,
    typer.Option(
        help="Grid of 2-bit weights of the non-zero-grid code: zero or nonzero; default: from its "
        "folder, else zero.",
        show_default=False,
    ),
]
Exponent = Annotated[
    int | None,
    typer.Option("--z", help="Exponent Z of the non-zero grid {2^-Z, 1}."),
]
LegacyDivisor = Annotated[
    bool,
    typer.Option(
        "--legacy-divisor", help="Uniform activations as the code before 2021-03-20 divided them."
    ),
]
RawWeights = Annotated[
    bool,
    typer.Option(
        "--no-weight-normalization",
        help="Weights were quantized without centring and scaling, as some forks do.",
    ),
]
UnsignedZeros = Annotated[
    bool,
    typer.Option(
        "--unsigned-zeros",
        help="Make every zero weight a +0, whatever sign training left; then ternary weights take "
        "1.6 bits, not 2.",
    ),
]
PowerOfTwoLayers = Annotated[
    str,
    typer.Option(
        help="auto: store layers without thresholds as codes whose weights are sums of powers of "
        "two already; off: leave them in float.",
    ),
]
LayerBits = Annotated[
    list[str] | None,
    typer.Option(
        help="Bit-width of some layers: 'layer1.*=3', or '...=4/2' for weights/activations; "
        "'conv1=32' leaves a layer in float; may be repeated, later ones win.",
    ),
]
LayerBitsFile = Annotated[
    Path | None,
    typer.Option(help="TOML file with such patterns in a table named layers."),
]
AlphaTerms = Annotated[
    int,
    typer.Option(
        min=0,
        max=8,
        help="Write each coordinate of multi-bit weights as a sum of this many powers of two; 0 "
        "keeps them as floats.",
    ),
]

# --- custom networks ------------------------------------------------------------------------------

Model = Annotated[
    str | None,
    typer.Option(
        help="Custom network, PACKAGE.MODULE:FACTORY; it is imported and called, and gets the "
        "checkpoint's tensors.",
    ),
]
ModelKwarg = Annotated[
    list[str] | None,
    typer.Option(help="Argument of --model's factory, NAME=VALUE; may be repeated."),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        help="Image that the network takes: C,H,W, e.g. 3,32,32; needed with --model, else the "
        "size of its training."
    ),
]
