"""apot-export: trained powers-of-two networks to deployable, proven shift-add artifacts.

`load_packed` needs numpy alone, `compile_network` also a C compiler; `convert`, `verify` and `tune`
import ONNX, and PyTorch, when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apot_export._version import VERSION

if TYPE_CHECKING:
    from apot_export.artifacts.packed import PackedNetwork, load_packed
    from apot_export.budgets import max_memory
    from apot_export.conversion.convert import convert
    from apot_export.conversion.convert_export import ExportConversion, convert_export
    from apot_export.conversion.integer_choices import IntegerChoices
    from apot_export.conversion.result import ConversionResult
    from apot_export.errors import ApotExportError
    from apot_export.inspection.compare import ExportComparison, compare
    from apot_export.inspection.opened import Inspection, inspect
    from apot_export.original.choices import Choices
    from apot_export.original.quantization import LayerBits
    from apot_export.original.reading import in_process
    from apot_export.runtimes.native import compile_network
    from apot_export.tuning import TuningResult, tune
    from apot_export.verification import Report, verify

__version__ = VERSION

_HOMES = {
    "ApotExportError": "errors",
    "Choices": "original.choices",
    "ConversionResult": "conversion.result",
    "ExportComparison": "inspection.compare",
    "ExportConversion": "conversion.convert_export",
    "Inspection": "inspection.opened",
    "IntegerChoices": "conversion.integer_choices",
    "LayerBits": "original.quantization",
    "PackedNetwork": "artifacts.packed",
    "Report": "verification",
    "TuningResult": "tuning",
    "compare": "inspection.compare",
    "compile_network": "runtimes.native",
    "convert": "conversion.convert",
    "convert_export": "conversion.convert_export",
    "in_process": "original.reading",
    "inspect": "inspection.opened",
    "load_packed": "artifacts.packed",
    "max_memory": "budgets",
    "tune": "tuning",
    "verify": "verification",
}
"""Module of each public name: heavy libraries are imported by what needs them, when it does."""

__all__ = [
    "ApotExportError",
    "Choices",
    "ConversionResult",
    "ExportComparison",
    "ExportConversion",
    "Inspection",
    "IntegerChoices",
    "LayerBits",
    "PackedNetwork",
    "Report",
    "TuningResult",
    "__version__",
    "compare",
    "compile_network",
    "convert",
    "convert_export",
    "in_process",
    "inspect",
    "load_packed",
    "max_memory",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from apot_export.errors import MissingPackageError

        raise MissingPackageError(error) from error


def __dir__() -> list[str]:
    return sorted(__all__)
