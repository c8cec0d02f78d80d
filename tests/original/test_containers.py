"""Containers of checkpoints: what other training loops write around the weights of one network.

What is harmless converts to the same packed weights; what is not is refused, and the lines that the
refusal prints, run as they stand, make a checkpoint of it that converts.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime as dt
import decimal
import fractions
import http
import pathlib
import pickle
import signal
import sys
import types
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import apot_export
from apot_export.artifacts.directory import PACKED_MODEL
from apot_export.errors import BitWidthError, CheckpointError, UnsafeCheckpointError
from apot_export.original.architectures import recognise
from apot_export.original.checkpoint import Checkpoint, load_checkpoint
from tests.support.commands import run
from tests.support.workshop import DIGITS

Tensors = dict[str, torch.Tensor]
Writer = Callable[[Tensors, Path], None]
NAME = "res8_4bit.pth"
SETTINGS: dict[str, Any] = {"family": "apot-v1"}
"""Bare state dicts of these keys are of one of two families."""


def saved(make: Callable[[Tensors], object], **options: Any) -> Writer:
    def write(state: Tensors, path: Path) -> None:
        torch.save(make(state), path, **options)

    return write


def pickled(make: Callable[[Tensors], object], protocol: int) -> Writer:
    def write(state: Tensors, path: Path) -> None:
        path.write_bytes(pickle.dumps(make(state), protocol))

    return write


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
    "PyTorch's": [torch.Size([2]), torch.float16, torch.device("cpu"), torch.get_rng_state()],
    "SimpleNamespace": types.SimpleNamespace(a=1),
}
CONVERTED: dict[str, Writer] = {
    **{f"prefix {prefix}": prefixed(prefix) for prefix in PREFIXES},
    **{f"{name} inside": prefixed("", f"{name}.") for name in ("_orig_mod", "module")},
    "prefix and inside": prefixed("model.", "_orig_mod."),
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


@pytest.fixture(scope="module")
def state(project: Path) -> Tensors:
    return load_checkpoint(project / DIGITS).state


@pytest.fixture(scope="module")
def codes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the tensors of the packed file that the checkpoint itself becomes."""
    return packed_tensors(project / DIGITS, tmp_path_factory.mktemp("export"))


def packed_tensors(checkpoint: Path, folder: Path) -> bytes:
    apot_export.convert(checkpoint, folder / "export", **SETTINGS)
    data = (folder / "export" / PACKED_MODEL).read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]  # the header names the checkpoint


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


# --- what is refused, and the lines that make it convert ------------------------------------------


class Part(nn.Module):
    """A module of somebody's training code, with the tensors of a state dict."""

    def __init__(self, state: Tensors) -> None:
        super().__init__()
        for name, part in parts_of(state).items():
            if isinstance(part, dict):
                self.add_module(name, Part(part))
            else:
                self.register_buffer(name, part)


class Average:
    """An average of weights as training codes keep it, which is no module."""

    def __init__(self, state: Tensors) -> None:
        self.shadow = state

    def state_dict(self) -> Tensors:
        return self.shadow


class Options:
    """Options of somebody's training code."""


def parts_of(state: Tensors) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for key, value in state.items():
        first, dot, rest = key.partition(".")
        if dot:
            parts.setdefault(first, {})[rest] = value
        else:
            parts[first] = value
    return parts


REFUSED: dict[str, Writer] = {
    "a module": saved(Part),
    "a module in an old file": saved(Part, _use_new_zipfile_serialization=False),
    "a pickled module": pickled(Part, 4),
    "a module under a key": saved(lambda state: {"epoch": 3, "net": Part(state)}),
    "a module in a tuple": saved(lambda state: (Part(state), 3)),
    "a wrapped module": saved(lambda state: nn.ModuleDict({"module": Part(state)})),
    "an average": saved(lambda state: {"ema": Average(state), "best_prec": np.float64(98.6)}),
    "options": saved(lambda state: {"state_dict": state, "args": Options(), "lr": [np.float32(1)]}),
    "a class": saved(lambda state: {"state_dict": state, "type": [Options, Part]}),
    "options, pickled": pickled(lambda state: {"model": state, "args": Options()}, 2),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_printed_lines_make_a_checkpoint_that_converts(
    kind: str, state: Tensors, codes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / NAME
    REFUSED[kind](state, path)
    result = run("convert", path, "-o", tmp_path / "export")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nothing of it was run" in result.stderr
    assert f"{__name__}." in result.stderr
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_checkpoint(path)
    assert packed_tensors(resaved(caught.value, result.stderr, path), tmp_path) == codes


def resaved(error: CheckpointError, printed: str, path: Path) -> Path:
    """Run the lines that an error prints, and return the file that they write."""
    assert error.fix is not None
    lines = [line.strip() for line in printed.splitlines()][-4:]
    assert lines == error.fix.splitlines()[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of old classes
        exec("\n".join(lines), {})  # noqa: S102 - what the message asks for
    (made,) = set(path.parent.glob("resaved_*"))
    return made


def test_float64_beyond_float32_is_rounded_by_the_printed_lines(
    state: Tensors, codes: bytes, tmp_path: Path
) -> None:
    doubles = {k: v.double() * (1 + 1e-12) if v.ndim == 4 else v for k, v in state.items()}
    torch.save({"net": doubles}, tmp_path / NAME)
    save_file(doubles, tmp_path / "res8_4bit.safetensors")
    for name in (NAME, "res8_4bit.safetensors"):
        path = tmp_path / name
        result = run("convert", path, "-o", tmp_path / "export")
        with pytest.raises(CheckpointError, match="does not fit float32") as caught:
            load_checkpoint(path)
        made = resaved(caught.value, result.stderr, path)
        assert packed_tensors(made, tmp_path / name.partition(".")[2]) == codes
        made.unlink()


def test_torchscript_is_resaved_by_the_printed_lines(state: Tensors, tmp_path: Path) -> None:
    floats = {key: value for key, value in state.items() if "alpha" not in key}
    network = recognise({key: tuple(value.shape) for key, value in floats.items()}).build().eval()
    network.load_state_dict(floats, strict=False)
    path = tmp_path / "script.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of TorchScript
        traced = torch.jit.trace(network, torch.zeros(1, 1, 8, 8))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)
    result = run("convert", path)
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_checkpoint(path)
    loaded = load_checkpoint(resaved(caught.value, result.stderr, path))
    assert all(torch.equal(loaded.state[key], value) for key, value in floats.items())


def test_several_networks_are_listed(state: Tensors, tmp_path: Path) -> None:
    path = tmp_path / NAME
    other = {f"{key}.weight": torch.zeros(2) for key in ("a", "b")}
    torch.save({"G": state, "D": other, "optimizer_G": {"state": {0: {"weight": other}}}}, path)
    with pytest.raises(CheckpointError, match="several sets") as caught:
        load_checkpoint(path)
    assert caught.value.got == f"G ({len(state)} keys), D (2 keys)"
    assert list(load_checkpoint(path, "G").state) == list(state)


# --- what the file says of itself -----------------------------------------------------------------


def bits_of(path: Path, **choices: Any) -> tuple[int, str]:
    result = apot_export.convert(path, path.parent / "export", force=True, **choices)
    return int(result.bits), result.bits_from


def test_options_in_the_file_state_bits(state: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    options: object
    for options in ({"bit": 4}, argparse.Namespace(w_bits="4", act_bits=4, orbit=3)):
        torch.save({"state_dict": state, "args": options}, path)
        assert bits_of(path) == (4, "checkpoint")
    safe = tmp_path / "model.safetensors"
    save_file(state, safe, {"weight_bits": "4"})
    assert bits_of(safe, **SETTINGS) == (4, "checkpoint")
    for options in ({"bits": 4, "weight_bits": 3}, {"bits": 32}, {"bits": None}, 4):
        torch.save({"state_dict": state, "args": options}, path)
        assert bits_of(path) == (4, "batch-norm statistics")
    named = tmp_path / "res8_3bit.pth"
    torch.save({"state_dict": state, "args": {"bits": 4}}, named)
    with pytest.raises(BitWidthError, match="other bits than its name"):
        bits_of(named)
    assert bits_of(named, bits=4) == (4, "option")


@pytest.mark.parametrize("name", [NAME, "model.pth"])
def test_bits_of_a_network_without_thresholds(name: str, state: Tensors, tmp_path: Path) -> None:
    path = tmp_path / name
    choices = {} if name == NAME else {"bits": 4}
    floats = {key: value for key, value in state.items() if "alpha" not in key}
    torch.save({"state_dict": floats}, path)
    with pytest.raises(BitWidthError, match="no clipping thresholds") as caught:
        bits_of(path, **choices)
    assert "--bits 32" in str(caught.value.fix)
    assert bits_of(path, bits=32) == (32, "option")
    torch.save({"state_dict": {**floats, "layer1.0.conv1.step": torch.ones(1)}}, path)
    with pytest.raises(BitWidthError, match="no clipping thresholds") as caught:
        bits_of(path, **choices)
    assert "layer1.0.conv1.step" in str(caught.value.got)
    assert "--model" in str(caught.value.fix)


def test_names_that_look_like_wrappers_may_be_a_networks_own(
    state: Tensors, tmp_path: Path
) -> None:
    tensors = {f"model.module.{key}": value for key, value in state.items()}
    tensors["model.total_ops"] = torch.zeros(1)
    path = tmp_path / NAME
    torch.save(tensors, path)
    loaded: Checkpoint = load_checkpoint(path)
    assert loaded.state.keys() == state.keys()
    for prefix in ("model.module.", "module.", "model.", ""):
        expected = [prefix + key for key in state]
        assert list(loaded.state_for(expected)) == expected
    assert loaded.state_for([*tensors]).keys() == tensors.keys()


# --- sizes of images ------------------------------------------------------------------------------


def test_images_of_another_size(project: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    result = run("convert", project / DIGITS, "-o", export, "--input-shape", "1,12,10")
    assert "1 x 12 x 10" in result.output
    assert "as given" in result.output
    images = tmp_path / "images.npz"
    generator = np.random.default_rng(1)
    np.savez(images, images=generator.standard_normal((8, 1, 12, 10), np.float32))
    with contextlib.suppress(FileNotFoundError):
        result = run("verify", export, "--images", images, "--device", "cpu")
    assert "PASS" in result.output, result.output
    result = run("convert", project / DIGITS, "-o", export, "--input-shape", "3,8,8", "--force")
    assert (result.exit_code, "leave out --input-shape" in result.output) == (2, True)
    result = run("convert", project / DIGITS, "-o", export, "--force")
    assert "architecture" in result.output
