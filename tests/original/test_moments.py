"""Mean and deviation of weights: the same whatever the threads and the memory layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from apot_export.encoding.capture import capture
from apot_export.encoding.weights import encode_layer
from apot_export.network import CodedLayer
from apot_export.original.checkpoint import load_checkpoint
from apot_export.original.moments import weight_moments
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import QuantConv2d
from tests.support.published import PUBLISHED
from tests.support.pytorch_sums import as_pytorch

KIND = Quantization(family="apot-v2", weight_bits=4, activation_bits=4)
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels last": lambda weight: weight.to(memory_format=torch.channels_last),
    "transposed": lambda weight: weight.transpose(0, 1).contiguous().transpose(0, 1),
    "every second number of a storage": lambda weight: torch.stack([weight, -weight], -1)[..., 0],
    "the end of a storage": lambda weight: torch.cat([weight, weight])[len(weight) :],
}


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    """Return weights whose mean is 0.3 deviations: its last bits decide the codes of some."""
    values = np.random.default_rng(seed).normal(0.006, 0.02, count)
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return drawn(256 * 128 * 9).reshape(256, 128, 3, 3)


def layer_of(weight: torch.Tensor) -> QuantConv2d:
    module = QuantConv2d(weight.shape[1], weight.shape[0], 3, quantization=KIND)
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return module


def bits(moments: tuple[torch.Tensor, torch.Tensor]) -> list[int]:
    return [int(moment.view(torch.int32)) for moment in moments]


@as_pytorch
@pytest.mark.usefixtures("one_thread")
def test_moments_are_pytorchs_with_one_thread() -> None:
    for seed in range(200):
        values = drawn(int(np.exp(np.random.default_rng(seed).uniform(0.7, 14))), seed)
        assert bits(weight_moments(values)) == bits((values.mean(), values.std())), values.numel()


@as_pytorch
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", PUBLISHED)
def test_moments_of_published_weights_are_pytorchs(name: str, reference: Path) -> None:
    state = load_checkpoint(reference / "checkpoints" / PUBLISHED[name].checkpoint).state
    for key, values in state.items():
        if values.ndim > 1:
            expected = values.contiguous()
            assert bits(weight_moments(values)) == bits((expected.mean(), expected.std())), key


def test_moments_are_close_to_exact_ones(weight: torch.Tensor) -> None:
    mean, deviation = weight_moments(weight)
    assert mean.dtype == deviation.dtype == torch.float32
    assert float(mean) == pytest.approx(float(weight.double().mean()), rel=1e-6)
    assert float(deviation) == float(weight.double().std().float())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_memory_layout_changes_the_moments(weight: torch.Tensor, layout: str) -> None:
    other = LAYOUTS[layout](weight)
    assert torch.equal(other, weight)
    assert other.storage_offset() or not other.is_contiguous()
    assert bits(weight_moments(other)) == bits(weight_moments(weight))


def test_neither_threads_nor_layouts_change_codes_or_weights(weight: torch.Tensor) -> None:
    before = torch.get_num_threads()
    found = set()
    try:
        for threads in (1, 2, 4, 16, 64):
            torch.set_num_threads(threads)
            for arranged in (weight, LAYOUTS["channels last"](weight)):
                module = layer_of(arranged)
                source = capture(torch.nn.Sequential(module), (128, 4, 4)).layers["0"]
                layer = encode_layer(source)
                assert isinstance(layer, CodedLayer)
                found.add((layer.packed.tobytes(), layer.values.tobytes()))
                assert np.array_equal(
                    module.quantized_weight().detach().contiguous().numpy().view(np.uint32),
                    layer.weights().view(np.uint32),
                )
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
