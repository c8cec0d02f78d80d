"""From trained sign vectors to packed bit-planes."""

from __future__ import annotations

import numpy as np

from apot_export.errors import WeightError
from apot_export.network.bitpack import pack
from apot_export.network.layers import MultiBitWeights
from apot_export.network.planes import Planes, as_terms, summed_terms

_MAXIMUM_BASES = 255


def encode_planes(
    name: str, shape: tuple[int, ...], weights: MultiBitWeights, *, alpha_terms: int = 0
) -> Planes:
    """Pack the bases in use, one bit a weight, group by group.

    With `alpha_terms`, coordinates become the best sums of that many powers of two.

    Raises:
        WeightError: A basis in use has entries other than -1 and +1, or the arrays do not fit.
    """
    bases, mask = weights.bases, weights.mask
    out, groups, slots, group_size = bases.shape
    fits = mask.shape == weights.coordinates.shape == (out, groups, slots)
    if not fits or out * groups * group_size != int(np.prod(shape, dtype=np.int64)):
        raise WeightError(
            "The bases of a layer do not fit its weights.",
            where=name,
            expected=f"{list(shape)} weights",
            got=f"bases {list(bases.shape)}, mask {list(mask.shape)}",
        )
    used = bases[mask]
    if used.size and not (np.abs(used) == 1).all():
        raise WeightError(
            "A basis in use has entries other than -1 and +1.",
            where=name,
            got=str(int((np.abs(used) != 1).sum())) + " of them",
        )
    counts = mask.sum(axis=2).reshape(-1)
    if counts.max(initial=0) > _MAXIMUM_BASES:
        raise WeightError("A group has more than 255 bases.", where=name)
    coordinates = np.ascontiguousarray(weights.coordinates[mask], dtype=np.float32)
    if not np.isfinite(coordinates).all():
        raise WeightError(
            "A coordinate is not finite.", where=name, expected="finite float32 values"
        )
    terms = None
    if alpha_terms:
        terms = as_terms(coordinates, alpha_terms)
        coordinates = summed_terms(terms)
    return Planes(
        shape=shape,
        group_size=group_size,
        position_major=weights.position_major,
        counts=counts.astype(np.uint8),
        packed=pack((used.reshape(-1) > 0).astype(np.uint8), 1),
        coordinates=coordinates,
        terms=terms,
    )
