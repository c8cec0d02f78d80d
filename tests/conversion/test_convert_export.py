"""Exports made of exports: what convert makes of the checkpoint, without the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apot_export import convert_export
from apot_export.artifacts.onnx_model.lowering import TARGETS
from apot_export.conversion.convert import convert
from apot_export.errors import ExportError, TargetError
from tests.support.commands import CHECKPOINT, EXPORT, document, here, replace_file, run

PLAIN: dict[str, Any] = {"target": "plain", "batch": 2, "keep_functions": True}
DYNAMIC: dict[str, Any] = {"target": "portable", "dynamic_size": True}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@here
@pytest.mark.parametrize(
    "options", [*({"target": name} for name in TARGETS), PLAIN, DYNAMIC], ids=str
)
def test_it_is_byte_for_byte_what_the_checkpoint_gives(options: dict[str, Any]) -> None:
    result = convert_export(EXPORT, "a", **options)
    convert(CHECKPOINT, "b", **options)
    assert contents(Path("a")) == contents(Path("b"))
    assert (result.target, result.source) == (options["target"], EXPORT)
    assert result.files == {name: len(data) for name, data in contents(Path("a")).items()}
    back = convert_export("a", "c").path
    assert contents(back) == contents(EXPORT)


@here
@pytest.mark.parametrize("option", ["--compress", "--integer", "--unsigned-zeros"])
@pytest.mark.parametrize("target", ["cpu", "plain"])
def test_what_an_export_has_is_kept(option: str, target: str) -> None:
    assert run("convert", CHECKPOINT, "-o", "a", option).exit_code == 0
    assert run("convert", CHECKPOINT, "-o", "b", option, "--target", target).exit_code == 0
    assert run("convert", "a", "-o", "c", "--target", target).exit_code == 0
    assert contents(Path("c")) == contents(Path("b"))


@here
@pytest.mark.parametrize(
    "options", [("--compress",), ("--integer", "--fraction-bits", "11", "--target", "plain")]
)
def test_what_it_has_not_is_made_as_of_the_checkpoint(options: tuple[str, ...]) -> None:
    assert run("convert", CHECKPOINT, "-o", "b", *options).exit_code == 0
    Path(CHECKPOINT).rename("elsewhere")
    assert run("convert", EXPORT, "-o", "c", *options).exit_code == 0
    assert contents(Path("c")) == contents(Path("b"))


@here
def test_fraction_bits_are_calibrated_without_the_checkpoint() -> None:
    Path(CHECKPOINT).unlink()
    result = run("convert", EXPORT, "--integer")
    assert "agreement 100.0% on calibration images" in result.stdout
    form = json.loads(Path("res8_4bit_integer/manifest.json").read_text())["integer"]
    assert (form["fraction_bits_from"], form["yardstick"]) == ("calibration", None)
    assert 4 <= form["fraction_bits"] < 16
    result = run("convert", "res8_4bit_integer", "--integer", "--fraction-bits", "9", "-o", "nine")
    assert "9 fraction bits (as given)" in result.stdout


@here
def test_codes_that_a_program_reads_are_not_compressed() -> None:
    assert run("convert", EXPORT, "-o", "a", "--integer", "--fraction-bits", "9").exit_code == 0
    result = run("convert", "a", "-o", "b", "--compress")
    assert result.exit_code == 2
    assert "cannot be compressed" in result.stderr
    assert run("convert", EXPORT, "-o", "c", "--compress").exit_code == 0
    # An integer network that is asked for replaces compressed codes by a bit stream.
    assert run("convert", "c", "-o", "d", "--integer", "--fraction-bits", "9").exit_code == 0
    assert contents(Path("d")) == contents(Path("a"))
    assert not Path("b").exists()


@here
def test_the_checkpoint_is_found_from_elsewhere_and_need_not_be_there() -> None:
    found = document("convert", EXPORT, "-o", "deep/er/plain", "--target", "plain")
    export = Path(found["path"])
    manifest = json.loads((export / "manifest.json").read_text())
    assert (export / manifest["checkpoint"]["path"]).resolve() == Path(CHECKPOINT).resolve()
    assert run("verify", export, "--limit", "10").exit_code == 0
    Path(CHECKPOINT).unlink()
    convert_export(EXPORT, "more", target="cpu")


@here
def test_a_verdict_and_a_tuning_are_of_the_old_model() -> None:
    assert run("verify", EXPORT, "--limit", "10").exit_code == 0
    assert "verification" in json.loads((EXPORT / "manifest.json").read_text())
    convert_export(EXPORT, "a", **PLAIN)
    manifest = json.loads(Path("a/manifest.json").read_text())
    assert not {"verification", "tuning"} & set(manifest)
    assert (manifest["target"], manifest["batch"]) == ("plain", 2)


@here
def test_the_default_directory_is_named_after_export_and_target() -> None:
    result = run("convert", EXPORT, "--target", "plain")
    assert result.exit_code == 0, result.output
    assert "res8_4bit_plain" in result.output
    assert Path("res8_4bit_plain/model.onnx").is_file()
    again = run("convert", EXPORT, "--target", "plain")
    assert again.exit_code == 2
    assert run("convert", EXPORT, "--target", "plain", "--force").exit_code == 0


@here
def test_an_export_can_be_replaced_by_its_own() -> None:
    convert_export(EXPORT, EXPORT, target="plain", force=True)
    assert run("verify", EXPORT, "--limit", "10").exit_code == 0


@here
@pytest.mark.parametrize(
    "options", [("--bits", "4"), ("--trust-options",), ("--family", "apot-v1")]
)
def test_options_that_describe_the_checkpoint_are_refused(options: tuple[str, ...]) -> None:
    result = run("convert", EXPORT, "-o", "a", "--target", "cpu", *options)
    assert result.exit_code == 2
    assert options[0] in result.output
    assert not Path("a").exists()


@here
def test_a_damaged_export_is_refused() -> None:
    with pytest.raises(TargetError):
        convert_export(EXPORT, "a", target="tpu")
    data = (EXPORT / "model.apot.safetensors").read_bytes()
    (EXPORT / "model.apot.safetensors").write_bytes(data[:-1])
    with pytest.raises(ExportError):
        convert_export(EXPORT, "a")
    replace_file(EXPORT, "model.apot.safetensors", data)
    (EXPORT / "manifest.json").unlink()
    with pytest.raises(ExportError):
        convert_export(EXPORT, "a")
    assert not Path("a").exists()
