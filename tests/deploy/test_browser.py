"""The page of examples/browser in Chromium and its module in node, as documented."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from apot_export.artifacts.directory import read_manifest
from apot_export.conversion.convert import convert
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.runtimes.onnx_runtime import open_session
from tests.support.browser import find_browser
from tests.support.devtools import Page, opened_browser
from tests.support.javascript import node
from tests.support.pages import ROOT, blocks, environment, run_lines

SITE = ROOT / "build" / "browser"
MODELS = ("model.onnx", "model.integer.onnx")
ROWS = "[...document.querySelectorAll('tbody tr')].map((row) => JSON.parse(row.dataset.logits))"
STATE = "document.querySelector('#state').textContent"
*INSTALLING, SERVING = blocks("docs/deploy/browser.md", "sh")[0].splitlines()


@pytest.fixture(scope="module")
def site(reference: Path) -> Path:
    """Return the folder of the page, made as documented, with a network of colour images more."""
    node()  # and with it npm
    shutil.rmtree(SITE / "export", ignore_errors=True)
    run_lines("\n".join(INSTALLING))
    convert(
        reference / "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar",
        SITE / "colours",
        integer=IntegerChoices(fraction_bits=12, pixels=True),
        force=True,
    )
    return SITE


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Return the address of the page on the documented server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    assert SERVING.count(" 8000 ") == 1
    assert site.samefile(ROOT / SERVING.split()[-1])
    command = SERVING.replace("8000", port).split()
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                probe.settimeout(0.5)
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def page(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert address
    with opened_browser(find_browser(), tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def state_of(page: Page, address: str) -> str:
    page.open(address)
    page.wait_for(f"document.readyState === 'complete' && {STATE} !== ''")
    return str(page.value(STATE))


def assert_same(model: str, found: list[list[float]], expected: NDArray[Any]) -> None:
    """Hold logits against ONNX Runtime's: integers to be equal, floats within rounding."""
    assert len(found) == len(expected)
    tolerance = 0.0 if model == "model.integer.onnx" else 1e-4
    np.testing.assert_allclose(np.array(found), expected, rtol=0, atol=tolerance)


def expected_of(export: Path, model: str, images: NDArray[Any]) -> NDArray[Any]:
    return open_session((export / model).read_bytes(), "cpu").run(images)


@pytest.mark.parametrize("export", ["export", "colours"])
@pytest.mark.parametrize("model", MODELS)
def test_the_samples_of_an_export_give_what_they_should(
    model: str, export: str, page: Page, site: Path, address: str
) -> None:
    state = state_of(page, f"{address}?export={export}&model={model}")
    assert state.startswith("PASS: 8 of the export's 8 samples give the "), state
    with np.load(site / export / "sample.npz") as sample:
        expected = sample["integer_logits" if model == "model.integer.onnx" else "logits"]
    assert_same(model, page.value(ROWS), expected)


@pytest.mark.parametrize("model", MODELS)
def test_samples_that_differ_are_told(model: str, page: Page, site: Path, address: str) -> None:
    shutil.copytree(site / "export", site / "changed", dirs_exist_ok=True)
    with np.load(site / "export/sample.npz") as sample:
        arrays = dict(sample)
    arrays["logits"][3] *= -1
    arrays["integer_logits"][3, 5] += 1
    np.savez(site / "changed/sample.npz", **arrays)
    state = state_of(page, f"{address}?export=changed&model={model}")
    assert state.startswith("FAIL: 7 of the export's 8 samples give the "), state
    shown = page.value("[...document.querySelectorAll('.wrong')].map((cell) => cell.textContent)")
    assert len(shown) == 1
    assert shown[0].startswith("differs by")


@pytest.mark.parametrize("model", MODELS)
def test_pictures_that_are_chosen_are_classified(
    model: str, page: Page, site: Path, address: str, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    files = [tmp_path / f"{index}.png" for index in range(len(pixels))]
    for file, picture in zip(files, pixels, strict=True):
        Image.fromarray(picture).save(file)
    assert "Error" not in state_of(page, f"{address}?model={model}")
    shown = page.value(f"{ROWS}.length")
    page.choose("#pictures", *files)
    page.wait_for(f"{ROWS}.length === {shown + len(files)} || {STATE}.startsWith('Error')")
    found = page.value(ROWS)[: len(files)][::-1]
    images = pixels[:, np.newaxis].astype(np.float32) / np.float32(255)
    expected = expected_of(site / "export", model, images)
    assert_same(model, found, expected)
    classes = page.value(
        "[...document.querySelectorAll('tbody tr td:nth-child(2)')].map((c) => c.textContent)"
    )
    assert classes[: len(files)][::-1] == [str(best) for best in expected.argmax(axis=1)]


@pytest.mark.parametrize("model", MODELS)
def test_colours_and_pixels_become_what_training_read(
    model: str, page: Page, site: Path, address: str
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(site / "picture.png")
    state_of(page, f"{address}?export=colours&model={model}&picture=picture.png")
    images = pixels.transpose(2, 0, 1)[np.newaxis]
    if model == "model.onnx":
        stated = read_manifest(site / "colours")["interface"]["preprocessing"]
        mean, std = (np.array(stated[k], np.float32).reshape(3, 1, 1) for k in ("mean", "std"))
        images = (images.astype(np.float32) / np.float32(255) - mean) / std
    assert_same(model, page.value(ROWS)[:1], expected_of(site / "colours", model, images))


def test_what_cannot_be_opened_is_said(page: Page, site: Path, address: str) -> None:
    assert state_of(page, f"{address}?model=other.onnx") == "Error: the export has no other.onnx"
    assert "404" in state_of(page, f"{address}?export=nowhere")
    Image.new("RGB", (3, 3)).save(site / "picture.png")
    (site / "broken.png").write_bytes((site / "picture.png").read_bytes()[:20])
    assert "Error" in state_of(page, f"{address}?picture=broken.png")


def test_the_module_runs_in_node(site: Path) -> None:
    (documented,) = blocks("docs/deploy/browser.md", "js")
    program = f"{documented}\nconsole.log(JSON.stringify(logits));"
    done = subprocess.run(
        [node(), "--input-type=module", "-e", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    best, logits = done.stdout.splitlines()
    half = np.full((1, 1, 8, 8), 0.5, np.float32)
    expected = expected_of(site / "export", "model.integer.onnx", half)
    assert json.loads(logits) == expected[0].tolist()
    assert best == str(expected.argmax())


def test_files_of_ort_format_run_in_node(site: Path, tmp_path: Path) -> None:
    command = f"python -m onnxruntime.tools.convert_onnx_models_to_ort '{site / 'export'}'"
    run_lines(f"{command} --output_dir '{tmp_path}' --optimization_style Fixed")
    images = np.random.default_rng(2).random((4, 1, 8, 8), dtype=np.float32)
    program = """
    import { readFile } from "node:fs/promises";
    import * as ort from "onnxruntime-web";
    const [file, ...pixels] = process.argv.slice(1);
    const session = await ort.InferenceSession.create(await readFile(file));
    const images = new ort.Tensor("float32", pixels.map(Number), [4, 1, 8, 8]);
    const { logits } = await session.run({ images });
    console.log(JSON.stringify(Array.from(logits.data, Number)));
    """
    for model in MODELS:
        file = tmp_path / model.replace(".onnx", ".ort")
        done = subprocess.run(
            [node(), "--input-type=module", "-e", program, file, *map(str, images.ravel())],
            cwd=site,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = np.array(json.loads(done.stdout)).reshape(4, -1)
        assert_same(model, found.tolist(), expected_of(site / "export", model, images))
