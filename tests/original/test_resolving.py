"""Which statement decides about each part of a quantization, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from apot_export.errors import ApotExportError, BitWidthError, CodebookError, RecognitionError
from apot_export.original import families
from apot_export.original.choices import Choices
from apot_export.original.level_sets import activation_level_set, weight_level_set
from apot_export.original.original import LayerPlan
from apot_export.original.quantization import LayerBits, Quantization, Stated
from apot_export.original.resolving import resolve
from apot_export.original.statements import LayerFacts

V2, NONZERO = families.by_name("apot-v2"), families.by_name("nonzero")
UNKNOWN = LayerBits(pattern="c*", weight_bits=2, activation_bits=2)
SILENT = [LayerFacts(name="a"), LayerFacts(name="b")]
NAMED = Path("runs/res20_4bit_uniform/model_best.pth.tar")


def sources(plan: LayerPlan) -> tuple[str, str, str]:
    return plan.bits.source, plan.method.source, plan.grid.source


def test_names_state_what_nothing_else_does() -> None:
    plan = resolve(V2, SILENT, Choices(), NAMED)
    expected = Quantization(family="apot-v2", weight_bits=4, activation_bits=4, method="uniform")
    assert plan.layers == {"a": expected, "b": expected}
    assert plan.bits == Stated(4, "folder name")
    assert sources(plan) == ("folder name", "folder name", "assumption")
    assert (plan.choices.bits, plan.choices.method) == (4, "uniform")


def test_options_come_before_names() -> None:
    plan = resolve(V2, SILENT, Choices(bits=3, activation_bits=5, method="apot"), NAMED)
    assert (plan.default.weight_bits, plan.default.activation_bits) == (3, 5)
    assert sources(plan) == ("option", "option", "assumption")


def test_level_sets_of_weights_and_activations_are_stated_apart() -> None:
    plan = resolve(V2, SILENT, Choices(activation_method="apot", activation_bits=3), NAMED)
    assert plan.method == Stated("uniform", "folder name")
    assert plan.activation_method == Stated("apot", "option")
    assert plan.activation_bits == Stated(3, "option")
    assert plan.layers["a"].activation_method == "apot"


def test_a_name_states_bits_of_activations() -> None:
    plan = resolve(V2, SILENT, Choices(), Path("res18_w4a3.pth.tar"))
    assert (plan.bits, plan.activation_bits) == (Stated(4, "file name"), Stated(3, "file name"))
    plan = resolve(V2, SILENT, Choices(bits=2), Path("res18_w4a3.pth.tar"))
    assert (plan.bits, plan.activation_bits) == (Stated(2, "option"), Stated(2, "assumption"))


def test_the_first_release_has_uniform_activations_and_nothing_else() -> None:
    family = families.by_name("first-release")
    plan = resolve(family, SILENT, Choices(bits=3), None)
    assert plan.method == Stated("apot", "family")
    assert plan.activation_method == Stated("uniform", "family")
    with pytest.raises(CodebookError, match="no such level set of activations"):
        resolve(family, SILENT, Choices(bits=3, activation_method="apot"), None)
    with pytest.raises(CodebookError, match="no such level set"):
        resolve(family, SILENT, Choices(bits=3, method="uniform"), None)
    with pytest.raises(BitWidthError, match="4 bits that --bits states"):
        resolve(family, SILENT, Choices(bits=4), None)


def test_families_with_the_same_keys() -> None:
    keys = ["conv1.weight", "layer1.0.conv1.weight_quant.wgt_alpha", "layer1.0.conv1.act_alpha"]
    assert families.recognise(keys).name == "apot-v1"
    assert families.recognise(keys, "first-release", bare=True).name == "first-release"
    assert families.recognise([*keys, "layer1.0.conv1.factorW"], bare=True).name == "nonzero"
    with pytest.raises(RecognitionError, match="Two families have these keys"):
        families.recognise(keys, bare=True)
    with pytest.raises(RecognitionError, match="not those of the family"):
        families.recognise(keys, "apot-v2")


def test_objects_come_before_names_and_may_differ() -> None:
    facts = [LayerFacts(name="a", bits=4, power=True), LayerFacts(name="b", bits=3, power=False)]
    plan = resolve(V2, facts, Choices(), NAMED)
    assert [(q.weight_bits, q.method) for q in plan.layers.values()] == [
        (4, "apot"),
        (3, "uniform"),
    ]
    assert sources(plan) == ("network", "network", "assumption")


def test_a_level_set_that_an_object_holds_decides() -> None:
    kind = Quantization(
        family="nonzero", weight_bits=2, activation_bits=2, grid="nonzero", z=9, method="apot"
    )
    held = LayerFacts(
        name="a",
        bits=2,
        weight_levels=weight_level_set(kind),
        activation_levels=activation_level_set(kind),
    )
    plan = resolve(NONZERO, [held], Choices(), None)
    assert plan.layers == {"a": kind}
    assert plan.grid == Stated("nonzero", "network")
    with pytest.raises(CodebookError, match="contradicts"):
        resolve(NONZERO, [held], Choices(grid="zero"), None)


def test_a_grid_is_that_of_2_bit_weights_alone() -> None:
    wide = LayerBits(pattern="b", weight_bits=4, activation_bits=3)
    choices = Choices(bits=2, grid="nonzero", z=3, layer_bits=(wide,))
    plan = resolve(NONZERO, SILENT, choices, None)
    assert [(q.weight_bits, q.grid) for q in plan.layers.values()] == [(2, "nonzero"), (4, "zero")]
    assert plan.default == plan.layers["a"]


def test_later_patterns_win_and_the_default_is_that_of_other_layers() -> None:
    patterns = (
        LayerBits(pattern="*", weight_bits=2, activation_bits=2),
        LayerBits(pattern="b", weight_bits=3, activation_bits=5),
    )
    plan = resolve(V2, SILENT, Choices(layer_bits=patterns[1:]), NAMED)
    assert (plan.default.weight_bits, plan.layers["b"].activation_bits) == (4, 5)
    plan = resolve(V2, SILENT, Choices(bits=4, layer_bits=patterns), None)
    assert [q.weight_bits for q in plan.layers.values()] == [2, 3]


def test_a_network_without_thresholds_has_a_default() -> None:
    plan = resolve(families.FULL_PRECISION, [], Choices(), Path("model.pth.tar"))
    assert not plan.layers
    assert plan.bits == Stated(32, "checkpoint")


@pytest.mark.parametrize(
    ("choices", "facts", "kind", "text"),
    [
        (Choices(), LayerFacts(name="a"), BitWidthError, "--bits N"),
        (Choices(bits=9), LayerFacts(name="a"), BitWidthError, "9 bits that --bits states"),
        (Choices(bits=2, activation_bits=7), LayerFacts(name="a"), BitWidthError, "--activation"),
        (Choices(bits=3), LayerFacts(name="a", bits=4), BitWidthError, "another bit-width"),
        (Choices(bits=2, method="pot"), LayerFacts(name="a"), CodebookError, "no such level set"),
        (Choices(bits=4, grid="nonzero", z=2), LayerFacts(name="a"), CodebookError, "this grid"),
        (Choices(bits=2, grid="odd"), LayerFacts(name="a"), CodebookError, "this grid"),
        (Choices(bits=2, grid="nonzero"), LayerFacts(name="a"), BitWidthError, "Z of the non-zero"),
        (Choices(bits=2, z=2), LayerFacts(name="a"), BitWidthError, "no exponent Z"),
        (Choices(bits=2, legacy_divisor=True), LayerFacts(name="a"), BitWidthError, "not apply"),
        (
            Choices(
                bits=2, layer_bits=(LayerBits(pattern="c*", weight_bits=2, activation_bits=2),)
            ),
            LayerFacts(name="a"),
            BitWidthError,
            "matches no quantized layer",
        ),
    ],
)
def test_what_is_refused(
    choices: Choices, facts: LayerFacts, kind: type[ApotExportError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        resolve(NONZERO, [facts], choices, None)
    assert text in str(caught.value)


def test_bits_that_only_another_layer_of_a_network_has() -> None:
    facts = [LayerFacts(name="a", bits=3, power=True), LayerFacts(name="b", bits=4, power=True)]
    resolve(V2, facts, Choices(), Path("net_3bit.pth.tar"))
    with pytest.raises(BitWidthError, match="another bit-width than the network's layers"):
        resolve(V2, facts, Choices(), Path("net_2bit.pth.tar"))
