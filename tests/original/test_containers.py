"""Containers of checkpoints: what other training loops write around the weights of one network.

What is harmless converts to the same packed weights.
"""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import decimal
import fractions
import http
import pathlib
import signal
import sys
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from apot_export.original.checkpoint import load_checkpoint
from tests.support.checkpoint_files import (
    NAME,
    Tensors,
    Writer,
    beside_a_loss,
    packed_tensors,
    pickled,
    saved,
)
from tests.support.commands import run


def prefixed(prefix: str, inside: str = "") -> Writer:
    return saved(
        lambda state: {
            "state_dict": {
                prefix + key.replace("layer2.", f"layer2.{inside}"): value
                for key, value in state.items()
            }
        }
    )


def under(place: str) -> Writer:
    def nested(state: Tensors) -> object:
        content: object = state
        for name in reversed(place.split(".")):
            content = [content, 3] if name == "0" else {name: content, "epoch": 3}
        return content

    return saved(nested)


def beside(value: object) -> Writer:
    return saved(lambda state: {"state_dict": state, "beside": value, "epoch": 3})


def with_entries(**entries: object) -> Writer:
    return saved(lambda state: {"state_dict": {**state, **entries}})


class LightningDict(dict[str, Any]):
    """Stands for Lightning's dict of hyper-parameters, whose name its pickle has."""


LightningDict.__module__ = "pytorch_lightning.utilities.parsing"
LightningDict.__qualname__ = LightningDict.__name__ = "AttributeDict"


def lightning(state: Tensors, path: Path) -> None:
    module = types.ModuleType("pytorch_lightning.utilities.parsing")
    vars(module)["AttributeDict"] = LightningDict
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
        "hparams_name": "kwargs",
        "hyper_parameters": LightningDict(lr=0.1, milestones=[1, 2]),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.utilities"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, "pytorch_lightning.utilities.parsing", module)
        torch.save(content, path)


def optimized(state: Tensors) -> object:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(2)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    return {"net": state, "optimizer": optimizer, "schedule": schedule}


def safetensors(state: Tensors, path: Path) -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, path, {"format": "pt"})


def same_name_of_another_type(state: Tensors) -> object:
    return {"epoch": np.float64(3.0), "best_prec": np.float32(98.5), "state_dict": state}


PREFIXES = (
    *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."),
    *("encoder.", "model.model.", "model.module._orig_mod.net.", "ema_model.module."),
)
PLACES = (
    *("state_dict", "model", "net", "model_state_dict", "model_state", "state", "params"),
    *("weights", "ema", "network", "G", "model.state_dict", "checkpoint.model.weights", "0.net"),
)
OBJECTS: dict[str, object] = {
    "numpy scalars": [np.float32(1.5), np.int64(3), np.bool_(True), np.str_("x")],  # noqa: FBT003 - a value
    "numpy arrays": {"a": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "b"])},
    "numpy's generators": [np.random.default_rng(1), np.random.RandomState(1)],
    "Namespace": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b")),
    "OrderedDict": collections.OrderedDict(a=collections.OrderedDict()),
    "collections": [collections.Counter("aab"), collections.deque([1]), {1}, frozenset([(1, 2)])],
    "defaultdict": collections.defaultdict(list, a=[1]),
    "paths": [pathlib.Path("a"), pathlib.PureWindowsPath("c:/x")],
    "dates": [dt.datetime.now(dt.timezone.utc)],
    "enums": [http.HTTPStatus.OK, signal.SIGINT],
    "numbers": [1 + 2j, decimal.Decimal("0.1"), fractions.Fraction(1, 3), 1 << 200, slice(1, 2)],
    "bytes": [b"x", bytearray(b"y"), uuid.UUID(int=1)],
    "of PyTorch": [torch.Size([2]), torch.float16, torch.device("cpu"), torch.get_rng_state()],
    "SimpleNamespace": types.SimpleNamespace(a=1),
}
CONVERTED: dict[str, Writer] = {
    **{f"prefix {prefix}": prefixed(prefix) for prefix in PREFIXES},
    **{f"{name} inside": prefixed("", f"{name}.") for name in ("_orig_mod", "module")},
    "prefix and inside": prefixed("model.", "_orig_mod."),
    "beside a loss": saved(lambda state: {"state_dict": beside_a_loss(state)}),
    **{f"under {place}": under(place) for place in PLACES},
    "bare": saved(dict),
    "bare with epoch": saved(lambda state: {**state, "epoch": 3, "optimizer": {"lr": 0.1}}),
    "first of a tuple": saved(lambda state: (state, {"lr": 0.1}, 3)),
    "first of a list": saved(lambda state: [state, 3]),
    **{f"beside: {name}": beside(value) for name, value in OBJECTS.items()},
    "record of numpy": saved(same_name_of_another_type),
    "average": with_entries(n_averaged=torch.tensor(7)),
    "operations counted": with_entries(
        total_ops=torch.zeros(1, dtype=torch.float64),
        **{"layer1.0.conv1.total_params": torch.zeros(1, dtype=torch.float64)},
    ),
    "cached copies": with_entries(**{"layer1.0.conv1.weight_q": torch.zeros(2, 2)}),
    "no tensors among them": with_entries(bias=None, version=2, **{"fc._extra_state": b"x"}),
    "thresholds of shape [1]": saved(
        lambda state: {k: v.reshape(1) if "alpha" in k else v for k, v in state.items()}
    ),
    "parameters": saved(
        lambda state: {
            k: nn.Parameter(v, v.is_floating_point() and v.ndim > 1) if v.is_floating_point() else v
            for k, v in state.items()
        }
    ),
    "the same weights twice": saved(
        lambda state: {"state_dict": state, "best": {k: v.clone() for k, v in state.items()}}
    ),
    "objects of PyTorch's optimizers": saved(optimized),
    "float64": saved(lambda state: {k: v.double() for k, v in state.items()}),
    "numpy state dict": saved(lambda state: {k: v.numpy() for k, v in state.items()}),
    **{
        f"legacy, protocol {protocol}": saved(
            lambda state: {"net": state, "args": argparse.Namespace(lr=0.1)},
            _use_new_zipfile_serialization=False,
            pickle_protocol=protocol,
        )
        for protocol in range(2, 6)
    },
    **{
        f"zip, protocol {protocol}": saved(
            lambda state: {"net": state, "args": argparse.Namespace(lr=0.1)},
            pickle_protocol=protocol,
        )
        for protocol in range(2, 6)
    },
    **{f"pickle, protocol {protocol}": pickled(dict, protocol) for protocol in range(6)},
    **{
        f"pickle of arrays, protocol {protocol}": pickled(
            lambda state: {"model": {k: v.numpy() for k, v in state.items()}}, protocol
        )
        for protocol in (2, 4, 5)
    },
    "lightning": lightning,
    "safetensors": safetensors,
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_harmless_containers_convert_to_the_same(
    kind: str, state: Tensors, codes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / (NAME if kind != "safetensors" else "res8_4bit.safetensors")
    CONVERTED[kind](state, path)
    assert packed_tensors(path, tmp_path) == codes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_said(
    dtype: torch.dtype, state: Tensors, tmp_path: Path
) -> None:
    path = tmp_path / NAME
    floats = [key for key, value in state.items() if value.is_floating_point()]
    torch.save({"net": {**state, **{key: state[key].to(dtype) for key in floats}}}, path)
    loaded = load_checkpoint(path)
    assert all(torch.equal(loaded.state[key], state[key].to(dtype).float()) for key in floats)
    became = f"{len(floats)} tensors of {str(dtype)[6:]} became float32 without rounding"
    result = run("convert", path, "-o", tmp_path / "export", "--trust-options")
    assert result.exit_code == 0
    assert loaded.notes == ("weights from 'net'", became)
    assert all(f"checkpoint  {note}" in result.output for note in loaded.notes)
    result = run("convert", path, "-o", tmp_path / "export", "--trust-options", "--force", "--json")
    assert "\"weights from 'net'\"" in result.output
