from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from apot_export.original import families
from apot_export.original.batch_norm import Normal, Site, find_sites
from apot_export.original.choices import Choices
from apot_export.original.published import load_original
from apot_export.original.quantization import Quantization
from apot_export.original.quantized_layers import QuantConv2d
from apot_export.original.witness import (
    Activations,
    Statistics,
    Weights,
    _expected_input,
    activation_hypotheses,
    same_weights,
    weigh,
    weight_hypotheses,
)

FAMILY = families.by_name("apot-v2")
TRUTHS = {
    "CIFAR10/result/res20_2bit/model_best.pth.tar": ("apot", 2),
    "CIFAR10/result/res20_3bit/model_best.pth.tar": ("apot", 3),
    "CIFAR10/result/res20_4bit/model_best.pth.tar": ("apot", 4),
    "MNIST/result/resnet10_3bit/model_best.pth.tar": ("apot", 3),
    "MNIST/result/resnet10_4bit_uniform/model_best.pth.tar": ("uniform", 4),
    "MNIST/result/resnet10_5bit/model_best.pth.tar": ("apot", 5),
    "Enhanced-Quantization/result/cifar100/res32_2bit/model_best.pth.tar": ("apot", 2),
    "ImageNet/res18_4bit.pth.tar": ("apot", 4),
}


class Chain(nn.Module):
    """Quantized convolutions, each behind a ReLU of a batch-norm, and a residual sum."""

    def __init__(self, quantization: Quantization, channels: int = 32, groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.convolutions = nn.ModuleList(
            QuantConv2d(
                *(channels, channels, 3),
                padding=1,
                bias=index == 1,
                groups=groups,
                quantization=quantization,
            )
            for index in range(4)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(4))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        value = functional.relu(self.norm(self.first(image)))
        for index, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            result = norm(convolution(value))
            value = functional.relu(result + value if index == 2 else result)
        return value


def trained(quantization: Quantization, *, groups: int = 1, seed: int = 0) -> Chain:
    """Return a network whose batch-norms saw images under a quantization."""
    torch.manual_seed(seed)
    chain = Chain(quantization, groups=groups)
    for module in chain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.5)
        if isinstance(module, QuantConv2d):
            nn.init.normal_(module.weight, 0.1, 1.0 if quantization.normalize_weights else 0.5)
            nn.init.constant_(module.weight_alpha, 1.7)
            nn.init.constant_(module.act_alpha, 2.0)
    with torch.no_grad():
        for _ in range(4):
            chain.train()(torch.randn(16, 3, 16, 16))
    return chain.eval()


def verdict(quantization: Quantization, **options: int) -> Statistics:
    return weigh(trained(quantization, **options), (3, 16, 16), FAMILY)


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        *(("apot", bits) for bits in (2, 3, 4, 5)),
        *(("pot", bits) for bits in (3, 4)),
        *(("uniform", bits) for bits in (3, 4, 5)),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_true_weights_are_found(method: str, bits: int, normalize: bool) -> None:
    quantization = Quantization(
        family=FAMILY.name,
        weight_bits=bits,
        activation_bits=4,
        method=method,
        normalize_weights=normalize,
    )
    found = verdict(quantization)
    truth = Weights(method=method, bits=bits, normalize_weights=normalize)
    assert found.best is not None
    assert same_weights(FAMILY, found.best, truth)
    assert found.decisive
    assert found.sites == 4


def test_the_legacy_divisor_is_found() -> None:
    common = {"family": FAMILY.name, "weight_bits": 4, "activation_bits": 3, "method": "uniform"}
    for legacy in (False, True):
        found = verdict(Quantization(**common, legacy_divisor=legacy))  # type: ignore[arg-type]
        best = found.activations[0].hypothesis
        assert best.legacy_divisor == legacy
        other = [s for s in found.activations if s.hypothesis.legacy_divisor != legacy]
        assert max(support.evidence for support in other) < -10


def test_grouped_convolutions_are_compared_group_by_group() -> None:
    quantization = Quantization(family=FAMILY.name, weight_bits=4, activation_bits=4)
    found = verdict(quantization, groups=4)
    assert found.decisive
    assert found.best == Weights(method="apot", bits=4)


def test_a_network_without_batch_norm_decides_nothing() -> None:
    quantization = Quantization(family=FAMILY.name, weight_bits=4, activation_bits=4)
    layers = [QuantConv2d(3, 8, 3, quantization=quantization), nn.ReLU()]
    found = weigh(nn.Sequential(*layers).eval(), (3, 8, 8), FAMILY)
    assert (found.sites, found.best, found.decisive) == (0, None, False)


def test_a_family_without_thresholds_has_no_hypotheses() -> None:
    assert weight_hypotheses(families.FULL_PRECISION) == []


def test_equal_levels_are_one_hypothesis() -> None:
    ternary = [h for h in weight_hypotheses(FAMILY) if h.bits == 2]
    assert len(ternary) == 1
    first, second = (Weights(method=method, bits=2) for method in ("apot", "uniform"))
    assert same_weights(FAMILY, first, second)
    assert not same_weights(FAMILY, first, Weights(method="apot", bits=3))


@pytest.mark.parametrize("hypothesis", activation_hypotheses(FAMILY), ids=str)
def test_expected_inputs_are_the_means_of_quantized_samples(hypothesis: Activations) -> None:
    bits = min(hypothesis.bits, 8)
    quantization = Quantization(
        family=FAMILY.name,
        weight_bits=4,
        activation_bits=bits,
        method=hypothesis.method,
        legacy_divisor=hypothesis.legacy_divisor,
    )
    layer = QuantConv2d(3, 4, 1, quantization=quantization)
    nn.init.constant_(layer.act_alpha, 1.3 if hypothesis.bits < 32 else 100)
    mean, deviation = np.array([-0.5, 0.2, 1.1]), np.array([0.4, 1.0, 0.7])
    site = Site(
        name="layer",
        layer=layer,
        source=Normal(mean=mean, deviation=deviation, rectified=True),
        channels=np.arange(4),
        means=np.zeros(4),
        variances=np.ones(4),
        inside=np.ones(1),
    )
    samples = torch.from_numpy(np.random.default_rng(0).normal(mean, deviation, (400_000, 3)))
    with torch.inference_mode():
        values = functional.relu(samples.float())
        quantized = values if hypothesis.bits == 32 else layer.quantized_input(values)
    expected = _expected_input(site, hypothesis)
    np.testing.assert_allclose(expected, quantized.mean(dim=0).numpy(), atol=6e-3)


def test_moments_behind_a_relu_are_those_of_samples() -> None:
    normal = Normal(mean=np.array([-1.0, 0.3]), deviation=np.array([0.8, 1.2]), rectified=True)
    samples = np.random.default_rng(0).normal(normal.mean, normal.deviation, (400_000, 2))
    mean, variance = normal.moments()
    np.testing.assert_allclose(mean, np.maximum(samples, 0).mean(axis=0), atol=5e-3)
    np.testing.assert_allclose(variance, np.maximum(samples, 0).var(axis=0), atol=5e-3)


@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"padding": (2, 0), "stride": (1, 2)}, {"padding": 3, "dilation": 2}],
)
def test_taps_count_where_they_lie_inside_the_image(options: dict[str, int]) -> None:
    quantization = Quantization(family=FAMILY.name, weight_bits=4, activation_bits=4)
    make: Callable[..., QuantConv2d] = QuantConv2d
    layer = make(2, 3, (3, 3), bias=False, quantization=quantization, **options)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), layer, nn.BatchNorm2d(3)).eval()
    (site,) = find_sites(network, (2, 9, 8))
    for tap in range(9):
        kernel = torch.zeros(1, 1, 9)
        kernel[0, 0, tap] = 1
        plain = functional.conv2d(
            torch.ones(1, 1, 9, 8),
            kernel.reshape(1, 1, 3, 3),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
        )
        assert site.inside[tap] == pytest.approx(float(plain.mean()))


@pytest.mark.parametrize("checkpoint", TRUTHS)
def test_published_checkpoints_are_decided_rightly(checkpoint: str, reference: Path) -> None:
    method, bits = TRUTHS[checkpoint]
    original = load_original(reference / "checkpoints" / checkpoint, Choices(bits=4, method="apot"))
    found = weigh(original.module, original.architecture.input_shape, original.family)
    assert found.best == Weights(method=method, bits=bits)
    assert found.decisive
