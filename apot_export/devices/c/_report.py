"""What each step of a C program takes: memory, operations, and an estimate of instructions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from apot_export.devices.c._program import Program, Sums, scratch_name
from apot_export.devices.c._steps import Post, Step
from apot_export.errors import IntegerError
from apot_export.integer import network as integer_op
from apot_export.integer.fixed_point import signed_digits
from apot_export.network import operations as op

_CODE_BYTES, _SIGN_VECTOR_BYTES = 14 << 10, 1 << 10
"""Machine code of the kernels, at most, of the targets of the Makefile at -O2."""
_DESCRIPTION_BYTES = 180
"""A step's call, and what describes it to its kernel."""
STACK_BYTES = 1536
"""Stack that apot_run takes, at most, on these."""
_NARROW = 2
"""Bytes of a number that fraction bits hardly change."""
_COPIED = 14
_SEARCHED, _DIGIT, _WRITTEN = 10, 13, 48
"""Instructions of RV32I: a pixel copied into a lane, a step of a binary search,
a digit of a multiplier, and what every result takes besides."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step takes for an image."""

    name: str
    flash: int
    """Bytes of its call and its constants; those that steps share count in the first."""
    ram: int
    """Bytes of the values that live during the step, and of its scratch memory."""
    adds: int
    shifts: int
    loads: int
    """Numbers read from memory as operands of the additions."""
    instructions: int
    """Of RV32I without multiplication, estimated; a simple core takes 1 to 1.5 cycles for each."""


def report_of(program: Program, constants: Mapping[str, int]) -> list[StepReport]:
    """Return what every step takes; `constants` are the bytes of each array by name."""
    live = _live_bytes(program)
    reports = []
    for number, step in enumerate(program.steps):
        work = _of_step(program, step)
        own = [size for name, size in constants.items() if _step_of(name) == number]
        reports.append(
            StepReport(
                name=step.name,
                flash=sum(own) + _DESCRIPTION_BYTES,
                ram=live[number],
                adds=work["adds"],
                shifts=work["shifts"],
                loads=work["loads"],
                instructions=work["instructions"],
            )
        )
    return reports


def _step_of(constant: str) -> int:
    digits = constant.lstrip("abcdefghijklmnopqrstuvwxyz").partition("_")[0]
    return int(digits)


def code_bytes(program: Program) -> int:
    """Return what the machine code of the kernels takes at most."""
    return _CODE_BYTES + (_SIGN_VECTOR_BYTES if program.has_sign_vectors else 0)


def require_fitting(
    program: Program, reports: list[StepReport], flash: int | None, ram: int | None
) -> None:
    """Raise `IntegerError` where the network needs more memory than a device has.

    Args:
        program: The program.
        reports: Of its steps.
        flash: Bytes of the device for code and constants; None: any.
        ram: Bytes for the workspace and the stack; None: any.
    """
    needs_flash = sum(one.flash for one in reports) + code_bytes(program)
    needs_ram = program.workspace + STACK_BYTES
    for given, needed, kind, fix in (
        (flash, needs_flash, "flash", "a network of fewer weights, or of fewer bits"),
        (ram, needs_ram, "ram", "a network of fewer channels, or of smaller images"),
    ):
        if given is not None and needed > given:
            step, largest = max(
                zip(program.steps, reports, strict=True), key=lambda pair: getattr(pair[1], kind)
            )
            widest = max(program.kinds[name].bytes for name in (*step.reads, *step.writes))
            if kind == "ram" and widest > _NARROW:
                fix = "fewer --fraction-bits in convert, so that values take two bytes"  # noqa: PLW2901
            raise IntegerError(
                f"The network needs more {'RAM' if kind == 'ram' else kind} than the device has.",
                where=f"{largest.name}, which takes most: {getattr(largest, kind):,} bytes",
                expected=f"at most {given:,} bytes",
                got=f"{needed:,} bytes, {needed - given:,} too many",
                fix=fix,
            )


def totals(program: Program, reports: list[StepReport]) -> dict[str, Any]:
    """Return the report as JSON: of the whole network and of its steps."""
    numbers = ("adds", "shifts", "loads", "instructions")
    return {
        "model_bytes": sum(one.flash for one in reports),
        "code_bytes": code_bytes(program),
        "workspace_bytes": program.workspace,
        "stack_bytes": STACK_BYTES,
        **{name: sum(getattr(one, name) for one in reports) for name in numbers},
        "steps": [asdict(one) for one in reports],
    }


def _live_bytes(program: Program) -> list[int]:
    last: dict[str, int] = {program.output: len(program.steps)}
    first: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        for name in (*step.reads, *step.writes):
            last[name] = max(last.get(name, 0), number)
            first.setdefault(name, number)
    first.pop(program.network.input, None)
    found = []
    for number, step in enumerate(program.steps):
        used = {
            (program.offsets[name], math.prod(program.shapes[name]) * program.kinds[name].bytes)
            for name, begin in first.items()
            if begin <= number <= last[name]
        }
        size = sum(bytes_ for _, bytes_ in used)
        if scratch_name(step) in program.offsets:
            sums = program.sums[step.name]
            g = sums.geometry
            size += g.packed_bytes + g.sums_bytes + sums.taps * program.tap_bytes
        found.append(size)
    return found


def _of_step(program: Program, step: Step) -> Counter[str]:
    """Return adds, shifts, loads and instructions."""
    results = math.prod(program.shapes[step.source])
    work: Counter[str] = Counter()
    if step.name in program.sums:
        work = _of_sums(program.sums[step.name])
        results = math.prod(program.sums[step.name].node.shape)
    elif step.operation is not None:
        results = math.prod(program.shapes[step.to])
        if isinstance(step.operation, (op.MaxPool, integer_op.WindowSum)):
            results *= math.prod(step.operation.kernel)
        adds = results if isinstance(step.operation, integer_op.WindowSum) else 0
        work = Counter(adds=adds, loads=results, instructions=results * _WRITTEN)
    for post in step.posts:
        work += _of_post(post, results)
    return work


def _of_sums(sums: Sums) -> Counter[str]:
    g, weights = sums.geometry, sums.weights
    words = g.bands * g.lane_rows * g.result[2]
    adds, shifts = (count * words for count in weights.operations)
    outputs = g.groups * g.outputs
    chunks = -(-g.inputs // g.chunk)
    spread = chunks * (3 + 5 * g.lanes)
    copied = g.groups * g.packed_bytes // g.word * g.lanes * g.bands
    wide = 2 if sums.wide else 1
    instructions = wide * outputs * words * (weights.cost + spread)
    instructions += weights.decoding * g.bands + copied * _COPIED
    return Counter(adds=adds, shifts=shifts, loads=adds - shifts, instructions=round(instructions))


def _of_post(post: Post, results: int) -> Counter[str]:
    loads, adds, shifts, instructions = 1, 0.0, 0.0, float(_WRITTEN)
    if isinstance(post.operation, integer_op.Quantize):
        instructions += _SEARCHED * post.operation.thresholds.shape[1].bit_length()
    elif isinstance(post.operation, integer_op.Requantize):
        digits = [len(signed_digits(int(one))) for one in np.ravel(post.operation.multiplier)]
        mean = sum(digits) / len(digits)
        adds, shifts = mean + 1, mean + 1
        instructions += _DIGIT * mean + _WRITTEN
    if post.other is not None:
        loads, adds = 2, adds + 1
        instructions += _SEARCHED
    each = {"loads": loads, "adds": adds, "shifts": shifts, "instructions": instructions}
    return Counter({name: round(results * number) for name, number in each.items()})
