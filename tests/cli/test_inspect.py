"""`apot-export inspect` as users and scripts rely on it."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from apot_export.artifacts.directory import PACKED_MODEL
from tests.support.commands import CHECKPOINT, EXPORT, document, here, run, typed


@here
@pytest.mark.parametrize("source", [CHECKPOINT, EXPORT, EXPORT / PACKED_MODEL])
def test_json_of_inspect_alphas(source: Path) -> None:
    content = document("inspect", "alphas", source)
    assert len(content) == 8
    for layer in content:
        assert list(layer) == [
            *("layer", "weight_alpha", "activation_alpha", "weight_bits", "activation_bits")
        ]
        typed(layer, {"layer": str, "weight_alpha": float, "activation_alpha": float})
        assert (layer["weight_bits"], layer["activation_bits"]) == (4, 4)
    assert content == document("inspect", "alphas", EXPORT)


@here
def test_the_bits_of_a_checkpoint_need_not_be_known_to_inspect_it() -> None:
    shutil.copy(CHECKPOINT, "model.pth.tar")
    content = document("inspect", "alphas", "model.pth.tar")
    assert {layer["weight_bits"] for layer in content} == {None}
    content = document("inspect", "alphas", "model.pth.tar", "--bits", 3)
    assert {layer["weight_bits"] for layer in content} == {3}
    assert "say --bits N" in run("inspect", "alphas", "model.pth.tar").stdout


@here
@pytest.mark.parametrize("verb", [["verify", "--limit", "3"], ["inspect", "alphas"]], ids=" ".join)
def test_json_without_a_path_names_the_export_on_standard_error(verb: list[str]) -> None:
    result = run(*verb, "--json")
    assert result.exit_code == 0
    json.loads(result.stdout)
    assert "res8_4bit (the newest export here)" in result.stderr


@here
def test_the_integer_network_is_inspected() -> None:
    refused = run("inspect", "integer", EXPORT)
    assert refused.exit_code == 2
    assert "convert the checkpoint with --integer" in refused.stderr
    converted = run("convert", CHECKPOINT, "-o", "whole", "--integer", "--fraction-bits", "10")
    assert "10 fraction bits (as given)" in converted.stdout
    content = document("inspect", "integer", "whole")
    assert set(content["operations"]) == set(content["ranges"])
    assert all(count["bits"] <= 64 for count in content["operations"].values())
    shown = run("inspect", "integer", "whole").stdout
    assert all(name in shown for name in content["operations"])
    additions = sum(count["additions"] for count in content["operations"].values())
    assert f"{additions:,} additions" in shown
    for options in (["--fraction-bits", "x"], ["--fraction-bits", "99"], ["--input", "int4"]):
        wrong = run("convert", CHECKPOINT, "-o", "wrong", "--integer", *options)
        assert wrong.exit_code == 2, options
        assert not Path("wrong").exists()
    alone = run("convert", CHECKPOINT, "-o", "wrong", "--fraction-bits", "8")
    assert "--integer beside them" in alone.stderr


@here
def test_bits_of_every_layer() -> None:
    content = document("inspect", "bits", EXPORT)
    assert [layer["bits"] for layer in content["layers"][1:-1]] == [4.0] * 8
    weights = sum(layer["weights"] for layer in content["layers"])
    stored = sum(layer["stored_bits"] for layer in content["layers"])
    assert content["average"] == pytest.approx(stored / weights)
    assert {layer["kind"] for layer in content["layers"]} == {"codes"}
    shown = run("inspect", "bits", EXPORT).stdout
    cells = shown.split()
    assert all(f"{math.ceil(layer['stored_bits'] / 8):,}" in cells for layer in content["layers"])
    assert "vectors" not in shown
    assert all(layer["layer"] in shown for layer in content["layers"])
    assert f"{weights:,} weights" in shown
    lines = run("inspect", "bits", EXPORT, "--plain").stdout.splitlines()
    assert lines[0] == "currrent average bitwidth per layer: "
    assert lines[-1] == f"currrent average bitwidth:  {content['average']:.4f}"
    assert document("inspect", "bits", CHECKPOINT) == content


@here
def test_plain_alphas_are_the_lines_of_the_training_log() -> None:
    lines = run("inspect", "alphas", EXPORT, "--plain").stdout.splitlines()
    line = r"clipping threshold weight alpha: \d\.\d{3}000, activation alpha: \d\.\d{3}000"
    assert len(lines) == 8
    assert all(re.fullmatch(line, text) for text in lines)
    result = run("inspect", "alphas", "--plain")
    assert result.stdout.splitlines() == lines
    assert "newest export" in result.stderr


@here
def test_convert_and_inspect_say_the_same_of_a_compressed_file() -> None:
    converted = run("convert", CHECKPOINT, "--compress", "-o", "small").stdout
    said = re.search(r"weights in ([\d.]+ kB): ([\d.]+ bits a weight)", converted)
    assert said
    shown = run("inspect", "bits", "small").stdout
    assert f"weights in {said[1]}: {said[2]} as stored, " in shown


@here
def test_sizes_are_shares_of_the_weights_in_float32() -> None:
    result = run("convert", CHECKPOINT, "-o", "new").stdout
    size = Path("new/model.apot.safetensors").stat().st_size
    assert f"{size / (4 * 19_464):.1%}" in result
    assert "of the checkpoint" not in result


@here
def test_fraction_bits_that_no_image_called_for_are_said_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("apot_export.conversion.calibration.images_at_hand", lambda *_: None)
    converted = run("convert", CHECKPOINT, "--integer", "-o", "most").stdout
    assert "the most that cannot overflow" in converted
    assert "--data FOLDER" in " ".join(converted.split())
    given = run("convert", CHECKPOINT, "--integer", "--fraction-bits", "8", "-o", "given").stdout
    assert "as given" in given
    assert "calibration" not in given


@pytest.mark.usefixtures("folder")
def test_a_checkpoint_of_two_families_is_shown_as_each(reference: Path) -> None:
    path = reference / "checkpoints/first-release/CIFAR10/checkpoint/res20_3bit.pth.tar"
    found = document("inspect", path)["readings"]
    assert [one["family"] for one in found] == ["apot-v1", "first-release"]
    assert [one["layers"] for one in found] == [{"codes": 22}, {"codes": 20, "float": 2}]
    shown = run("inspect", path)
    assert "--family NAME shows one" in shown.stderr
    assert all(f"family {one['family']}" in shown.stdout for one in found)
    assert document("inspect", path, "--family", "apot-v1") == found[0]
    assert "Two families" in run("inspect", path, "--html", "page.html").stderr
    assert not Path("page.html").exists()
