"""SystemVerilog of a layer: the engine with its numbers, and a testbench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apot_export.devices.rtl._plan import STORE, LayerPlan
from apot_export.devices.rtl.decoder import decoder_parameters, packed
from apot_export.devices.vectors import identifier

SOURCES = Path(__file__).parent / "sv"


def engine_sources() -> dict[str, bytes]:
    """Return the modules that all layers share."""
    return {path.name: path.read_bytes() for path in sorted(SOURCES.glob("*.sv"))}


def layer_sources(plan: LayerPlan, *, images: int, partial: int) -> dict[str, bytes]:
    """Return a layer's module and testbench by the end of their names.

    Args:
        plan: The layer.
        images: Of the golden vectors.
        partial: Words of results of an image whose partial sums are compared.
    """
    geometry = plan.geometry
    parameters = _parameters(plan)
    words = geometry.groups * plan.blocks * geometry.positions
    replaced = {
        "LAYER": plan.name,
        "FILES": identifier(plan.name),
        "PARAMETERS": "\n".join(f"        .{name}({text})," for name, text in parameters.items()),
        "ADDRESS_BITS": str(max(1, (plan.numbers - 1).bit_length())),
        "IMAGES": str(images),
        "NUMBERS": str(plan.numbers),
        "STEPS": str(min(partial, words) * geometry.taps),
        "WORDS": str(words),
        "RESULTS": "sums" if plan.records.mode == STORE else "results",
        **{name: parameters[name] for name in ("LANES", "X_BITS", "SUM_BITS", "RESULT_BITS")},
    }
    made = {}
    for name in ("layer.sv", "testbench.sv"):
        text = (SOURCES / f"{name}.template").read_text(encoding="utf-8")
        for marker, value in replaced.items():
            text = text.replace(f"@{marker}@", value)
        made[f"_{name}"] = text.encode()
    return made


def project_sources(plans: Sequence[LayerPlan]) -> dict[str, bytes]:
    """Return the Makefile and the README."""
    layers = " ".join(identifier(plan.name) for plan in plans)
    rows = "\n".join(
        f"| {plan.name} | `{identifier(plan.name)}_layer` | {plan.lanes} | {plan.codebook.bits} | "
        f"{plan.x_bits} | {plan.sum_bits} | {plan.records.result_bits} | {plan.cycles:,} |"
        for plan in plans
    )
    makefile = (SOURCES / "Makefile.template").read_text(encoding="utf-8")
    readme = (SOURCES / "README.md.template").read_text(encoding="utf-8")
    return {
        "Makefile": makefile.replace("@LAYERS@", layers).encode(),
        "README.md": readme.replace("@ROWS@", rows).encode(),
    }


def _parameters(plan: LayerPlan) -> dict[str, str]:
    """Return the parameters of apot_engine.sv."""
    geometry, records = plan.geometry, plan.records
    pairs = {
        "HEIGHT WIDTH": geometry.extent,
        "OUT_HEIGHT OUT_WIDTH": geometry.out_extent,
        "KERNEL_Y KERNEL_X": geometry.kernel,
        "STRIDE_Y STRIDE_X": geometry.stride,
        "PADDING_Y PADDING_X": geometry.padding,
        "DILATION_Y DILATION_X": geometry.dilation,
    }
    numbers: dict[str, int | str] = {
        "LANES": plan.lanes,
        **decoder_parameters(plan.codebook, plan.x, plan.sum_bits),
        "SUM_BITS": plan.sum_bits,
        "GROUPS": geometry.groups,
        "BLOCKS": plan.blocks,
        "INPUTS": geometry.inputs,
        **{
            name: number
            for names, pair in pairs.items()
            for name, number in zip(names.split(), pair, strict=True)
        },
        "MODE": records.mode,
        "WORD_BITS": records.bits,
        "WORDS": records.words.shape[1],
        "SHIFT": records.shift,
        "RESULT_BITS": records.result_bits,
    }
    if len(records.levels) == numbers["WORDS"]:
        numbers["LEVELS"] = packed(list(records.levels), records.result_bits)
    return {name: str(number) for name, number in numbers.items()}
