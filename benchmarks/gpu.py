"""Check and time exports on a GPU, for docs/gpu.md: one command, within ten minutes.

    python -m benchmarks.gpu EXPORT... [--data FOLDER] [--minutes 10] [--output FOLDER] [--dry-run]

For each export (of any target; best one of `--target cuda --integer`), as far as the time reaches:

- `probe`: what each algorithm of cuDNN does to the network's numbers, with TF32 and without;
- `speed`: images per second in batches of 1 and 32 with the first exact algorithm, with TF32 where
  the model allows it and without;
- `tf32`: the integers of the whole model with TF32 against the oracle's;
- `integer`: the integer network's bits on CUDA against numpy, ONNX Runtime on the CPU and C;
- `verify`: `verify --device cuda` on as many images as there is time for: PyTorch on CUDA against
  ONNX Runtime on CUDA.

It writes FOLDER/gpu.json after every step, so that nothing is lost when it is stopped, and at the
end FOLDER/gpu.md, to be pasted into docs/gpu.md. A step that fails is recorded, and the next one
runs. Exit status 1 if a step failed, a verdict is FAIL or an integer differs. `--dry-run` runs
every step on the CPU, with few images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from apot_export.artifacts.directory import INTEGER_MODEL, ONNX_MODEL, read_manifest
from apot_export.artifacts.onnx_model.probe import integers_as_such, tf32_exact, with_outputs
from apot_export.artifacts.packed import load_packed
from apot_export.datasets import open_dataset
from apot_export.network import CodedNetwork
from apot_export.network.comparison import compare_oracle
from apot_export.original import families
from apot_export.runtimes.exactness import Probe, find_exact
from apot_export.runtimes.onnx_runtime import algorithms, open_session
from apot_export.verification import Report, verify
from benchmarks._facts import interleaved, machine

BATCHES = (1, 32)
ORACLE_IMAGES = 4
SECONDS = {"probe": 60, "speed": 30, "tf32": 20, "integer": 40, "verify": 60}
"""What a step may take; one for which less is left is skipped."""


@dataclass(kw_only=True)
class Bench:
    """One export, opened, and what is done with it."""

    export: Path
    device: str
    data: Path | None
    rounds: int
    few: int
    """Images of steps that are slow on the CPU."""
    until: float
    """When `verify` has to end, on the clock of `time.perf_counter`."""
    model: Any = field(init=False)
    network: CodedNetwork = field(init=False)
    speeds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = onnx.load(self.export / ONNX_MODEL)
        self.network = load_packed(self.export).network

    def steps(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield the steps that fit the export."""
        yield "probe", self.probe
        yield "speed", self.speed
        if tf32_exact(self.model):
            yield "tf32", self.tf32
        if (self.export / INTEGER_MODEL).is_file():
            yield "integer", self.integer
        yield "verify", self.verify

    def images(self, count: int) -> NDArray[np.float32]:
        """Return preprocessed images of the network's dataset."""
        family = families.by_name(read_manifest(self.export)["family"])
        dataset = open_dataset(
            None,
            input_shape=self.network.input_shape,
            classes=self.network.shapes[self.network.output][0],
            data=self.data,
            preprocessing=family.preprocessing,
        )
        images, _ = next(dataset.sample(count).batches(count))
        return np.resize(images, (count, *images.shape[1:]))

    def probe(self) -> list[dict[str, Any]]:
        """Return what every algorithm does, in every batch, with TF32 and without."""
        probe = Probe(model=self.model, network=self.network)
        found = []
        for algorithm in algorithms(self.device):
            for batch in BATCHES:
                for tf32 in (False, True):
                    started = time.perf_counter()
                    one = probe.on(self.device, algorithm, batches=(batch,), tf32=tf32)
                    found.append(
                        {
                            "algorithm": one.name or "the only one",
                            "batch": batch,
                            "tf32": tf32,
                            "exact": one.wrong is None,
                            "found": one.says(),
                            "seconds": round(time.perf_counter() - started, 2),
                        }
                    )
        return found

    def speed(self) -> dict[str, Any]:
        """Return images per second with the first exact algorithm, by batch and TF32."""
        images, found = self.images(max(BATCHES)), {}
        content = self.model.SerializeToString()
        for batch in BATCHES:
            exact = find_exact(self.model, self.network, self.device, batches=(batch,))
            sessions = {
                f"batch {batch}, use_tf32={int(tf32)}": open_session(
                    content, self.device, tf32=tf32, algorithm=exact.algorithm
                )
                for tf32 in ((False, True) if tf32_exact(self.model) else (False,))
            }
            actions = {
                name: (lambda session=session, images=images[:batch]: session.run(images))
                for name, session in sessions.items()
            }
            seconds = interleaved(actions, self.rounds)
            self.speeds |= {name: batch / float(np.median(of)) for name, of in seconds.items()}
            found[f"algorithm of batch {batch}"] = exact.says()
        return {**found, "images_per_second": self.speeds}

    def tf32(self) -> dict[str, Any]:
        """Return how many integers of the whole model with TF32 are not the oracle's."""
        images = self.images(ORACLE_IMAGES)
        exact = find_exact(self.model, self.network, self.device, batches=(ORACLE_IMAGES,))
        session = open_session(
            with_outputs(self.model), self.device, tf32=True, algorithm=exact.algorithm
        )
        values = integers_as_such(self.network, session.run_all(images))
        found = compare_oracle(self.network, images, values)
        return {"integers": found.compared, "differing": found.mismatches}

    def integer(self) -> dict[str, Any]:
        """Return how many images have other integer logits than numpy's, by backend."""
        report = self._verified(
            limit=self.few,
            backends="numpy,ort-cpu,ort-cuda,c" if self.device == "cuda" else "numpy,ort-cpu,c",
        )
        assert report.backends is not None
        found = report.backends
        return {
            "images": found.images,
            "random_images": found.random_images,
            "fraction_bits": found.fraction_bits,
            "differing": dict(found.differing),
            "first_difference": dict(found.first_difference),
        }

    def verify(self) -> dict[str, Any]:
        """Return a whole verification, on as many images as there is time for."""
        fastest = max(self.speeds.values(), default=1.0)
        # The original takes longer, and runs twice: it is compared with itself.
        limit = int((self.until - time.perf_counter()) * fastest / 8)
        limit = self.few if self.device == "cpu" else max(limit, self.few)
        return self._verified(limit=limit, batch_size=max(BATCHES)).to_json()

    def _verified(self, **options: Any) -> Report:
        return verify(self.export, data=self.data, device=self.device, attach=False, **options)


def wrong(results: dict[str, Any]) -> list[str]:
    """Name the steps that failed or found a difference."""
    found = [name for name, result in results.items() if "error" in result]
    for name in ("tf32", "integer"):
        differing = results.get(name, {}).get("differing", 0)
        if sum(differing.values()) if isinstance(differing, dict) else differing:
            found.append(name)
    if results.get("verify", {}).get("verdict", "PASS") != "PASS":
        found.append("verify")
    return found


def markdown(found: dict[str, Any]) -> str:
    """Return the results as docs/gpu.md shows them."""
    versions = ", ".join(f"{name} {text}" for name, text in found["machine"]["packages"].items())
    lines = [
        f"{found['date'][:10]}, {found['gpu'] or 'no GPU: a dry run'}, {versions}, "
        f"CUDA {found['cuda']}, cuDNN {found['cudnn']}; `{found['command']}`.",
        "",
        "| export | what | figure |",
        "|---|---|---|",
    ]
    for export, results in found["exports"].items():
        for step, result in results.items():
            for what, figure in _rows(step, result):
                lines.append(f"| {Path(export).name} | {what} | {figure} |")
    return "\n".join(lines) + "\n"


def _rows(step: str, result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "not_run" in result:
        yield step, f"not run: {result['not_run']}"
    elif "error" in result:
        yield step, f"failed: {result['error']}"
    else:
        yield from _ROWS[step](result)


def _probe_rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in result["found"]:
        tf32 = "TF32 allowed" if one["tf32"] else "no TF32"
        yield f"{one['algorithm']}, batch {one['batch']}, {tf32}", one["found"]


def _speed_rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, speed in result["images_per_second"].items():
        yield f"ONNX Runtime, {name}", f"{speed:,.0f} images/s"


def _tf32_rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "integers with TF32", f"{result['differing']:,} of {result['integers']:,} differ"


def _integer_rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    images = result["images"] + result["random_images"]
    for name, differing in result["differing"].items():
        yield f"integer logits, {name}", f"{differing} of {images} images differ from numpy"


def _verify_rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    levels, oracle = result["levels"], result["accumulators"]
    yield "verdict", f"{result['verdict']} on {result['images']:,} images"
    yield "agreement with PyTorch", f"{result['agreement']:.2%}"
    yield "levels that differ", f"{levels['differing']:,} of {levels['compared']:,}"
    yield "integers that differ", f"{oracle['mismatches']:,} of {oracle['compared']:,}"
    for name, side in (("PyTorch", result["original"]), ("ONNX Runtime", result["export"])):
        yield f"{name}, verifying", f"{side['images_per_second']:,.0f} images/s"


_ROWS: dict[str, Callable[[dict[str, Any]], Iterator[tuple[str, str]]]] = {
    "probe": _probe_rows,
    "speed": _speed_rows,
    "tf32": _tf32_rows,
    "integer": _integer_rows,
    "verify": _verify_rows,
}


def step_of(action: Callable[[], Any], seconds_left: float, needed: float) -> dict[str, Any]:
    """Run a step; return what it found, or why it found nothing."""
    if seconds_left < needed:
        return {"not_run": f"{seconds_left:.0f} s were left, {needed:.0f} s are needed"}
    started = time.perf_counter()
    try:
        result = action()
    except Exception as error:  # noqa: BLE001 - one step must not cost the others
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    found = result if isinstance(result, dict) else {"found": result}
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Check and time all exports."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()
    # The last part of the time is for what a step takes longer than it should.
    share = arguments.minutes * 60 * 0.9 / len(arguments.exports)
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": None if arguments.dry_run else torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "machine": machine("apot-export", "torch", "onnxruntime-gpu", "numpy"),
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
        "exports": {},
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    for number, export in enumerate(arguments.exports):
        until = started + share * (number + 1)
        bench = Bench(
            export=export,
            device="cpu" if arguments.dry_run else "cuda",
            data=arguments.data,
            rounds=2 if arguments.dry_run else 30,
            few=8 if arguments.dry_run else 32,
            until=until,
        )
        results = found["exports"].setdefault(str(export), {})
        for name, action in bench.steps():
            results[name] = step_of(action, until - time.perf_counter(), SECONDS[name])
            text = json.dumps(found, indent=2)
            (arguments.output / "gpu.json").write_text(text + "\n", encoding="utf-8")
            print(f"{export}: {name}: {results[name].get('seconds', 'nothing found')}", flush=True)
    (arguments.output / "gpu.md").write_text(markdown(found), encoding="utf-8")
    failing = {export: wrong(results) for export, results in found["exports"].items()}
    for export, steps in failing.items():
        print(f"{export}: " + (f"wrong: {', '.join(steps)}" if steps else "everything holds"))
    sys.exit(1 if any(failing.values()) else 0)


if __name__ == "__main__":
    main()
