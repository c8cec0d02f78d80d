"""Reading checkpoints without running anything that is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from apot_export.errors import CheckpointError, WeightError
from apot_export.network.layers import MultiBitWeights
from apot_export.original._child import re_saving
from apot_export.original._containers import METADATA
from apot_export.original.files import require_checkpoint_file
from apot_export.original.loading import some_of
from apot_export.original.multi_bit import multi_bit_weights
from apot_export.original.reading import read_container
from apot_export.original.record import Record, record_of, recorded_bits
from apot_export.original.weight_sets import (
    TOP,
    USUAL_PLACES,
    chosen_weights,
    forms_of,
    is_stray,
    is_tensor,
    network_part,
    parts_of,
    weight_sets,
    without_wrappers,
)

_MULTI_BIT_KEY = "parameters_w_bin"
_COUNTER_SUFFIX = "num_batches_tracked"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The tensors of a checkpoint and where they came from."""

    path: Path
    sha256: str
    state: dict[str, torch.Tensor]
    """State dict on the CPU, float32, without what wrappers add to its keys, in file order."""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """The same tensors, and those that evaluation does not read, by their keys in the file."""
    said: tuple[str, ...] = ()
    """Sentences on what was taken, left out or converted on the way."""
    beside: tuple[str, ...] = ()
    """Keys of tensors that stand beside the network, as those of a loss."""
    bare: bool = False
    """Whether the file holds the state dict itself, without epoch or accuracy around it."""
    multi_bit: tuple[MultiBitWeights, ...] = ()
    """Weights as scaled sign vectors, in the order of the network's layers, where there are any."""
    recorded_bits: Mapping[str, int] = field(default_factory=dict)
    """Bit-widths among the options of the training run in the file: see `record`."""
    record: Record | None = None
    """The accuracy that the training run recorded in the file."""
    record_note: str | None = None
    """A sentence on recorded values that cannot be accuracies."""

    @property
    def keys(self) -> list[str]:
        """Names by which families are recognised."""
        return [*self.state, *([_MULTI_BIT_KEY] if self.multi_bit else [])]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what became of everything in the file."""
        shown = f"left out, since it stands beside the network: {some_of(self.beside)}"
        return (*self.said, shown) if self.beside else self.said

    def for_network(self, expected: Collection[str]) -> Checkpoint:
        """Return the state dict under the names of a network that has these keys.

        Its own names may look like those of wrappers, or of what evaluation does not read.
        """
        forms = forms_of(self.tensors)
        needed = {key for key in expected if not key.endswith(_COUNTER_SUFFIX)}
        forms += [form for form in parts_of(self.tensors) if needed <= {*form.values()}]
        best = max(forms, key=lambda form: len({*form.values()} & {*expected}))
        names = {key: name for key, name in best.items() if name in expected or not is_stray(name)}
        left = [key for key in self.tensors if key not in best and not is_stray(key)]
        state = {name: self.tensors[key] for key, name in names.items()}
        return replace(self, state=state, beside=tuple(left))


def load_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """Load a checkpoint's state dict on the CPU, safely.

    Args:
        path: The file.
        weights: Which of several sets of weights to take, as "state_dict_ema".

    Raises:
        UnsafeCheckpointError: The pickle wants globals other than tensors' own; nothing was run.
        CheckpointError: The file is missing, no checkpoint, damaged, or holds no state dict.
    """
    require_checkpoint_file(path)
    content, sha256 = read_container(path)
    place = chosen_weights(content, weights, path)
    tensors, notes = _tensors(weight_sets(content)[place], path)
    read = [key for key in tensors if not is_stray(key)]
    names = without_wrappers(network_part(read))
    record, note = record_of(content)
    return Checkpoint(
        path=path,
        sha256=sha256,
        state={name: tensors[key] for key, name in names.items()},
        tensors=tensors,
        said=(*([] if place in USUAL_PLACES else [f"weights from {place!r}"]), *notes),
        beside=tuple(key for key in read if key not in names),
        bare=place == TOP,
        multi_bit=_multi_bit(content),
        recorded_bits=recorded_bits(content),
        record=record,
        record_note=note,
    )


def _multi_bit(content: object) -> tuple[MultiBitWeights, ...]:
    entries = content.get(_MULTI_BIT_KEY) if isinstance(content, Mapping) else None
    if not isinstance(entries, list):
        return ()
    return tuple(
        multi_bit_weights(entry, f"{_MULTI_BIT_KEY}[{number}]")
        for number, entry in enumerate(entries)
    )


def _tensors(found: Mapping[Any, Any], path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors of a state dict in float32, and sentences on what became of the rest.

    They are copies: whoever writes to the file, such as a training run, does not write to them.

    Raises:
        CheckpointError: One has no values, or a type that does not become float32 exactly.
    """
    tensors: dict[str, torch.Tensor] = {}
    left_out: list[str] = []
    converted: Counter[torch.dtype] = Counter()
    for key, value in found.items():
        if key == METADATA:
            continue
        if not isinstance(key, str) or not is_tensor(value) or is_stray(key):
            left_out.append(str(key))
            if isinstance(value, torch.Tensor) and isinstance(key, str):
                tensors[key] = value.clone()
            continue
        tensor = value if isinstance(value, torch.Tensor) else None
        tensors[key] = _float32(key, tensor, path)
        if tensor is not None and tensor.dtype != tensors[key].dtype:
            converted[tensor.dtype] += 1
    notes = [
        f"{count} tensors of {str(dtype)[6:]} became float32 without rounding"
        for dtype, count in converted.items()
    ]
    if left_out:
        notes.append(f"left out, since evaluation does not read it: {some_of(left_out)}")
    return tensors, notes


def _float32(key: str, tensor: torch.Tensor | None, path: Path) -> torch.Tensor:
    """Return a tensor in float32, or a counter of batches as it is."""
    is_counter = key.endswith(_COUNTER_SUFFIX)
    if tensor is None or not (tensor.dtype in _FLOATS or (is_counter and not tensor.is_complex())):
        raise CheckpointError(
            "A tensor of the checkpoint has a type that the family does not use.",
            where=key,
            expected="dense float32",
            got="a tensor without dense values" if tensor is None else str(tensor.dtype),
            fix="convert a checkpoint that was saved in the precision of its training",
        )
    if tensor.numel() == 0:
        raise CheckpointError(
            "A tensor of the checkpoint is empty.", where=key, got=f"shape {list(tensor.shape)}"
        )
    if is_counter or tensor.dtype == torch.float32:
        return tensor.clone()
    single = tensor.float()
    differs = (single != tensor) & ~tensor.isnan()
    if differs.any():
        raise CheckpointError(
            "A tensor does not fit float32, the precision of the families' training.",
            where=key,
            expected="values of float32",
            got=f"{int(differs.sum())} of {tensor.numel()} values between two of them",
            fix=f"round the checkpoint, where that is meant:\n{re_saving(path, rounded=True)}",
        )
    return single


def require_finite(state: Mapping[str, Any]) -> None:
    """Raise `WeightError` unless every value of every tensor or array is finite."""
    for key, values in state.items():
        tensor = torch.as_tensor(values)
        if torch.isfinite(tensor.sum()):
            continue  # one pass over most tensors; finite ones whose sum is not are looked into
        finite = torch.isfinite(tensor)
        if not finite.all():
            raise WeightError(
                "A tensor holds values that are not finite.",
                where=key,
                expected="finite float32 values",
                got=f"{int((~finite).sum())} NaN or infinite of {tensor.numel()}",
                fix="convert a checkpoint of an epoch in which training had not diverged",
            )
