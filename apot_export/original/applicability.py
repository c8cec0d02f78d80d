"""Options that do not apply to a network are refused; patterns of layer names are matched."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from apot_export.errors import BitWidthError
from apot_export.original.choices import Choices
from apot_export.original.families import Family
from apot_export.original.quantization import ACTIVATION_SIGNS, EIGHT_BIT, SIGNED, LayerBits


def require_applicable(
    family: Family, choices: Choices, where: str | None, *, uniform: bool
) -> None:
    """Raise `BitWidthError` for an option that has no effect on such a network, or no such value.

    Args:
        family: Of the network.
        choices: The user's options.
        where: The network, for the message.
        uniform: Whether activations may have uniform levels.
    """
    levels, multi_bit = family.has_thresholds, family.has_sign_vectors
    of_weights = "weights with clipping thresholds"
    to_float = all(bits.is_float for bits in choices.layer_bits)
    if choices.activation_sign not in (None, *ACTIVATION_SIGNS):
        raise BitWidthError(
            "There is no such sign of activations.",
            where=where,
            expected=" or ".join(ACTIVATION_SIGNS),
            got=f"--activation-sign {choices.activation_sign}",
        )
    signed = choices.activation_sign == SIGNED
    divides = levels and uniform and not signed
    for option, given, applies, expected in (
        ("--activation-sign", signed, levels and uniform, "uniform activations"),
        ("--activation-sign", choices.activation_sign, levels, "activations with thresholds"),
        ("--legacy-divisor", choices.legacy_divisor, divides, "uniform unsigned activations"),
        ("--no-weight-normalization", not choices.normalize_weights, levels, of_weights),
        ("--layer-bits", choices.layer_bits, levels or to_float, "clipping thresholds"),
        ("--unsigned-zeros", choices.unsigned_zeros, levels, of_weights),
        ("--alpha-terms", choices.alpha_terms, multi_bit, "multi-bit weights"),
        ("--first-last", choices.first_last == EIGHT_BIT, not multi_bit, "no sign vectors"),
    ):
        if given and not applies:
            raise BitWidthError(
                "An option does not apply to the network.",
                where=where,
                expected=expected,
                got=f"{option}; family {family.name}",
                fix=f"leave out {option}",
            )


def layer_exceptions(
    choices: Choices, quantized: Sequence[str], ends: Sequence[str]
) -> dict[str, LayerBits]:
    """Return the bit-widths that the user gave to layers by name; later patterns win.

    Args:
        choices: The user's options.
        quantized: Names of the layers with clipping thresholds.
        ends: Names of the first and the last layer, which a pattern can only leave in float.

    Raises:
        BitWidthError: A pattern matches no layer.
    """
    found: dict[str, LayerBits] = {}
    for exception in choices.layer_bits:
        names = [*quantized, *ends] if exception.is_float else quantized
        matching = [name for name in names if fnmatchcase(name, exception.pattern)]
        if not matching:
            raise BitWidthError(
                "A pattern of layer bit-widths matches no quantized layer.",
                where=exception.pattern,
                expected="one of " + ", ".join(names[:4]) + ", ...",
                fix="correct the pattern; * stands for any characters. First and last layers have "
                "8 bits, or are left in float: 'conv1=32'",
            )
        found |= dict.fromkeys(matching, exception)
    return found
