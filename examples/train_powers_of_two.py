"""Train a network whose weights are 0 or plus or minus a power of two, and save its checkpoint.

Training is "Incremental Network Quantization: Towards Lossless CNNs with Low-Precision Weights"
(Zhou et al., ICLR 2017; "the paper" below): after some epochs in float32 the largest weights of
every layer are rounded to powers of two and frozen, the others are trained on to make up for it,
and so on until all are frozen. Activations stay float32. The network is the one of
`train_digits.py` with plain layers.

    python examples/train_powers_of_two.py inq_digits.pth.tar
    apot-export convert inq_digits.pth.tar

Nothing in the checkpoint says that its weights are powers of two: `convert` finds
it in the numbers.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from train_digits import ResNet8, accuracy, load_split, save_checkpoint, train

BITS = 5
"""One bit says whether a weight is 0; the others choose among 2 ** (BITS - 1) powers, signed."""
PORTIONS = (0.0, 0.5, 0.75, 0.875, 1.0)
"""Share of the weights that is frozen in each phase of training (paper, section 3.1)."""


class Incremental(nn.Module):
    """The weights of a layer: frozen powers of two among float32 numbers."""

    frozen: Tensor
    powers: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("frozen", torch.zeros_like(weight, dtype=torch.bool))
        self.register_buffer("powers", torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights to compute with, float32, weight shape."""
        return torch.where(self.frozen, self.powers, weight)

    def freeze(self, weight: Tensor, portion: float) -> None:
        """Round the largest weights of a layer, so that a portion of all is frozen."""
        magnitude = weight.abs()
        if not self.frozen.any():
            # Of all phases: the powers of two from the largest weight's on (paper, equation 3).
            self.largest = int(torch.floor(torch.log2(magnitude.max() * 4 / 3)))
        smallest = self.largest + 1 - 2 ** (BITS - 2)
        # 2 ** k takes what lies from 3/4 to 3/2 of it (paper, equation 4).
        exponent = torch.floor(torch.log2(magnitude * 4 / 3)).clamp(max=self.largest)
        power = weight.sign() * torch.exp2(exponent.clamp(min=smallest))
        power = torch.where(magnitude < 2.0 ** (smallest - 1), 0.0, power)
        order = magnitude.masked_fill(self.frozen, torch.inf).flatten().argsort(descending=True)
        chosen = torch.zeros_like(self.frozen).flatten()
        chosen[order[: round(portion * weight.numel())]] = True
        chosen = chosen.view_as(self.frozen)
        self.powers = torch.where(chosen & ~self.frozen, power, self.powers)
        self.frozen |= chosen


def plain_network() -> ResNet8:
    """Return the digits network with layers of float32 weights."""
    network = ResNet8()
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
            sizes: dict[str, Any] = {size: getattr(layer, size) for size in names}
            network.set_submodule(name, nn.Conv2d(**sizes, bias=False))
        elif isinstance(layer, nn.Linear):
            network.set_submodule(name, nn.Linear(layer.in_features, layer.out_features))
    return network


def main() -> None:
    """Train phase by phase, evaluate once on the test split, and write the checkpoint."""
    parser = argparse.ArgumentParser(description="Train a ResNet-8 with power-of-two weights.")
    parser.add_argument("output", type=Path, help="checkpoint")
    parser.add_argument("--epochs", type=int, default=5, help="of a phase; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error(f"--epochs: expected 1 or more, got {arguments.epochs}")

    torch.set_num_threads(1)  # the network is too small for more
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(arguments.seed)
    training_split, test_split = load_split()
    network = plain_network()
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    rules = [Incremental(layer.weight.detach()) for layer in layers]
    for layer, rule in zip(layers, rules, strict=True):
        parametrize.register_parametrization(layer, "weight", rule)
    for portion in PORTIONS:
        for layer, rule in zip(layers, rules, strict=True):
            rule.freeze(layer.weight.detach(), portion)
        # In the last phase only biases and batch-norms are left to be trained.
        *_, loss = train(network, *training_split, arguments.epochs)
        print(f"{portion:.1%} of the weights are powers of two: training loss {loss:.4f}")
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    test_accuracy = accuracy(network, *test_split)
    print(f"test accuracy {test_accuracy:.2f} % on {len(test_split[1])} images")
    save_checkpoint(arguments.output, network, len(PORTIONS) * arguments.epochs, test_accuracy)


if __name__ == "__main__":
    main()
