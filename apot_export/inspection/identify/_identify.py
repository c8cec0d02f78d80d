"""Recognising a checkpoint, and ranking the hypotheses that its images speak for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from apot_export.datasets import Dataset, kind_of
from apot_export.errors import BitWidthError, CodebookError
from apot_export.inspection.identify._hypotheses import Hypothesis, hypotheses
from apot_export.inspection.identify._result import Candidate, Identification, Measurement, Named
from apot_export.inspection.identify._trials import Progress, Trial, run_stages, told_apart
from apot_export.original import families
from apot_export.original.checkpoint import load_checkpoint
from apot_export.original.families import Family
from apot_export.original.naming import bits_from_name, grid_from_name, method_from_name
from apot_export.original.original import Original
from apot_export.original.published import rebuild
from apot_export.original.witness import weigh

_SMALL_IMAGES, _LARGE_IMAGES = 2000, 200
_SMALL_VALUES = 3 * 64 * 64
"""Images of at most so many values are cheap: hypotheses are tried on more of them by default."""


def identify(
    checkpoint: str | PathLike[str],
    *,
    dataset: str | None = None,
    data: str | PathLike[str] | None = None,
    limit: int | None = None,
    weights: str | None = None,
    progress: Progress | None = None,
) -> Identification:
    """Rank the quantizations that a checkpoint may have by what its batch-norms remember of them.

    With a dataset they are ranked by accuracy, too.

    Args:
        checkpoint: The file.
        dataset: Name of the dataset to try hypotheses on; None for the one that fits the network if
            `data` is given, else for none.
        data: Folder of the images; None for $APOT_EXPORT_DATA or ./data.
        limit: Use at most this many images, spread evenly over the dataset; None for 2000 small or
            200 large ones.
        weights: Which of several sets of weights in the file to read, as "state_dict_ema".
        progress: Called with (what, done, total).

    Raises:
        ApotExportError: The checkpoint cannot be read or recognised, or the dataset does not fit.
    """
    loaded = load_checkpoint(Path(checkpoint), weights)
    family = families.recognise(loaded.keys)
    named = _named(loaded.path)
    fitting = families.candidates(loaded.keys) if loaded.bare else [family]
    groups = [group for each in fitting for group in hypotheses(each)]
    original = rebuild(loaded, groups[0][0].choices())
    measurement = None
    if dataset is not None or data is not None:
        everything = _open(original, dataset, data)
        trials = [Trial(hypotheses=tuple(group)) for group in groups]
        values = math.prod(original.architecture.input_shape)
        default = _SMALL_IMAGES if values <= _SMALL_VALUES else _LARGE_IMAGES
        images = everything.first(default if limit is None else limit)
        run_stages(trials, loaded, images, progress or (lambda _what, _done, _total: None))
        measurement = Measurement(
            dataset=images.name,
            dataset_root=images.root,
            images=len(images),
            available=len(everything),
            candidates=_ranked(trials, named),
        )
    return Identification(
        checkpoint=loaded.path,
        family=family.name,
        architecture=original.architecture.name,
        named=named,
        unknown=_unknown(fitting),
        power_of_two_layers={
            name: weights.codebook.bits for name, weights in original.powers_of_two.items()
        },
        statistics=weigh(original.module, original.architecture.input_shape, family),
        measurement=measurement,
    )


def _named(path: Path) -> Named:
    try:
        width = bits_from_name(path)
    except BitWidthError:  # one name states two; neither is what "the names say"
        width = None
    try:
        method = method_from_name(path)
    except CodebookError:
        method = None
    grid = grid_from_name(path)
    return Named(
        bits=None if width is None else width.value,
        bits_from=None if width is None else width.source,
        method="apot" if method is None else method.value,
        method_from="default" if method is None else method.source,
        grid=None if grid is None else grid.value,
    )


def _unknown(fitting: Sequence[Family]) -> tuple[str, ...]:
    family = fitting[0]
    if not family.has_thresholds:
        return ()
    codes = " or ".join(each.name for each in fitting)
    unknown = [f"training code ({codes})"] if len(fitting) > 1 else []
    unknown += ["bits of weights and activations", f"level set ({', '.join(family.methods)})"]
    if family.exponents:
        unknown.append("grid of 2-bit weights (with zero, or without and its exponent Z)")
    if family.had_legacy_divisor:
        unknown.append("divisor of uniform activations (legacy before 2021-03-20)")
    return (*unknown, "whether weights were normalised")


def _open(original: Original, name: str | None, data: str | PathLike[str] | None) -> Dataset:
    architecture = original.architecture
    classes = len(original.module.get_parameter(f"{architecture.last}.weight"))
    kind = kind_of(name, architecture.input_shape, classes)
    return kind.open(None if data is None else Path(data), original.family.preprocessing)


def _ranked(trials: Sequence[Trial], named: Named) -> tuple[Candidate, ...]:
    ranked = sorted(trials, key=lambda trial: trial.rank)
    best = ranked[0]
    return tuple(
        Candidate(
            hypotheses=trial.hypotheses,
            images=len(trial.correct),
            top1=float(trial.correct.mean()),
            loss=float(trial.losses.mean()),
            dropped=trial.dropped,
            tied=not trial.dropped and not told_apart(best, trial),
            named=any(_is_named(hypothesis, named) for hypothesis in trial.hypotheses),
        )
        for trial in ranked
    )


def _is_named(hypothesis: Hypothesis, named: Named) -> bool:
    plain = hypothesis.normalize_weights and not hypothesis.legacy_divisor
    same = (hypothesis.bits, hypothesis.method) == (named.bits, named.method)
    return plain and same and hypothesis.grid == (named.grid or "zero")
