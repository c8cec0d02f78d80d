"""Other programs give the classes and integers that ONNX Runtime gives with the default file."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from benchmarks.clients._cases import Case
from benchmarks.clients.environments import CLIENTS, Client

ROOT = Path(__file__).resolve().parents[2] / "build" / "clients"
BY_NAME = {client.name: client for client in CLIENTS}
FOR_ANY_FILE = ("onnxruntime 1.17.3", "onnxruntime newest", "onnxruntime-web")
FOR_PLAIN_FILES = (*FOR_ANY_FILE, "openvino", "onnx.reference", "onnx2torch", "tvm")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Return the digits network in its forms."""
    folder = tmp_path_factory.mktemp("exports")
    targets = ("portable", "cpu", "plain")
    return {target: Case.prepared("digits", target, folder) for target in targets}


@cache
def environment(name: str) -> Client:
    """Return a client whose environment exists."""
    client = BY_NAME[name]
    try:
        client.interpreter(ROOT)
    except (RuntimeError, OSError) as error:
        reason = f"{name} cannot be installed here: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return client


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, target) for target in ("portable", "cpu") for name in FOR_ANY_FILE),
        *((name, "plain") for name in FOR_PLAIN_FILES),
    ],
)
def test_a_client_computes_the_network(name: str, target: str, cases: dict[str, Case]) -> None:
    outcome = cases[target].outcome(environment(name), ROOT)
    assert outcome["runs"], outcome
    assert outcome["top1"] == outcome["images"]
    assert outcome["levels"] == outcome["sums"] == 1, outcome
    assert outcome["difference"] < 1e-4


def test_a_client_without_functions_refuses_the_default_file(cases: dict[str, Case]) -> None:
    outcome = cases["portable"].outcome(environment("tvm"), ROOT)
    assert not outcome["loads"]
    assert "QuantizeActivation" in outcome["breaks"]
