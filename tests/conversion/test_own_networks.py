"""Networks around which training left something: wrappers, hooks, masks, replaced methods."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.optim.swa_utils import AveragedModel

import apot_export
from apot_export.artifacts.directory import ONNX_MODEL
from apot_export.errors import ApotExportError
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.training_codes import (
    QuantConvV1,
    QuantConvV2,
    WeightQuant,
    levels,
    make,
    nearest,
    normalised,
)

SHAPE = (1, 8, 8)


class Trainer(nn.Module):
    """A training loop around a network, which has no forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.loss = network, nn.CrossEntropyLoss(weight=torch.ones(10))


class Around(nn.Module):
    """A network of which a part is wrapped."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.first = wrap(nn.Conv2d(1, 1, 1))
        self.rest = wrap(make())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.rest(self.first(image))
        return result


def compiled(network: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(network)  # type: ignore[assignment]  # it is a module
    return wrapped


def compiled_in_place(network: nn.Module) -> nn.Module:
    network.compile()
    return network


def with_compiled_forward(network: nn.Module) -> nn.Module:
    class Compiled(type(network)):  # type: ignore[misc]  # of the network given
        forward = torch.compile(type(network).forward)

    network.__class__ = Compiled
    return network


def pruned(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            prune.random_unstructured(layer, "weight", 0.3)  # type: ignore[no-untyped-call]
    return network


def normed(network: Any) -> nn.Module:
    network.down.weight.requires_grad_(requires_grad=True)
    network.down = weight_norm(network.down)
    parametrizations.weight_norm(network.bottom)
    return network


def observed(network: nn.Module) -> nn.Module:
    for part in network.modules():
        part.register_forward_hook(lambda _module, _inputs, _output: None)
        part.register_forward_pre_hook(lambda _module, _inputs: None)
    return network


HARMLESS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "torch.compile": compiled,
    "module.compile": compiled_in_place,
    "a compiled forward": with_compiled_forward,
    "AveragedModel": AveragedModel,
    "several wrappers": lambda network: compiled(nn.DataParallel(AveragedModel(network))),
    "a training loop": Trainer,
    "pruning": pruned,
    "weight norm": normed,
    "hooks that only look": observed,
    "compiled parts": lambda _: Around(compiled),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("wrap", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_nothing_is_taken_off(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    network = wrap(make())
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    images = torch.rand((16, *SHAPE), generator=torch.Generator().manual_seed(5)) * 3 - 1
    plain: Any = network
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = getattr(plain, "network", plain)(images).numpy()
    session = open_session((result.path / ONNX_MODEL).read_bytes(), "cpu")
    agreeing = np.isclose(session.run(images.numpy()), expected, rtol=1e-4, atol=1e-4)
    assert agreeing.all(axis=1).mean() > 0.8  # the rest has levels that float noise moves


# --- what changes a result ------------------------------------------------------------------------


def hooked(name: str) -> Callable[[Any], None]:
    def change(network: Any) -> None:
        part = network.get_submodule(name)
        part.register_forward_hook(lambda _module, _inputs, output: output * 1.3)

    return change


def pre_hooked(name: str) -> Callable[[Any], None]:
    def change(network: Any) -> None:
        part = network.get_submodule(name)
        part.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1.3,))

    return change


def replaced(network: Any) -> None:
    network.head[1].forward = types.MethodType(
        lambda self, features: nn.functional.linear(features, self.weight) * 2, network.head[1]
    )


def noisy(network: Any) -> None:
    network.relu.forward = lambda image: torch.relu(image + torch.rand(()))


CHANGING: dict[str, tuple[Callable[[Any], None], str]] = {
    **{f"hook on {name or 'the network'}": (hooked(name), "forward hook") for name in (
        "", "inc", "bn1", "relu", "up", "down", "fuse", "head", "head.1",
    )},
    **{f"pre-hook on {name or 'the network'}": (pre_hooked(name), "forward pre-hook") for name in (
        "", "inc", "bn1", "up", "down", "fuse", "head", "head.1",
    )},
    "a layer's own forward": (replaced, "head.1"),
    "random numbers": (noisy, ""),
}  # fmt: skip


@pytest.mark.parametrize(("change", "named"), CHANGING.values(), ids=CHANGING)
def test_what_changes_a_result_is_refused(
    change: Callable[[Any], None], named: str, tmp_path: Path
) -> None:
    network = make()
    change(network)
    with pytest.raises(ApotExportError) as caught:
        apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    assert named in str(caught.value)
    assert not (tmp_path / "export").exists()


def test_a_layer_of_full_precision_by_its_bits(tmp_path: Path) -> None:
    class Unquantized(QuantConvV2):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(image, self.weight, self.bias)

    network: Any = make()
    network.fuse = Unquantized(30, 6, 3, padding=1)
    network.fuse.bit = 32
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    assert result.bits == 4


# --- what objects state, and what they compute ----------------------------------------------------


class AuthorsWeightQuant(WeightQuant):
    """As the code of 2020 holds it: without its level set, with the bits of magnitudes."""

    def __init__(self, bit: int) -> None:
        super().__init__(levels(bit - 1))
        self.w_bit = bit - 1
        self.kept, self.grids = (self.grids,), None  # type: ignore[assignment]

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        weight = normalised(weight, self.wgt_alpha)
        return nearest(weight.abs(), self.kept[0]) * weight.sign() * self.wgt_alpha


@pytest.mark.parametrize(("said", "bits"), [(4, 3), (3, 4), (4, 4)])
def test_layers_whose_quantizers_were_replaced_are_what_they_compute(
    said: int, bits: int, tmp_path: Path
) -> None:
    network: Any = make(kind="v1", bit=said)
    for layer in network.modules():
        if isinstance(layer, QuantConvV1):
            layer.weight_quant = AuthorsWeightQuant(bits)
            layer.act_grid = levels(bits)
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    assert (result.bits, result.activation_bits) == (bits, bits)


def test_a_level_set_that_nothing_states_is_found(tmp_path: Path) -> None:
    class Silent(QuantConvV2):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.power = False
            result = super().forward(image)
            del self.power
            return result

    network: Any = make(power=False)
    for layer in network.modules():
        if isinstance(layer, QuantConvV2):
            layer.__class__ = Silent
            layer.bit = np.int64(4)
            del layer.power
    result = apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    assert (result.bits, result.method, result.method_from) == (4, "uniform", "network")


# --- several results ------------------------------------------------------------------------------


class Several(nn.Module):
    """Three results, of which one may be more than the graph says."""

    def __init__(self, hidden: float = 1.0) -> None:
        super().__init__()
        self.network = make()
        self.hidden = hidden

    def forward(self, image: torch.Tensor) -> Any:
        logits = self.network(image)
        doubled = logits * 2
        # Under a trace a value is no tensor: what only tensors get is not captured.
        third = logits * self.hidden if isinstance(logits, torch.Tensor) else logits * 1.0
        return {"image": image, "first": logits, "again": logits, "rest": [doubled, third]}


def test_every_result_is_compared(tmp_path: Path) -> None:
    apot_export.convert(Several(), tmp_path / "export", input_shape=SHAPE)
    with pytest.raises(ApotExportError, match="result 4"):
        apot_export.convert(Several(1.1), tmp_path / "other", input_shape=SHAPE)
    assert not (tmp_path / "other").exists()


# --- what one forward pass leaves to the next -----------------------------------------------------


class Keeping(nn.Module):
    """Keeps something of its input."""

    def __init__(self, keep: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.keep = keep
        self.count, self.on = 0, False
        self.kept: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.keep(self, x)


def counting(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.count += 1
    return x


def looking(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.kept = x.mean() if type(x) is torch.Tensor else None
    return x


def scaled_by_count(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.count += 1
    return x * (1 + self.count)


def toggling(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.on = not self.on
    return x if self.on else x * 1.2


def centred_once(self: Any, x: torch.Tensor) -> torch.Tensor:
    if self.kept is None:
        self.kept = x.mean((0, 2, 3), keepdim=True)
    return x - self.kept


def keeping(keep: Callable[[Any, torch.Tensor], torch.Tensor]) -> nn.Module:
    network: Any = make()
    network.bn1 = nn.Sequential(network.bn1, Keeping(keep))
    network.eval()
    made: nn.Module = network
    return made


@pytest.mark.parametrize("keep", [counting, looking])
def test_what_nobody_reads_may_be_kept(keep: Any, tmp_path: Path) -> None:
    apot_export.convert(keeping(keep), tmp_path / "export", input_shape=SHAPE)


@pytest.mark.parametrize("keep", [scaled_by_count, toggling, centred_once])
def test_what_the_next_forward_pass_reads_is_refused(keep: Any, tmp_path: Path) -> None:
    with pytest.raises(ApotExportError, match="changes the network") as caught:
        apot_export.convert(keeping(keep), tmp_path / "export", input_shape=SHAPE)
    assert "bn1.1." in str(caught.value.got)
    assert not (tmp_path / "export").exists()


def test_a_threshold_that_a_hook_changes_is_refused(tmp_path: Path) -> None:
    network: Any = make()
    network.fuse.register_forward_pre_hook(lambda layer, _: layer.act_alpha.data.mul_(0.9) and None)
    with pytest.raises(ApotExportError, match=r"fuse\.act_alpha"):
        apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)


def test_hooks_of_all_modules_are_named(tmp_path: Path) -> None:
    handle = nn.modules.module.register_module_forward_hook(
        lambda layer, _, output: output * 1.1 if isinstance(layer, nn.BatchNorm2d) else None
    )
    try:
        with pytest.raises(ApotExportError, match="of all modules"):
            apot_export.convert(make(), tmp_path / "export", input_shape=SHAPE)
    finally:
        handle.remove()


@pytest.mark.parametrize("images", [1, 5])
def test_a_branch_for_some_numbers_of_images_is_refused(images: int, tmp_path: Path) -> None:
    network = keeping(lambda _, x: x * 2 if x.size(0) == images else x)
    with pytest.raises(ApotExportError, match="data-dependent"):
        apot_export.convert(network, tmp_path / "export", input_shape=SHAPE)
    always = keeping(lambda _, x: x if x.size(0) > 0 and x.shape[0] == x.size()[0] else x * 2)
    apot_export.convert(always, tmp_path / "export", input_shape=SHAPE)


@pytest.mark.parametrize("model", ["tests.support.training_codes:make", None])
def test_a_pruned_checkpoint_needs_its_masks_applied(model: str | None, tmp_path: Path) -> None:
    network = pruned(make())
    path = tmp_path / "net_4bit.pth"
    torch.save(network.state_dict(), path)
    options: dict[str, Any] = {"model": model, "input_shape": SHAPE} if model else {}
    with pytest.raises(ApotExportError, match=r"prune\.remove\(layer, 'weight'\)") as caught:
        apot_export.convert(path, tmp_path / "export", **options)
    assert "inc.weight_mask" in str(caught.value.got)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    torch.save(network.state_dict(), path)
    if model:
        assert apot_export.convert(path, tmp_path / "export", **options).bits == 4
