"""Run a model in one client, inside the client's own environment.

    python run.py CLIENT MODEL IMAGES OUTPUTS

IMAGES: a .npy file, float32 [N, C, H, W]. OUTPUTS: an .npz file, one array for each output.
Imports nothing but numpy and the client, so that it runs where the project is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_WINOGRAD_MEMORY_LEVEL = 3
"""The hint of MNN by whose default it takes Winograd's algorithm on tiles so large that integers
are rounded; at 0 it takes small ones."""

Outputs = dict[str, "np.ndarray[Any, Any]"]
Run = Callable[["np.ndarray[Any, Any]"], Outputs]
"""All images to all outputs; a client that takes one image at a time is called for each."""


def _onnxruntime(model: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    source = session.get_inputs()[0].name
    return lambda images: dict(zip(names, session.run(names, {source: images}), strict=True))


def _onnx_reference(model: Path) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model))
    names = evaluator.output_names
    source = evaluator.input_names[0]
    return lambda images: dict(zip(names, evaluator.run(names, {source: images}), strict=True))


def _openvino(model: Path) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(images: np.ndarray[Any, Any]) -> Outputs:
        found = compiled(images)
        return {output.any_name: found[output] for output in compiled.outputs}

    return run


def _onnx2torch(model: Path) -> Run:
    import onnx
    import torch
    from onnx2torch import convert

    module = convert(str(model)).eval()
    names = [output.name for output in onnx.load(model).graph.output]

    def run(images: np.ndarray[Any, Any]) -> Outputs:
        with torch.no_grad():
            found = module(torch.from_numpy(images))
        values = found if isinstance(found, (list, tuple)) else [found]
        return dict(zip(names, (value.numpy() for value in values), strict=True))

    return run


def _tract(model: Path) -> Run:
    import tract

    inference = tract.onnx().load(str(model))
    names = [inference.output_name(place) for place in range(inference.output_count())]
    runnable = inference.into_model().into_runnable()

    def run(images: np.ndarray[Any, Any]) -> Outputs:
        found = runnable.run([images])
        return dict(zip(names, (value.to_numpy() for value in found), strict=True))

    return run


def _mnn(model: Path) -> Run:
    import MNN
    import onnx

    graph = onnx.load(model).graph
    names = [output.name for output in graph.output]
    converted = Path(tempfile.mkdtemp()) / "model.mnn"
    converter = str(Path(sys.executable).with_name("mnnconvert"))
    subprocess.run(
        [
            converter,
            "-f",
            "ONNX",
            "--bizCode",
            "apot",
            "--modelFile",
            str(model),
            "--MNNModel",
            str(converted),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    if not converted.exists():
        raise RuntimeError("mnnconvert wrote no model")
    manager = MNN.nn.create_runtime_manager(({"precision": "high", "numThread": 1},))
    manager.set_hint(_WINOGRAD_MEMORY_LEVEL, 0)
    module = MNN.nn.load_module_from_file(
        str(converted), [graph.input[0].name], names, runtime_manager=manager
    )

    def run(images: np.ndarray[Any, Any]) -> Outputs:
        image = MNN.expr.placeholder(list(images.shape), MNN.expr.NCHW)
        image.write(images)
        found = module.forward([image])
        values = (MNN.expr.convert(value, MNN.expr.NCHW).read() for value in found)
        return dict(zip(names, map(np.array, values), strict=True))

    return run


def _tvm(model: Path) -> Run:
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    parsed = onnx.load(model)
    names = [output.name for output in parsed.graph.output]
    module = from_onnx(parsed, keep_params_in_input=False)
    executable = tvm.compile(module, target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())

    def run(images: np.ndarray[Any, Any]) -> Outputs:
        found = machine["main"](tvm.runtime.tensor(images))
        values = [found] if hasattr(found, "numpy") else list(found)
        return dict(zip(names, (value.numpy() for value in values), strict=True))

    return run


def _iree(model: Path) -> Run:
    import onnx
    from iree import compiler, runtime

    names = [output.name for output in onnx.load(model).graph.output]
    imported = Path(tempfile.mkdtemp()) / "model.mlir"
    importer = Path(sys.executable).with_name("iree-import-onnx")
    subprocess.run([importer, str(model), "-o", str(imported)], check=True, capture_output=True)
    binary = compiler.compile_file(
        str(imported),
        input_type="onnx",
        target_backends=["llvm-cpu"],
        extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-input-demote-f64-to-f32=false"],
    )
    loaded = runtime.load_vm_flatbuffer(binary, driver="local-sync")
    functions = loaded.vm_module.function_names  # __init, and name$async beside each name
    name = next(name for name in functions if "$" not in name and not name.startswith("__"))
    function = getattr(loaded, name)

    def run(images: np.ndarray[Any, Any]) -> Outputs:
        found = function(images)
        values = list(found) if isinstance(found, (list, tuple)) else [found]
        return dict(zip(names, (value.to_host() for value in values), strict=True))

    return run


def _qonnx(model: Path) -> Run:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    wrapper = ModelWrapper(str(model)).transform(InferShapes())
    source = wrapper.graph.input[0].name
    return lambda images: dict(execute_onnx(wrapper, {source: images}))


def _onnxruntime_web(model: Path) -> Run:
    script = Path(__file__).with_name("run_web.mjs")

    def run(images: np.ndarray[Any, Any]) -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            images.tofile(Path(folder) / "images.bin")
            shape = ",".join(map(str, images.shape))
            # The packages lie in the folder in which this runs, and ES modules are searched from
            # the script's.
            local = Path.cwd() / script.name
            local.write_bytes(script.read_bytes())
            subprocess.run(["node", local, model, shape, folder], check=True)  # noqa: S607
            return {
                path.stem.split("@")[0]: np.load(path)
                for path in sorted(Path(folder).glob("*.npy"))
            }

    return run


# --- optimizers: their result runs in the ONNX Runtime beside them --------------------------------


def _onnxslim(model: Path) -> Run:
    import onnxslim

    return _optimized(onnxslim.slim(str(model)))


def _onnxsim(model: Path) -> Run:
    import onnx
    from onnxsim import simplify

    simplified, _ = simplify(onnx.load(model))
    return _optimized(simplified)


def _graphsurgeon(model: Path) -> Run:
    import onnx
    import onnx_graphsurgeon

    graph = onnx_graphsurgeon.import_onnx(onnx.load(model))
    return _optimized(onnx_graphsurgeon.export_onnx(graph.fold_constants().cleanup().toposort()))


def _optimized(model: Any) -> Run:
    import onnx

    path = Path(tempfile.mkdtemp()) / "model.onnx"
    onnx.save(model, path)
    return _onnxruntime(path)


CLIENTS = {
    "onnxruntime": _onnxruntime,
    "onnx.reference": _onnx_reference,
    "openvino": _openvino,
    "onnx2torch": _onnx2torch,
    "tract": _tract,
    "mnn": _mnn,
    "tvm": _tvm,
    "iree": _iree,
    "qonnx": _qonnx,
    "onnxruntime-web": _onnxruntime_web,
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnx-graphsurgeon": _graphsurgeon,
}


def main(client: str, model: str, images: str, outputs: str) -> None:
    """Run one model in one client."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pixels = np.load(images)
    run = CLIENTS[client](Path(model))
    print("loaded", flush=True)
    try:
        found = run(pixels)
    except Exception as error:  # noqa: BLE001 - some take a batch of 1 only, and say so anyhow
        print(f"one image at a time: {str(error)[:200]!r}", file=sys.stderr)
        single = [run(pixels[place : place + 1]) for place in range(len(pixels))]
        found = {name: np.concatenate([one[name] for one in single]) for name in single[0]}
    arrays: dict[str, Any] = {f"output {name}": value for name, value in found.items()}
    np.savez(outputs, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
