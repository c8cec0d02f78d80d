"""`apot-export inspect`: what an export or a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from ._beside import Pictures, Shown, show
from ._errors import reported
from ._groups import Command, Group, with_groups
from ._options import Dataset, General, InProcess, Network, Training, Weights, chosen

if TYPE_CHECKING:
    from apot_export.inspection.opened import Inspection

_OVERVIEW = "overview"
_HELP = {"--help", "-h"}


class _Views(Group):
    """A group of views; what is none of their names is the path of an overview."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read arguments."""
        if args and args[0] not in self.commands and args[0] not in _HELP:
            args = [_OVERVIEW, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Views,
    no_args_is_help=True,
    help="Show what an export or a checkpoint is, costs and holds.",
)

Anything = Annotated[
    Path | None,
    typer.Argument(
        help="Checkpoint, export directory, packed file or ONNX model; default: the newest export "
        "in or below this folder."
    ),
]
OfExport = Annotated[Path | None, "Checkpoint of an export, where it is no longer where it was."]


@app.callback()
def inspect() -> None:
    """Show what an export or a checkpoint is, costs and holds.

    `apot-export inspect PATH` gives an overview.
    """


def _opened(
    path: Path | None,
    general: General,
    training: Training,
    network: Network,
    checkpoint: Path | None = None,
) -> Inspection:
    from apot_export.inspection.opened import inspect as look_inside

    path = chosen(path, "Inspecting", quiet=general.quiet)
    return look_inside(
        path, checkpoint=checkpoint, choices=training.choices(), **network.arguments()
    )


@app.command("overview", cls=Command)
@with_groups
def overview(
    path: Anything = None,
    *,
    checkpoint: OfExport = None,
    training: Training,
    network: Network,
    in_process: InProcess = False,
    pictures: Pictures,
    shown: Shown,
    general: General,
) -> None:
    """Show what PATH is, from what, of which parts, and what it costs.

    `apot-export inspect PATH` does the same. The options of quantization and network are for
    checkpoints.
    """
    with reported(general, in_process=in_process):
        from apot_export.inspection.views import flat_view, overview_views

        from ._progress import working

        with working("Inspecting", quiet=general.quiet):
            pictures.require_writable()
            opened = _opened(path, general, training, network, checkpoint)
            found = [reading.overview for reading in opened.readings]
            pictures.write(opened)
        content = found[0].to_json()
        if len(found) > 1:
            content = {"readings": [one.to_json() for one in found]}
            if not (general.quiet or general.as_json):
                typer.echo(
                    f"Nothing tells which of {len(found)} families this is: each is shown; "
                    "--family NAME shows one.",
                    err=True,
                )
        show(
            content,
            general,
            shown,
            lambda: [view for one in found for view in overview_views(one)],
            flat=lambda: flat_view(content),
        )


@app.command("cost", cls=Command)
@with_groups
def cost(
    path: Anything = None,
    *,
    training: Training,
    network: Network,
    in_process: InProcess = False,
    shown: Shown,
    general: General,
) -> None:
    """Show additions, shifts, memory and energy of one image.

    Layer by layer, with the bits moved, and beside the same network in int8 and in float32;
    energies are by two published tables.
    """
    with reported(general, in_process=in_process):
        from apot_export.inspection.layer_views import cost_view, forms_view

        from ._progress import working

        with working("Inspecting", quiet=general.quiet):
            opened = _opened(path, general, training, network)
            found = opened.cost
        views = (cost_view(opened.path, found), forms_view(found))
        show(found.to_json(), general, shown, lambda: views)


@app.command("levels", cls=Command)
@with_groups
def levels(
    path: Anything = None,
    *,
    layer: Annotated[str | None, "Name of a layer, whose levels are counted one by one."] = None,
    training: Training,
    network: Network,
    in_process: InProcess = False,
    shown: Shown,
    general: General,
) -> None:
    """Show how the weights of every layer use their levels.

    Entropy, levels that no weight has, zeros, terms of a weight; as CSV, a row for each level.
    """
    with reported(general, in_process=in_process):
        from apot_export.inspection.layer_views import histogram_view, levels_view

        from ._progress import working

        with working("Inspecting", quiet=general.quiet):
            opened = _opened(path, general, training, network)
            found = opened.levels if layer is None else opened.levels.of_layer(layer)
        one = layer is not None
        view = histogram_view(found.layers) if one else levels_view(opened.path, found)
        show(
            found.to_json(),
            general,
            shown,
            lambda: (view,),
            flat=lambda: histogram_view(found.layers),
        )


@app.command("weights", cls=Command)
@with_groups
def weights(
    path: Anything = None,
    *,
    checkpoint: OfExport = None,
    training: Training,
    network: Network,
    in_process: InProcess = False,
    shown: Shown,
    general: General,
) -> None:
    """Show the weights of every layer before and after quantization.

    With the share that was clipped and the quantization error. Of an export, the checkpoint is
    read, too.
    """
    with reported(general, in_process=in_process):
        from apot_export.inspection.layer_views import weights_view

        from ._progress import working

        with working("Inspecting", quiet=general.quiet):
            opened = _opened(path, general, training, network, checkpoint)
            found = opened.weights
        show(found.to_json(), general, shown, lambda: (weights_view(opened.path, found),))


@app.command("alphas", cls=Command)
@with_groups
def alphas(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory, packed file or checkpoint; "
            "default: the newest export in or below this folder."
        ),
    ] = None,
    *,
    weights: Weights = None,
    bits: Annotated[int | None, "Bit-width of a checkpoint whose name does not say it."] = None,
    in_process: InProcess = False,
    shown: Shown,
    general: General,
) -> None:
    """Show the clipping thresholds of every quantized layer."""
    with reported(general, in_process=in_process):
        from apot_export.inspection.thresholds import thresholds
        from apot_export.inspection.views import alphas_view

        from ._progress import working

        path = chosen(path, "Inspecting", quiet=general.quiet)
        with working(f"Inspecting {path}", quiet=general.quiet):
            found = thresholds(path, bits=bits, weights=weights)
        views = (alphas_view(found),)
        show(found.to_json(), general, shown, lambda: views, lines=found.plain_lines)


@app.command("bits", cls=Command)
@with_groups
def bits(
    path: Anything = None,
    *,
    training: Training,
    network: Network,
    in_process: InProcess = False,
    shown: Shown,
    general: General,
) -> None:
    """Show bits and bytes of every layer's weights."""
    with reported(general, in_process=in_process):
        from apot_export.inspection.views import bits_view

        found = _opened(path, general, training, network).bits
        views = (bits_view(found),)
        show(found.to_json(), general, shown, lambda: views, lines=found.plain_lines)


@app.command("integer", cls=Command)
@with_groups
def integer(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Export directory; default: the newest export in or below this folder."
        ),
    ] = None,
    *,
    shown: Shown,
    general: General,
) -> None:
    """Show operations and ranges of the integer network."""
    with reported(general):
        from apot_export.inspection.views import integer_view
        from apot_export.inspection.widths import integer_summary

        path = chosen(path, "Inspecting", quiet=general.quiet)
        found = integer_summary(path)
        views = (integer_view(path, found),)
        show(dict(found), general, shown, lambda: views)


@dataclass(frozen=True)
class Images:
    """The images that hypotheses are tried on."""

    PANEL: ClassVar[str] = "Data"

    dataset: Annotated[
        Dataset | None,
        "Try hypotheses on this dataset; default: the one that fits the network if --data is "
        "given, else none.",
    ] = None
    data: Annotated[
        Path | None, "Folder of the images; default: $APOT_EXPORT_DATA, else ./data."
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Use at most this many images, spread over the dataset; "
            "default: 2000 small or 200 large ones.",
        ),
    ] = None


@app.command("identify", cls=Command)
@with_groups
def identify(
    checkpoint: Annotated[
        Path, typer.Argument(help="The trained checkpoint (.pth.tar, .ckpt, .safetensors, ...).")
    ],
    *,
    weights: Weights = None,
    images: Images,
    in_process: InProcess = False,
    shown: Shown,
    general: General,
) -> None:
    """Rank the bit-widths and level sets that CHECKPOINT may have.

    Its batch-norms remember means that only the true quantization predicts. With images, hypotheses
    are ranked by accuracy, too.
    """
    with reported(general, in_process=in_process):
        from apot_export.original.files import require_checkpoint_file

        from ._progress import working

        require_checkpoint_file(checkpoint)
        with working(f"Identifying {checkpoint}", quiet=general.quiet) as work:
            from apot_export.inspection.identify import identify as identify_checkpoint

            found = identify_checkpoint(checkpoint, weights=weights, progress=work, **vars(images))
        if shown.csv or shown.plain or general.as_json:
            from ._render_identify import hypotheses_view

            show(found.to_json(), general, shown, lambda: (hypotheses_view(found),))
        else:
            from ._render_identify import print_identification

            print_identification(found, wide=shown.wide)
