"""Exports that somebody changed, digests and all: `verify` trusts nothing that they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from apot_export.artifacts.directory import MANIFEST, ONNX_MODEL, read_manifest
from apot_export.errors import ApotExportError, ExportError
from apot_export.network import CodedNetwork
from apot_export.network.bitpack import pack
from tests.support.commands import run
from tests.support.workshop import DIGITS, Edit, Workshop, change_layer, open_workshop

Nodes = Sequence[tuple[str, Sequence[str], str, dict[str, Any]]]
RIGHT = "logits.right"
FIVE = np.array([5], np.int64)


@pytest.fixture(scope="module")
def workshop(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(project / DIGITS, tmp_path_factory.mktemp("tampered"))


def ending(nodes: Nodes, **constants: Any) -> Edit:
    """Compute the logits by further nodes: operator, inputs, output, attributes of each."""

    def edit(model: onnx.ModelProto) -> None:
        (last,) = (node for node in model.graph.node if "logits" in node.output)
        last.output[:] = [RIGHT]
        last.name = RIGHT
        tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
        model.graph.initializer.extend(tensors)
        model.graph.node.extend(
            helper.make_node(operator, inputs, [output], name=output, **attributes)
            for operator, inputs, output, attributes in nodes
        )

    return edit


# --- other models -----------------------------------------------------------------------------


def another_network(network: CodedNetwork) -> CodedNetwork:
    """Return a network of the same shapes with other codes in every layer."""
    rng = np.random.default_rng(0)
    for name, layer in network.layers.items():
        codes = rng.permutation(layer.codes.ravel()).reshape(layer.codes.shape)  # type: ignore[union-attr]
        network = change_layer(network, name, stored=pack(codes, layer.codebook.bits))  # type: ignore[union-attr]
    return network


@pytest.mark.parametrize("place", ["packed", "model", "both"])
def test_another_network_of_the_same_shapes(workshop: Workshop, place: str) -> None:
    other = another_network(workshop.network)
    export = workshop.write(
        packed=None if place == "model" else other, model=None if place == "packed" else other
    )
    assert workshop.verify(export, sides="ort,packed").verdict == "FAIL"


def branch(name: str, source: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Identity", [source], [name])], name, [], [value])


COUNT: Nodes = [("Shape", ["images"], "count", {"start": 0, "end": 1})]
IS_FIVE: Nodes = [*COUNT, ("Equal", ["count", "five"], "is_five", {})]
CAST = {"to": TensorProto.FLOAT}
ADDED: Nodes = [("Add", [RIGHT, "more"], "logits", {})]
ONES: Nodes = [
    ("Mul", ["images", "zero"], "zeros", {}),
    ("Add", ["zeros", "one"], "ones", {}),
]
ZERO, ONE = np.float32(0), np.float32(1)
HIDDEN: dict[str, tuple[Edit, str]] = {
    "constants": (
        ending(
            [("Mul", [RIGHT, "zero"], "nothing", {}), ("Add", ["nothing", "one"], "logits", {})],
            zero=ZERO,
            one=ONE,
        ),
        "logits",
    ),
    "the number of images": (
        ending([*IS_FIVE, ("Cast", ["is_five"], "more", CAST), *ADDED], five=FIVE),
        "is_five (Equal) reads the number of images",
    ),
    "a branch": (
        ending(
            [
                ("Add", [RIGHT, "one"], "others", {}),
                (
                    "If",
                    ["never"],
                    "logits",
                    {"then_branch": branch("a", "others"), "else_branch": branch("b", RIGHT)},
                ),
            ],
            one=ONE,
            never=np.zeros((), bool),
        ),
        "logits (If) branches",
    ),
    "a sum over images": (
        ending(
            [
                *ONES,
                ("ReduceMean", ["ones", "axes"], "more", {}),
                ("Sub", ["more", "one"], "less", {}),
                ("Reshape", ["less", "single"], "least", {}),
                ("Add", [RIGHT, "least"], "logits", {}),
            ],
            zero=ZERO,
            one=ONE,
            axes=np.array([0, 1, 2, 3], np.int64),
            single=np.array([1, 1], np.int64),
        ),
        "more (ReduceMean) mixes images",
    ),
    "a sum of one long row": (
        ending(
            [
                *ONES,
                ("Reshape", ["ones", "row"], "long", {}),
                ("ReduceMean", ["long", "axes"], "mean", {}),
                ("Sub", ["mean", "one"], "more", {}),
                *ADDED,
            ],
            zero=ZERO,
            one=ONE,
            row=np.array([1, -1], np.int64),
            axes=np.array([1], np.int64),
        ),
        "mean (ReduceMean) mixes images",
    ),
    "places in a batch": (
        ending(
            [
                ("Slice", [RIGHT, "first", "last", "axes"], "late", {}),
                ("Slice", [RIGHT, "zeros", "first", "axes"], "early", {}),
                ("Concat", ["early", "late"], "logits", {"axis": 0}),
            ],
            zeros=np.array([0], np.int64),
            first=np.array([200], np.int64),
            last=np.array([1 << 40], np.int64),
            axes=np.array([0], np.int64),
        ),
        "late (Slice) mixes images",
    ),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_a_model_that_hides_a_difference(workshop: Workshop, what: str) -> None:
    """All but the first compute the right logits in every batch that is run."""
    edit, says = HIDDEN[what]
    report = workshop.verify(workshop.write(edit=edit), limit=20)
    assert report.verdict == "FAIL"
    assert says in " ".join(report.failures)


# --- tensors in other files -------------------------------------------------------------------


def outside(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def in_initializer(model: onnx.ModelProto) -> TensorProto:
    return model.graph.initializer[0]


def in_function(model: onnx.ModelProto) -> TensorProto:
    nodes = (node for function in model.functions for node in function.node)
    (constant, *_) = (node for node in nodes if node.op_type == "Constant")
    return constant.attribute[0].t


def in_attribute(model: onnx.ModelProto) -> TensorProto:
    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(FIVE))
    model.graph.node.insert(0, node)
    return model.graph.node[0].attribute[0].t


def in_subgraph(model: onnx.ModelProto) -> TensorProto:
    graph = branch("x", "images")
    graph.initializer.append(numpy_helper.from_array(FIVE, "deep"))
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=graph))
    return model.graph.node[-1].attribute[0].g.initializer[0]


@pytest.mark.parametrize("find", [in_initializer, in_function, in_attribute, in_subgraph])
@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd"])
def test_tensors_in_other_files_are_refused(
    workshop: Workshop, find: Callable[[onnx.ModelProto], TensorProto], location: str
) -> None:
    export = workshop.write(edit=lambda model: outside(find(model), location))
    with pytest.raises(ExportError, match="another file") as caught:
        workshop.verify(export)
    assert repr(location) in str(caught.value)


# --- manifests --------------------------------------------------------------------------------


def test_what_a_manifest_claims_changes_no_verdict(workshop: Workshop) -> None:
    claims: dict[str, Any] = {
        "verification": {"verdict": "PASS", "failures": [], "date": "2026-01-01T00:00:00+00:00"},
        "record": {"key": "best_prec", "value": 0.1},
        "target": "cuda",
        "image_size": "any",
    }
    wrong = workshop.write(model=another_network(workshop.network), **claims)
    assert workshop.verify(wrong).verdict == "FAIL"
    assert read_manifest(wrong)["verification"]["verdict"] == "FAIL"
    right = workshop.verify(workshop.write(**claims), sides="ort,packed")
    assert right.verdict == "PASS"
    assert right.record is None or right.record.recorded > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {"input_shape": [1, 16, 16]},
        {"input_shape": [3, 8, 8]},
        {"family": "nonzero"},
        {"architecture": "ResNet-20"},
        {"bits": 3},
        {"state_sha256": "00" * 32, "checkpoint": {"path": None, "sha256": None}},
    ],
    ids=str,
)
def test_an_edited_manifest_never_passes_what_is_wrong(
    workshop: Workshop, changes: dict[str, Any]
) -> None:
    wrong = workshop.write(model=another_network(workshop.network), **changes)
    try:
        verdict = workshop.verify(wrong).verdict
    except ApotExportError:
        return
    assert verdict == "FAIL"


def test_another_checkpoint_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    replaced = tmp_path / "model_best.pth.tar"
    replaced.write_bytes(workshop.checkpoint.read_bytes() + b"\0")
    with pytest.raises(ApotExportError):
        workshop.verify(workshop.export, checkpoint=replaced)


@pytest.mark.parametrize("gone", [False, True])
def test_a_factory_that_a_manifest_names_is_not_imported(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    (tmp_path / "planted_factory.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"factory": "planted_factory:make", "arguments": {}, "input_shape": [1, 8, 8]}
    export = workshop.write()
    manifest = json.loads((export / MANIFEST).read_text())
    path = "nowhere" if gone else str(workshop.checkpoint)
    manifest |= {"model": model, "checkpoint": {**manifest["checkpoint"], "path": path}}
    (export / MANIFEST).write_text(json.dumps(manifest))
    found = run("verify", export, "--limit", 20)
    assert "planted_factory" not in sys.modules
    assert (found.exit_code, "--model planted_factory:make" in found.output) == (
        (0, False) if gone else (2, True)
    )


def test_links_to_other_content_are_refused(workshop: Workshop) -> None:
    export, other = workshop.write(), workshop.write(model=another_network(workshop.network))
    (export / ONNX_MODEL).unlink()
    (export / ONNX_MODEL).symlink_to(other / ONNX_MODEL)
    with pytest.raises(ExportError, match="not the one that was written"):
        workshop.verify(export)


# --- what names contain -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a[red]b", "a[red]b"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\x1b]0;title\x07b", r"a\x1b]0;titleb"),
        ("a\u202eb", r"a\u202eb"),
        ("a\x9bb\rc", r"a\x9bbc"),
        ("<b>:smile:", "<b>:smile:"),
    ],
)
def test_terminals_show_what_names_contain(
    workshop: Workshop, name: str, shown: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).normal(size=(12, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / f"{name}.npz", images=images)
    export = workshop.write().rename(tmp_path / name)
    options = ("--checkpoint", workshop.checkpoint, "--images", tmp_path / f"{name}.npz")
    found = run("verify", export, *options, "--no-attach")
    assert found.exit_code == 0, found.output
    assert f"{tmp_path}/{shown}: " in found.stdout
    assert not any(not letter.isprintable() and letter != "\n" for letter in found.stdout)
