"""docs/supported.md: what converts and what is refused, from the table of the tests.

Run as a module it writes the file; a test compares it.
"""

from __future__ import annotations

from pathlib import Path

from tests.original import test_containers as files
from tests.original.test_refused_containers import REFUSED as REFUSED_FILES
from tests.support.kinds import CONVERTED, REFUSED

FILE = Path(__file__).parents[2] / "docs" / "supported.md"


def content() -> str:
    """Return what the file should be."""
    lines = [
        "# What converts, and what is refused",
        "",
        "Written from the tables of the tests: `python -m tests.support.supported`.",
        "",
        "## Networks of your own",
        "",
        "`apot_export.convert(module, input_shape=(3, 32, 32))` and `--model PACKAGE.MODULE:NAME`",
        "take any network of quantized layers and the operations below. Every row is a test: the",
        "export is compared with the module, value by value, and both readers of packed files with",
        "each other. Functions, methods and modules count alike.",
        "",
        "Quantized layers and quantizers are matched by what they compute, whatever their classes",
        "and parameters are called: every level set, bit-width, sign and meaning of their numbers",
        "is tried until one gives the module's outputs on inputs that reach all thresholds. A",
        "refusal names the closest and how far it is away. A quantizer of activations in a module",
        "of its own becomes part of the layers that read it; where others read it, too, it stays",
        "as a layer of ones.",
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
        "",
        "## Checkpoint files",
        "",
        "Of every row the tests write a file of the example's tensors, and compare its network",
        "with that of the plain file. [checkpoints.md](checkpoints.md) says what happens to each.",
        "",
        "| part | converted |",
        "|---|---|",
        f"| Prefixes of keys | {', '.join(f'`{prefix}`' for prefix in files.PREFIXES)} |",
        f"| The state dict under | {', '.join(f'`{place}`' for place in files.PLACES)} |",
        f"| Data beside it | {', '.join(files.OBJECTS)} |",
        f"| Others | {'; '.join(_other_files())} |",
        "",
        "Refused, with lines of Python that re-save the plain data, which the tests run: "
        f"{'; '.join(REFUSED_FILES)}.",
    ]
    return "\n".join([*lines, ""])


def _other_files() -> list[str]:
    """Return the names of containers that are in no table of their own."""
    tables = [
        *(f"prefix {one}" for one in files.PREFIXES),
        *(f"under {one}" for one in files.PLACES),
    ]
    tables += [f"beside: {one}" for one in files.OBJECTS]
    return [kind for kind in files.CONVERTED if kind not in tables]


if __name__ == "__main__":
    FILE.write_text(content(), encoding="utf-8")
