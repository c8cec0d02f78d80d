"""docs/supported.md: what converts and what is refused, from the table of the tests.

Run as a module it writes the file; a test compares it.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.kinds import CONVERTED, REFUSED

FILE = Path(__file__).parents[2] / "docs" / "supported.md"


def content() -> str:
    """Return what the file should be."""
    lines = [
        "# Networks of your own",
        "",
        "`apot_export.convert(module, input_shape=(3, 32, 32))` and `--model PACKAGE.MODULE:NAME`",
        "take any network of the training codes' layers and the operations below. Every row is a",
        "test: the export is compared with the module, value by value, and both readers of packed",
        "files with each other. Functions, methods and modules count alike.",
        "",
        "Wrappers (`DataParallel`, `torch.compile`, `AveragedModel`, a training loop with one",
        "network) come off. Hooks, replaced methods, masks and parametrizations are part of what",
        "is compared: what changes a result is applied, or refused by name.",
        "",
        "| kind | converted |",
        "|---|---|",
        *(f"| {group} | {'; '.join(kinds)} |" for group, kinds in CONVERTED.items()),
        "",
        "The float models (ONNX, packed file) compute all of it. The all-integer network and the",
        "native kernels have layers, sums of one shape, concatenated channels, ReLU, clips, pools",
        "and nearest-neighbour upsampling by whole factors, and refuse the rest by name.",
        "",
        "| refused | the error says |",
        "|---|---|",
        *(f"| {kind} | {says} |" for kind, (_, says) in REFUSED.items()),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    FILE.write_text(content(), encoding="utf-8")
