"""Networks that a packed file states badly, under right checksums: refused, never misread."""

from __future__ import annotations

import pytest

from apot_export.artifacts.packed import load_packed
from apot_export.errors import PackedFileError
from conformance.generate import FOLDER, SUFFIX

REASONS = {
    "B1-a-table-of-length-3": "power-of-two length",
    "B2-an-addend-of-6": "0 or plus or minus a power of two",
    "B4-17-bits": "between 1 and 16 bits",
    "B5-a-denominator-of-0": "must be positive",
    "F9-infinity-in-network": "no JSON number",
    "G3-a-value-of-a-later-node": "no earlier node",
    "G4-an-output-of-no-node": "no node",
    "G5-relu-of-2": "number of inputs",
    "G6-an-output-of-levels": "of levels of q",
    "G7-a-layer-that-is-not-there": "does not exist",
    "G8-levels-of-a-float-layer": "no input quantizer",
    "L1-the-kind-sparse": "unknown kind",
    "L6-a-bit-after-the-last-code": "filling bits",
    "L7-a-tensor-of-no-layer": "no layer has the tensor x",
    "N2-a-relu-with-a-layer": "an object of name, operation, inputs",
    "N4-a-stride-of-1-0": "an integer",
    "N5-a-step-of-1e999": "a finite number",
    "O2-three-outputs-of-two-groups": "groups do not divide",
    "O5-a-padding-of-2-and-0": "in the padding alone",
    "O18-an-input-of-2-31-numbers": "too large",
    "Q1-a-threshold-of-0": "is not positive",
    "Q2-2i-over-alpha-is-infinite": "is too small",
    "R1-a-run-beyond-the-end": "numbers 2 to 5 of 4 parameters",
    "R3-an-overlap": "a run ends at 2, the next is at 1",
    "S2-digits-falling": "ascending",
    "S10-frequencies-of-15": "sum to 2^4",
    "S12-words-missing": "end too early",
    "T3-an-extent-of-0": "from 1",
    "T10-16384-bytes-off-the-boundary": "multiple of 64",
    "T13-one-too-few": "a checksum for every tensor",
    "T14-nan-in-f-weight": "not finite",
}
"""Files of the conformance kit, and a part of what is said of them."""


@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_a_refusal_says_what_is_wrong(name: str, reason: str) -> None:
    with pytest.raises(PackedFileError) as caught:
        load_packed(FOLDER / "invalid" / f"{name}{SUFFIX}").check()
    assert reason in str(caught.value)
