"""The runtimes that an ONNX model can be lowered for."""

from __future__ import annotations

from apot_export.errors import TargetError

PORTABLE = "portable"
CPU = "cpu"
CUDA = "cuda"
OPENVINO = "openvino"
TARGETS = (PORTABLE, CPU, CUDA, OPENVINO)


def require_target(target: str) -> str:
    """Return the name of a target.

    Raises:
        TargetError: There is none of this name.
    """
    if target not in TARGETS:
        raise TargetError(
            "There is no such target.",
            expected=", ".join(TARGETS),
            got=repr(target),
            fix="leave --target out for a model that runs everywhere",
        )
    return target
