"""What makes an export self-contained: its interface, its sample, and a README that runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from apot_export import conversion, convert, load_packed
from apot_export.artifacts.directory import INTEGER_MODEL, MANIFEST, ONNX_MODEL, SAMPLE
from apot_export.artifacts.sample import read_sample
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.datasets import open_dataset
from apot_export.errors import ExportError
from tests.support.commands import CHECKPOINT, EXPORT, document, here, replace_file, run

TEMPLATES = Path(conversion.__file__).parent / "templates"
RES20 = "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"
ALONE = """
import sys
others = {"torch", "onnx", "PIL", "scipy", "apot_export", "torchvision"} & set(sys.modules)
assert not others, others
"""


def lines_of(export: Path) -> str:
    """Return the Python lines of an export's README."""
    text = (export / "README.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def followed(export: Path, lines: str | None = None) -> list[str]:
    """Run the Python lines of a README in its folder; return what they print."""
    lines = lines_of(export) if lines is None else lines
    done = subprocess.run(
        [sys.executable, "-I", "-c", lines + ALONE],
        cwd=export,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def reads_png(path: Path) -> NDArray[np.uint8]:
    """Read a PNG file with the function that READMEs have."""
    text = (TEMPLATES / "picture.md").read_text("utf-8")
    found = re.search(r"^def read_png.*?^    return [^\n]*$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"np": np}
    exec("import zlib\n" + found[0], names)  # noqa: S102 - lines that users run
    pixels: NDArray[np.uint8] = names["read_png"](path)
    return pixels


# --- the interface --------------------------------------------------------------------------------


@here
def test_every_artifact_says_how_it_is_used() -> None:
    assert run("convert", EXPORT, "-o", "a", "--integer").exit_code == 0
    found = json.loads(Path("a", MANIFEST).read_text(encoding="utf-8"))["interface"]
    assert load_packed("a").interface == found
    assert found["inputs"] == [{"name": "images", "type": "float32", "shape": [1, 8, 8]}]
    assert found["outputs"] == [{"name": "logits", "type": "float32", "shape": [10]}]
    facts = found["preprocessing"]
    assert (facts["dataset"], facts["channels"], facts["range"]) == ("digits", "grey", [0, 16])
    assert found["classes"] == list("0123456789")
    kinds = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT32: "int32"}
    integer = found.pop("integer")
    for file, values in ((ONNX_MODEL, found), (INTEGER_MODEL, {**found, **integer})):
        model = onnx.load(Path("a", file))
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(properties["interface"]) == values
        for stated, value in zip(
            (*values["inputs"], *values["outputs"]),
            (*model.graph.input, *model.graph.output),
            strict=True,
        ):
            kind = value.type.tensor_type
            shape = [axis.dim_value for axis in kind.shape.dim[1:]]
            assert (stated["name"], stated["type"]) == (value.name, kinds[kind.elem_type])
            assert stated["shape"] == shape
    assert properties["logit_scale"] == integer["outputs"][0]["scale"]


def test_nothing_is_guessed_of_a_network_in_memory(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 10, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).flatten(1)

    # As large as CIFAR-10's images, and with as many classes.
    export = convert(Plain(), tmp_path / "plain", input_shape=(3, 32, 32)).path
    interface = load_packed(export).interface
    assert interface is not None
    assert interface["preprocessing"] is interface["classes"] is None
    sample = read_sample(export / SAMPLE)
    assert (sample.source, sample.images, sample.labels) == ("synthetic", None, None)
    assert len(followed(export)) == 1
    assert not (export / "sample.png").exists()
    assert "noise" in (export / "README.md").read_text(encoding="utf-8")


# --- the README -----------------------------------------------------------------------------------


@here
@pytest.mark.parametrize(
    "options", [(), ("--integer",), ("--target", "plain", "--batch", "3")], ids=str
)
def test_a_readme_runs_as_it_stands(options: tuple[str, ...]) -> None:
    assert run("convert", CHECKPOINT, "-o", "a", *options).exit_code == 0
    sample = read_sample(Path("a", SAMPLE))
    assert sample.labels is not None
    assert (sample.source, len(sample), len(sample.labels)) == ("digits", 8, 8)
    printed = followed(Path("a"))
    label = sample.labels[0]
    assert printed[0].startswith("largest difference from the stated logits: ")
    assert float(printed[0].rpartition(" ")[2]) < 1e-3
    assert printed[-1] == f"sample.png: {label} {label}"
    assert ("integers: as stated" in printed) == ("--integer" in options)


def test_a_picture_of_cifar_is_classified(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = reference / "datasets/cifar10-test-head"
    monkeypatch.setenv("APOT_EXPORT_DATA", str(data))
    pixels = IntegerChoices(fraction_bits=12, pixels=True)
    export = convert(reference / RES20, tmp_path / "res20", integer=pixels).path
    sample = read_sample(export / SAMPLE)
    assert sample.source == "cifar10"
    printed = followed(export)
    assert "integers: as stated" in printed
    truck = min((data / "truck").glob("*.png"))
    shutil.copy(truck, export / "mine.png")
    lines = lines_of(export).replace('"sample.png"', '"mine.png"')
    assert followed(export, lines)[-1] == "mine.png: 9 truck"
    # Bit for bit what the data set's own preprocessing makes of it.
    images = open_dataset("cifar10", input_shape=(3, 32, 32), classes=10, data=data)
    wanted = images.load(list(images.names).index(truck.relative_to(data).as_posix()))
    shown = lines + "\nnp.save('made.npy', ((image - mean) / std).astype(np.float32))\n"
    followed(export, shown)
    assert np.array_equal(np.load(export / "made.npy"), wanted)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_pngs_of_every_kind_are_read(mode: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    slope = np.add.outer(np.arange(29) * 5, np.arange(23) * 3)[..., None] + [0, 20, 40]
    picture = Image.fromarray((slope + random.integers(0, 9, slope.shape)).astype(np.uint8))
    picture = picture.convert("RGB").convert(mode)
    picture.save(tmp_path / "one.png")
    grey = mode in {"L", "LA"}
    wanted = np.asarray(picture.convert("L" if grey else "RGB")).reshape(29, 23, -1)
    assert np.array_equal(reads_png(tmp_path / "one.png"), wanted)


def test_pictures_are_resized_as_in_training() -> None:
    random = np.random.default_rng(0)
    for size in ((300, 411), (500, 333), (100, 180)):
        coarse = random.integers(0, 256, (*(side // 20 for side in size), 3), np.uint8)
        picture = Image.fromarray(coarse).resize(size[::-1])
        wanted = transforms.CenterCrop(224)(transforms.Resize(256)(picture))
        names = {"np": np, "facts": {"resize": 256}, "height": 224, "width": 224}
        names["pixels"] = np.asarray(picture)
        exec((TEMPLATES / "resize.md").read_text(encoding="utf-8"), names)  # noqa: S102 - of READMEs
        apart = np.abs(np.asarray(names["pixels"], int) - np.asarray(wanted, int))
        assert apart.max() <= 1


# --- verification ---------------------------------------------------------------------------------


def changed_sample(name: str, change: Any) -> None:
    """Change an array of the sample, and its digest with it."""
    with np.load(EXPORT / SAMPLE) as content:
        arrays: dict[str, Any] = dict(content)
    arrays[name] = change(arrays[name])
    np.savez(EXPORT / "changed.npz", **arrays)
    data = (EXPORT / "changed.npz").read_bytes()
    (EXPORT / "changed.npz").unlink()
    replace_file(EXPORT, SAMPLE, data)


@here
def test_verify_computes_the_sample_again() -> None:
    found = document("verify", EXPORT, "--limit", "10")["sample"]
    assert (found["inputs"], found["source"], found["failures"]) == (8, "digits", [])
    assert found["largest_difference"] < 1e-3


@here
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("images", "inputs that the preprocessing does not make of its images"),
        ("logits", "other logits than ONNX Runtime computes"),
        ("oracle_logits", "other logits than the oracle computes"),
    ],
)
def test_a_sample_of_something_else_fails(name: str, says: str) -> None:
    changed_sample(name, lambda array: array[::-1].copy())
    found = document("verify", EXPORT, "--limit", "10")
    assert found["verdict"] == "FAIL"
    (failure,) = found["failures"]
    assert failure.startswith(f"sample.npz states {says}")


@here
def test_a_damaged_sample_is_an_error() -> None:
    for data in (b"", b"PK\x03\x04", (EXPORT / SAMPLE).read_bytes()[:-100]):
        replace_file(EXPORT, SAMPLE, data)
        with pytest.raises(ExportError, match="cannot be read"):
            read_sample(EXPORT / SAMPLE)
        assert run("verify", EXPORT, "--limit", "10").exit_code == 2
    replace_file(EXPORT, SAMPLE, b"x")
    Path(EXPORT, SAMPLE).unlink()
    assert run("verify", EXPORT, "--limit", "10").exit_code == 2
