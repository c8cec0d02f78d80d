"""Write images and what your own code computes from them, for `apot-export verify --reference`.

    python examples/dump_reference.py reference.npz

As it stands it runs the digits network of `train_digits.py`; put your network and images in their
place. Only `dump` is needed: it stores the images exactly as your network reads them.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from train_digits import DEFAULT_OUTPUT, ResNet8, load_split, preprocess


def dump(path: Path, network: torch.nn.Module, images: torch.Tensor) -> None:
    """Write float32 images, `[N, C, H, W]` after your preprocessing, and the logits of them."""
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(batch) for batch in torch.split(images, 100)])
    np.savez(path, images=images.cpu().numpy(), logits=logits.cpu().float().numpy())


def main() -> None:
    """Dump the outputs of the digits network on its test images."""
    network = ResNet8()
    state = torch.load(DEFAULT_OUTPUT, weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    images, _ = load_split()[1]
    dump(Path(sys.argv[1]), network, preprocess(images))


if __name__ == "__main__":
    main()
