"""Forward passes as people write them: what is understood, and the line of what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from apot_export.encoding.capture import capture
from apot_export.encoding.encode import encode_network
from apot_export.errors import CaptureError
from apot_export.network import Clip, Concat, Upsample
from apot_export.network.oracle import run

SHAPE = (1, 8, 8)


def test_a_line_that_cannot_be_captured_is_named() -> None:
    class Branching(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return -image if image.mean() > 0 else image

    class Unknown(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.sort(image, dim=1)[0]

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Hardshrink()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            activated: torch.Tensor = self.act(image)
            return activated

    for module, code in (
        (Branching(), "-image if image.mean() > 0 else image"),
        (Unknown(), "torch.sort(image, dim=1)[0]"),
        (Inner(), "self.act(image)"),
    ):
        with pytest.raises(CaptureError) as caught:
            capture(module, SHAPE)
        assert code in (caught.value.where or "")
        assert Path(__file__).name in (caught.value.where or "")


# --- what a forward pass may be written as --------------------------------------------------------

WRITTEN: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], type]] = {
    "cat": (lambda x: torch.cat([x, x, functional.relu(x)], 1), Concat),
    "concat, negative": (lambda x: torch.concat((x, x), dim=-3), Concat),
    "interpolate": (lambda x: functional.interpolate(x, scale_factor=2), Upsample),
    "interpolate to a size": (lambda x: functional.interpolate(x, (16, 24)), Upsample),
    "clamp": (lambda x: x.clamp(-1, 1), Clip),
    "torch.clamp": (lambda x: torch.clamp(x, min=-0.5, max=2), Clip),
    "hardtanh": (lambda x: functional.hardtanh(x, -2, 2), Clip),
    "relu6": (functional.relu6, Clip),
}
FLATTENED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "view": lambda x: x.view(x.size(0), -1),
    "view of a shape": lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]),
    "view of a number": lambda x: x.contiguous().view(-1, 64),
    "reshape": lambda x: x.reshape((x.size()[0], 64)),
    "torch.reshape": lambda x: torch.reshape(x, (len_of(x), -1)),
    "mean": lambda x: x.mean([2, 3]),
    "torch.mean": lambda x: torch.mean(x, dim=(-1, -2)),
    "mean, kept": lambda x: x.mean((2, 3), keepdim=True).flatten(1),
    "global pool": lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "average pool": lambda x: functional.avg_pool2d(x, x.size(3)).flatten(1),
    "adaptive pool to the same size": lambda x: functional.adaptive_avg_pool2d(x, (8, 8)).flatten(
        1
    ),
    "dropout": lambda x: functional.dropout(x, 0.5, training=False).flatten(1),
}


def len_of(image: torch.Tensor) -> int:
    return image.size(0)


class Written(nn.Module):
    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.behaviour = forward

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.behaviour(image)


def assert_same(module: nn.Module) -> list[type]:
    source = capture(module.eval(), SHAPE)
    images = torch.randn((4, *SHAPE), generator=torch.Generator().manual_seed(5))
    got = run(encode_network(source), images.numpy())
    np.testing.assert_allclose(got, module(images.clone()).numpy(), rtol=1e-6, atol=1e-6)
    return [type(node.operation) for node in source.nodes]


@pytest.mark.parametrize(("forward", "operation"), WRITTEN.values(), ids=WRITTEN)
def test_operations_as_they_are_written(forward: Any, operation: type) -> None:
    assert operation in assert_same(Written(forward))


@pytest.mark.parametrize("forward", FLATTENED.values(), ids=FLATTENED)
def test_flattening_as_it_is_written(forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_same(Written(forward))


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x.view(-1, 32),
        lambda x: x.view(2, -1),
        lambda x: torch.cat([x, x], 0),
        lambda x: x.mean(0),
        lambda x: x[:1],
        lambda x: x * x.size(0),
        functional.hardshrink,
    ],
)
def test_what_only_looks_like_it_is_refused(forward: Any) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Written(forward), SHAPE)
    assert Path(__file__).name in (caught.value.where or "")
