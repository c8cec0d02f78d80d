"""Run an image through a packed file; show how its quantized layers multiply.

    python examples/read_packed.py res20_4bit/model.apot.safetensors image.npy

The image is what training saw: preprocessed, float32 [channels, height, width]. The reader is the
folder apot_export/downstream, which works as well as a copy in your own project.
"""

from __future__ import annotations

import sys

import numpy as np

from apot_export import downstream

packed_file, image_file = sys.argv[1:]
network = downstream.load(packed_file)
image = np.load(image_file).astype(np.float32)

(logits,) = network.run(image[np.newaxis])
for label in np.argsort(-logits, kind="stable")[:5]:
    print(f"class {label}: {logits[label]:.4f}")

for name, layer in network.layers.items():
    if layer.codes is None or layer.codebook is None or layer.quantizer is None:
        continue  # float weights, sign vectors, or an input that stays float
    print(f"{name}, {layer.codebook.bits} bits a weight")
    for code, level in list(zip(layer.codes.flat, layer.factors.flat, strict=True))[:4]:
        shifts = [
            f"{'-' if addend < 0 else '+'} (x << {abs(addend).bit_length() - 1})"
            for addend in layer.codebook.addends(int(code))
        ]
        print(f"  {level:4d} x = {' '.join(shifts) or '0'}")
