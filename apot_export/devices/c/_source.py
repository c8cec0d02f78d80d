"""model.h and model.c: the network as constants, and the calls of its kernels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apot_export.devices.c._constants import Constants, literal
from apot_export.devices.c._program import Program, scratch_places
from apot_export.devices.c._steps import Post, Step
from apot_export.devices.c._weights import SignVectors
from apot_export.errors import IntegerError
from apot_export.integer import network as integer_op
from apot_export.integer.fixed_point import signed_digits
from apot_export.integer.network import Interval
from apot_export.network import operations as op

_SHIFTS = "defined(APOT_NO_MULTIPLY)"
_PRODUCTS = "!defined(APOT_NO_MULTIPLY)"
_INT32 = (-(1 << 31), (1 << 31) - 1)
_HALF = {size: 1 << (8 * size - 1) for size in (2, 4, 8)}
"""One more than the largest signed number of so many bytes."""
_SUBTRACTED, _LAST, _NOTHING = 0x80, 0x40, 0x20
_LARGEST_SHIFT = 31


@dataclass(kw_only=True)
class Source:
    """Writes the C source of a program."""

    program: Program
    constants: Constants = field(default_factory=Constants)
    calls: list[str] = field(default_factory=list)
    wide: bool = False
    """Whether a kernel of 64 bits is called."""

    def model_c(self) -> str:
        """Return model.c."""
        for number, step in enumerate(self.program.steps):
            self._add(step, f"{number}_{re.sub(r'[^0-9A-Za-z]+', '_', step.name)}")
        program = self.program
        kind = program.kinds[program.output]
        lines = [
            '#include "model.h"',
            "",
            '#include "apot_kernels.h"',
            "",
            "#ifdef APOT_NO_MULTIPLY",
            "#define DIGITS_OR(DIGITS, MULTIPLIERS) DIGITS",
            "#else",
            "#define DIGITS_OR(DIGITS, MULTIPLIERS) MULTIPLIERS",
            "#endif",
            "",
            *self.constants.lines,
            "",
            "static union {",
            "    int64_t aligned;",
            "    uint8_t bytes[APOT_WORKSPACE_BYTES];",
            "} memory;",
            "",
            "void apot_run(const apot_pixel *image, int32_t *logits)",
            "{",
            "    uint8_t *const w = memory.bytes;",
            f"    const {kind.type} *found =",
            f"        (const {kind.type} *)(const void *)(w + {program.offsets[program.output]});",
            "    int i;",
            *self.calls,
            "    for (i = 0; i < APOT_CLASSES; i++)",
            "        logits[i] = (int32_t)found[i];",
            "}",
            "",
        ]
        return "\n".join(lines)

    def model_h(self, name: str) -> str:
        """Return model.h; model_c must have been called before."""
        network, program = self.program.network, self.program
        channels, height, width = network.input_shape
        groups = max((one.weights.groups for one in program.sums.values()), default=1)
        pixels = network.pixels is not None
        reads = (
            "uint8 pixels" if pixels else f"floor(x * 2^{network.input_bits} + 1/2) of float pixels"
        )
        scale = network.logit_scale
        return "\n".join(
            [
                f"/* {name}: an image's logits by additions and shifts. */",
                "#ifndef APOT_MODEL_H",
                "#define APOT_MODEL_H",
                "",
                "#include <stdint.h>",
                "",
                "#ifdef __cplusplus",
                'extern "C" {',
                "#endif",
                "",
                f"/* An image is [channels][height][width], {reads}. */",
                f"typedef {program.kinds[network.input].type} apot_pixel;",
                f"#define APOT_CHANNELS {channels}",
                f"#define APOT_HEIGHT {height}",
                f"#define APOT_WIDTH {width}",
                f"#define APOT_IMAGE_NUMBERS {math.prod(network.input_shape)}",
                f"#define APOT_IMAGE_FRACTION_BITS {0 if pixels else network.input_bits}",
                f"#define APOT_CLASSES {math.prod(program.shapes[network.output])}",
                "/* Real value of one unit of a logit: numerator / denominator. */",
                f"#define APOT_LOGIT_SCALE_NUMERATOR {scale.numerator}.0",
                f"#define APOT_LOGIT_SCALE_DENOMINATOR {scale.denominator}.0",
                "/* Static memory that a run needs, beside the image and the stack. */",
                f"#define APOT_WORKSPACE_BYTES {max(program.workspace, 8)}",
                "",
                "/* Run one image. Not from two threads at once: there is one workspace. */",
                "void apot_run(const apot_pixel *image, int32_t *logits);",
                "",
                "/* For the kernels alone. */",
                f"typedef uint{8 * program.tap_bytes}_t apot_tap;",
                f"#define APOT_LARGEST_GROUPS {groups}",
                *(["#define APOT_WIDE"] if self.wide else []),
                *(["#define APOT_SIGN_VECTORS"] if program.has_sign_vectors else []),
                "",
                "#ifdef __cplusplus",
                "}",
                "#endif",
                "",
                "#endif",
                "",
            ]
        )

    # --- steps --------------------------------------------------------------------------------

    def _add(self, step: Step, name: str) -> None:
        match step.operation:
            case op.Convolution() | op.Linear():
                self._convolve(step, name)
            case op.MaxPool() | integer_op.WindowSum():
                self._pool(step, step.operation, name)
            case op.Upsample():
                self._repeat(step, step.operation, name)
            case None:
                self._apply(step, name)

    def _declare(self, c_type: str, name: str, members: list[str]) -> None:
        lines = ",\n    ".join(members)
        self.constants.lines.append(f"static const {c_type} {name} = {{\n    {lines}}};")

    def _value(self, name: str, before: int = 0) -> str:
        kind = self.program.kinds[name]
        return f"{{{self.program.offsets.get(name, 0) + before * kind.bytes}, {kind.name}}}"

    def _posts(self, step: Step, name: str, *, wide: bool, source: Interval | None) -> str:
        posts = [
            self._post(post, f"{name}_{place}", step.before, wide=wide, source=source)
            for place, post in enumerate(step.posts)
        ]
        lines = ",\n".join(posts)
        self.constants.lines.append(f"static const apot_post p{name}[] = {{\n{lines}}};")
        return f"p{name}"

    def _apply(self, step: Step, name: str) -> None:
        program = self.program
        (post,) = step.posts
        shape = program.shapes[step.source]
        kind = program.kinds[step.source]
        wide = post.wide or kind.bytes == 8  # noqa: PLR2004 - int64
        interval = self._interval(step.source)
        posts = self._posts(step, name, wide=wide, source=interval)
        channels, plane = shape[0], math.prod(shape[1:])
        self._declare("apot_map", f"m{name}", [f"{channels}, {plane}, {kind.name}, {posts}"])
        image = step.source == program.network.input
        place = "image" if image else f"w + {program.offsets[step.source]}"
        self._call("apot_apply", f"m{name}, {place}", wide=wide)

    def _call(self, function: str, arguments: str, *, wide: bool = False) -> None:
        self.wide = self.wide or wide
        self.calls.append(f"    {function}{'64' if wide else ''}(&{arguments}, w);")

    def _interval(self, name: str) -> Interval | None:
        found = [node.interval for node in self.program.network.nodes if node.name == name]
        return found[0] if found else None

    def _pool(self, step: Step, operation: op.MaxPool | integer_op.WindowSum, name: str) -> None:
        channels, height, width = self.program.shapes[step.source]
        _, *result = self.program.shapes[step.to]
        padding = operation.padding if isinstance(operation, op.MaxPool) else (0, 0)
        numbers = (channels, height, width, height * width, *result)
        windows = (*operation.kernel, *operation.stride, *padding)
        total = int(isinstance(operation, integer_op.WindowSum))
        values = f"{self._value(step.source)}, {self._value(step.to)}"
        members = [values, _joined(numbers), _joined((*windows, total))]
        self._declare("apot_pool", f"l{name}", members)
        self._call("apot_pooled", f"l{name}")

    def _repeat(self, step: Step, operation: op.Upsample, name: str) -> None:
        channels, height, width = self.program.shapes[step.source]
        numbers = (channels * height, width, *operation.scale)
        values = f"{self._value(step.source)}, {self._value(step.to)}"
        self._declare("apot_repeat", f"r{name}", [values, _joined(numbers)])
        self._call("apot_repeated", f"r{name}")

    def _convolve(self, step: Step, name: str) -> None:
        program, sums = self.program, self.program.sums[step.name]
        weights, g = sums.weights, sums.geometry
        add = self.constants.add
        codes = add("uint8_t", np.append(weights.codes, 0), f"codes{name}")
        terms = add("uint8_t", weights.terms, f"terms{name}")
        signs, shift, of_codes = "0, 0, 0, 0", 0, "0, 0"
        if isinstance(weights, SignVectors):
            stream = add("uint8_t", np.append(weights.signs, 0), f"signs{name}")
            runs = (weights.of_output, weights.size, int(weights.position_major))
            signs = f"{_joined(runs)}, {stream}"
        else:
            shift = weights.entries.shape[1].bit_length() - 1
            entries = add("uint8_t", weights.entries, f"entries{name}")
            of_codes = f"{entries}, {add('uint16_t', sums.starts, f'starts{name}')}"
        offsets = add("apot_tap", np.array(g.offsets()), f"offsets{name}")
        posts = self._posts(step, name, wide=sums.wide, source=sums.node.interval)
        _, height, width = g.source
        _, rows, columns = g.result
        lane, band = g.lane_rows * g.stride[0], g.band * g.stride[0]
        members = [
            self._value(step.source),
            _joined((g.groups, g.inputs, g.outputs)),
            _joined((height, width, height * width, g.inputs * height * width)),
            _joined((rows, columns, rows * columns, math.prod(g.kernel))),
            _joined((g.band, g.lane_rows, g.lane_rows * columns, g.rows, g.columns, g.phases)),
            _joined((g.row_bytes, g.stride[0] * g.row_bytes, g.channel_bytes)),
            _joined((lane, lane * width, band, band * width, g.band * columns, g.stride[1])),
            _joined((-g.padding[0], -g.padding[0] * width, -g.padding[1])),
            _joined((g.lanes, g.lane_bits, weights.code_bits, shift, weights.terms.shape[1])),
            _joined((weights.groups, len(step.posts), g.chunk)),
            f"{codes}, {of_codes}, {terms}, {offsets}, {posts}",
            _joined(scratch_places(program, step)),
            *([signs] if program.has_sign_vectors else []),
        ]
        self._declare("apot_convolution", f"c{name}", members)
        self._call("apot_convolve", f"c{name}", wide=sums.wide)

    # --- posts --------------------------------------------------------------------------------

    def _post(
        self, post: Post, name: str, before: int, *, wide: bool, source: Interval | None
    ) -> str:
        operation = post.operation
        how, shared, shift, record, piece, count = "APOT_STORE", 1, 0, 0, 0, 0
        pointers = ["0", "0", "0", "0", "DIGITS_OR(0, 0)"]
        if isinstance(operation, integer_op.Quantize):
            how = "APOT_QUANTIZE"
            shared, record, count, pointers = self._quantize(operation, name)
        elif isinstance(operation, integer_op.Requantize):
            how, shift = "APOT_REQUANTIZE", operation.shift
            bits = 32 if source is None else source.bits
            piece = _LARGEST_SHIFT - bits if not wide else _LARGEST_SHIFT
            shared, piece, count, pointers = self._requantize(operation, name, max(piece, 0) + 1)
        clamped = (post.low is not None) + 2 * (post.high is not None)
        low, high = post.low or 0, post.high or 0
        if not _INT32[0] <= min(low, high) <= max(low, high) <= _INT32[1]:
            raise IntegerError(
                "A limit of more than 32 bits has no kernel in C.",
                where=post.to,
                fix="convert with fewer fraction bits: --integer --fraction-bits 8",
            )
        other = "{0, 0}" if post.other is None else self._value(post.other)
        return (
            f"    {{{how}, {shared}, {int(post.other is not None)}, {clamped}, {shift}, {record},"
            f" {piece}, {count},\n     {literal(low)}, {literal(high)}, "
            f"{self._value(post.to, before)}, {other},\n     {', '.join(pointers)}}}"
        )

    def _quantize(
        self, operation: integer_op.Quantize, name: str
    ) -> tuple[int, int, int, list[str]]:
        thresholds, directions = operation.thresholds, operation.direction
        channels = max(len(thresholds), directions.size)
        rows = np.broadcast_to(thresholds, (channels, thresholds.shape[1]))
        low, high = int(rows.min(initial=0)), int(rows.max(initial=0))
        size = next(size for size in (2, 4, 8) if -low <= _HALF[size] > high)
        add = self.constants.add
        found = add(f"int{8 * size}_t", rows, f"thresholds{name}")
        levels = add("int32_t", operation.levels, f"levels{name}")
        downwards = "0"
        if (directions < 0).any():
            flags = np.broadcast_to(directions < 0, (channels,)).astype(np.int64)
            downwards = add("uint8_t", flags, f"downwards{name}")
        pointers = [found, levels, downwards, "0", "DIGITS_OR(0, 0)"]
        return int(channels == 1), size, rows.shape[1], pointers

    def _requantize(
        self, operation: integer_op.Requantize, name: str, piece: int
    ) -> tuple[int, int, int, list[str]]:
        multipliers, offsets = np.broadcast_arrays(operation.multiplier, operation.offset)
        forms = [_digits(int(number), piece) for number in multipliers]
        count = max(map(len, forms))
        digits = np.full((len(forms), count), _NOTHING, dtype=np.int64)
        for row, form in zip(digits, forms, strict=True):
            row[: len(form)] = form
        add = self.constants.add
        pointers = [
            *("0", "0", "0", add("int64_t", offsets, f"offset{name}")),
            f"DIGITS_OR({add('uint8_t', digits, f'digits{name}', _SHIFTS)}, "
            f"{add('int32_t', multipliers, f'multipliers{name}', _PRODUCTS)})",
        ]
        return int(len(forms) == 1), piece, count, pointers


def _digits(number: int, piece: int) -> list[int]:
    """Return a multiplier's signed digits in pieces of so many bits: see apot_kernels.h."""
    found: list[int] = []
    at, digits = 0, signed_digits(number)
    while digits or not found:
        inside = [(shift - at, sign) for shift, sign in digits if shift < at + piece]
        digits = digits[len(inside) :]
        part = [shift | (_SUBTRACTED if sign < 0 else 0) for shift, sign in inside] or [_NOTHING]
        found += [*part[:-1], part[-1] | _LAST]
        at += piece
    return found


def _joined(numbers: tuple[int, ...] | NDArray[np.int64]) -> str:
    return ", ".join(literal(int(number)) for number in numbers)
