"""A reader and executor of packed files that stands alone: copy this folder into any project.

It is written from FORMAT.md, whose section numbers stand in brackets, and imports numpy and nothing
else. So it shows what code behind an export has to do, and it is a witness of its own: where it
computes what was trained, the packed file and its documentation say enough. The integer program (8)
is left to machines without floats.
"""

from __future__ import annotations

from ._layers import Codebook, Layer, Quantizer
from ._network import DownstreamNetwork, load

__all__ = ["Codebook", "DownstreamNetwork", "Layer", "Quantizer", "load"]
