"""Train a small 4-bit APoT residual network on handwritten digits and save its checkpoint.

Weights and activations take 4-bit levels that are sums of powers of two, learned by
quantization-aware training as in "Additive Powers-of-Two Quantization: An Efficient Non-uniform
Discretization for Neural Networks" (Li, Dong, Wang, ICLR 2020; "the paper" below). The network is
the CIFAR ResNet with one block a stage (depth 8); the images are scikit-learn's 8x8 digits, which
come with that package. The checkpoint has the layout, down to the order of the keys, of those that
the paper's authors published for CIFAR-10.

    python examples/train_digits.py --test-split digits_test.npz

The network that is saved is the one after the last epoch: choosing the best epoch by its test
accuracy, as the name `model_best.pth.tar` suggests, would make that accuracy optimistic.
"""

import argparse
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

DEFAULT_OUTPUT = Path(__file__).parent / "digits" / "res8_4bit" / "model_best.pth.tar"

THREADS = 2
"""Fixed, because sums are split over threads and another split rounds differently."""
PROGRESS_EVERY = 10
"""Epochs between two lines of progress."""
TEST_FOLD, FOLDS = 4, 5
"""Image `i` is a test image if and only if `i % FOLDS == TEST_FOLD`."""
STAGE_CHANNELS = (8, 16, 32)
STAGE_STRIDES = (1, 2, 2)

BATCH_SIZE = 64
LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-4
INITIAL_ALPHA = 3.0
"""Clips almost nothing at first: weights and batch-normalized activations have unit variance."""

# Four bits are a sign and three bits of magnitude for a weight, four of magnitude for an
# activation. One term of each set below is chosen, and their sum is a level (paper, section 2.2).
# The order decides ties: a value halfway between two levels takes the one listed first, and this
# is the order in which the published training code lists them.
WEIGHT_LEVELS = torch.tensor([0, 2, 4, 8, 10, 6, 1, 3], dtype=torch.float32) * (1 / 10)
"""Float32 `[8]`: ({0, 8, 4, 1} + {0, 2}) / 10."""
ACTIVATION_LEVELS = torch.tensor(
    [0, 16, 32, 4, 1, 48, 36, 33, 8, 24, 12, 9, 2, 18, 6, 3], dtype=torch.float32
) * (1 / 48)
"""Float32 `[16]`: ({0, 32, 8, 2} + {0, 16, 4, 1}) / 48."""


def nearest_level(magnitude: Tensor, levels: Tensor) -> Tensor:
    """Round a float32 tensor of any shape to the nearest of `levels` `[L]`, the first if tied."""
    # Of equal distances, argmin returns the first.
    return levels[(magnitude.unsqueeze(-1) - levels).abs().argmin(dim=-1)]


def straight_through(value: Tensor, quantized: Tensor) -> Tensor:
    """Return `quantized`, bit for bit, with the gradient of `value`."""
    # In this order the difference is exactly 0; value + (quantized - value) would round.
    return quantized.detach() + (value - value.detach())


class WeightQuantizer(nn.Module):
    """Normalize a weight and quantize it to 4-bit APoT levels (paper, sections 2.2 to 2.4).

    `wgt_alpha` is the learned clipping threshold, a float32 scalar in standard deviations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wgt_alpha = nn.Parameter(torch.tensor(INITIAL_ALPHA))

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize a float32 weight of any shape.

        The normalization is not undone: the batch normalization that follows absorbs it. Automatic
        differentiation gives the paper's gradient of the threshold: `level - t` where `t` lies
        inside the clip, `sign(t)` outside.
        """
        normalized = (weight - weight.mean()) / weight.std(correction=1)
        clipped = (normalized / self.wgt_alpha).clamp(-1.0, 1.0)
        level = clipped.sign() * nearest_level(clipped.abs(), WEIGHT_LEVELS)
        return straight_through(clipped, level) * self.wgt_alpha


class QuantConv2d(nn.Conv2d):
    """Convolution without bias whose input and weight are both quantized to 4 bits.

    `act_alpha` is the learned clipping threshold of the input, a float32 scalar in its units.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        padding = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.act_alpha = nn.Parameter(torch.tensor(INITIAL_ALPHA))
        self.weight_quant = WeightQuantizer()

    def forward(self, features: Tensor) -> Tensor:
        """Convolve a non-negative float32 `[N, C, H, W]` after quantizing it.

        The gradient of `act_alpha` is `level - t` inside the clip and 1 outside.
        """
        clipped = (features / self.act_alpha).clamp(max=1.0)
        level = nearest_level(clipped, ACTIVATION_LEVELS)
        quantized = straight_through(clipped, level) * self.act_alpha
        weight = self.weight_quant(self.weight)
        return functional.conv2d(quantized, weight, None, self.stride, self.padding)


def quantize_to_8_bits(weight: Tensor) -> Tensor:
    """Round a float32 weight of any shape to 127ths of its maximum, keeping its gradient.

    The maximum is that of the signed values, as in the published code: a weight below minus the
    maximum goes past -127 and is not clipped.
    """
    maximum = weight.detach().max()
    return straight_through(weight, (weight / maximum * 127).round() / 127 * maximum)


class FirstConv2d(nn.Conv2d):
    """Convolution of an unquantized image by an 8-bit weight."""

    def forward(self, images: Tensor) -> Tensor:
        """Convolve a float32 `[N, C, H, W]`."""
        weight = quantize_to_8_bits(self.weight)
        return functional.conv2d(images, weight, None, self.stride, self.padding)


class LastLinear(nn.Linear):
    """Linear layer with an 8-bit weight; its input and its bias stay float32."""

    def forward(self, features: Tensor) -> Tensor:
        """Map a float32 `[N, in_features]` to `[N, out_features]`."""
        return functional.linear(features, quantize_to_8_bits(self.weight), self.bias)


class BasicBlock(nn.Module):
    """Two quantized 3x3 convolutions beside a shortcut that carries unquantized features."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = QuantConv2d(in_channels, out_channels, 3, stride)
        self.conv2 = QuantConv2d(out_channels, out_channels, 3, 1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            convolution = QuantConv2d(in_channels, out_channels, 1, stride)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Map a float32 `[N, C, H, W]` to `[N, out_channels, H / stride, W / stride]`."""
        hidden = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.downsample(features))


class ResNet8(nn.Module):
    """The CIFAR ResNet with one block a stage, for one-channel images.

    Attributes, and the order of their creation, are those of the published state dicts.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = STAGE_CHANNELS[0]
        self.conv1 = FirstConv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for out_channels, stride in zip(STAGE_CHANNELS, STAGE_STRIDES, strict=True):
            stages.append(nn.Sequential(BasicBlock(channels, out_channels, stride)))
            channels = out_channels
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = LastLinear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map float32 images `[N, 1, 8, 8]`, values 0 to 1, to logits `[N, 10]`."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def load_split() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Load the training and test splits: images uint8 `[N, 1, 8, 8]` 0..16, labels uint8 `[N]`."""
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.uint8))
    is_test = torch.arange(len(labels)) % FOLDS == TEST_FOLD
    return (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])


def preprocess(images: Tensor) -> Tensor:
    """Map uint8 pixels 0 to 16 to float32 0 to 1."""
    return images.to(torch.float32) / 16


def shift_randomly(images: Tensor) -> Tensor:
    """Move each image of `[N, C, 8, 8]` by -1, 0 or 1 pixels in each direction, filling with 0."""
    windows = functional.pad(images, (1, 1, 1, 1)).unfold(2, 8, 1).unfold(3, 8, 1)
    rows, columns = torch.randint(3, (2, len(images)))
    return windows[torch.arange(len(images)), :, rows, columns]


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> Iterator[float]:
    """Train in place on images and labels from `load_split`; yield each epoch's mean loss."""
    # Decay would pull the thresholds, which are scalars, towards 0, where nothing is defined.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in network.parameters() if p.dim() <= 1]},
    ]
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    inputs, targets = preprocess(images), labels.to(torch.int64)
    network.train()
    for _ in range(epochs):
        total_loss = 0.0
        for batch in torch.split(torch.randperm(len(inputs)), BATCH_SIZE):
            loss = functional.cross_entropy(network(shift_randomly(inputs[batch])), targets[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total_loss += loss.item() * len(batch)
        schedule.step()
        yield total_loss / len(inputs)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent on images and labels as `load_split` returns them."""
    network.eval()
    with torch.inference_mode():
        predictions = network(preprocess(images)).argmax(dim=1)
    return 100 * int((predictions == labels).sum()) / len(labels)


def save_checkpoint(path: Path, network: nn.Module, epochs: int, test_accuracy: float) -> None:
    """Write a checkpoint as the published training code does, without the optimizer's state.

    Raises:
        ValueError: If a tensor is not finite or a clipping threshold is not positive.
    """
    # The published networks were wrapped in DataParallel, which adds this prefix.
    state = OrderedDict((f"module.{key}", value) for key, value in network.state_dict().items())
    for key, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{key}: training left values that are not finite")
        if key.endswith("_alpha") and value <= 0:
            raise ValueError(f"{key}: expected a positive threshold, got {value.item()}")
    content = {"epoch": epochs, "state_dict": state, "best_prec": test_accuracy, "optimizer": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def main() -> None:
    """Train, evaluate once on the test split, and write the files."""
    parser = argparse.ArgumentParser(description="Train a 4-bit APoT ResNet-8 on 8x8 digits.")
    parser.add_argument("--epochs", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="checkpoint (default: %(default)s)"
    )
    parser.add_argument("--test-split", type=Path, help="also write the test images to this .npz")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error(f"--epochs: expected 1 or more, got {arguments.epochs}")

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(arguments.seed)
    training_split, test_split = load_split()
    network = ResNet8()
    start = time.perf_counter()
    for epoch, loss in enumerate(train(network, *training_split, arguments.epochs), start=1):
        if epoch % PROGRESS_EVERY == 0 or epoch == arguments.epochs:
            seconds = time.perf_counter() - start
            print(f"epoch {epoch}/{arguments.epochs}: training loss {loss:.4f}, {seconds:.0f} s")

    images, labels = test_split
    test_accuracy = accuracy(network, images, labels)
    print(f"test accuracy {test_accuracy:.2f} % on {len(labels)} images")
    save_checkpoint(arguments.output, network, arguments.epochs, test_accuracy)
    if arguments.test_split is not None:
        arguments.test_split.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(arguments.test_split, images=images.numpy(), labels=labels.numpy())


if __name__ == "__main__":
    main()
