"""From a checkpoint to an export directory; what is wrong with paths is said without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apot_export.arguments import checked
from apot_export.artifacts.directory import default_directory, export_name
from apot_export.artifacts.onnx_model.lowering import PORTABLE
from apot_export.conversion.integer_choices import IntegerChoices
from apot_export.conversion.output import Output
from apot_export.original.choices import Choices
from apot_export.original.files import require_checkpoint_file

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack

    from apot_export.conversion.result import ConversionResult
    from apot_export.original.choices import Stated


@checked(Choices)
def convert(
    checkpoint: str | PathLike[str] | nn.Module,
    directory: str | PathLike[str] | None = None,
    *,
    model: str | None = None,
    model_arguments: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | str | None = None,
    choices: Choices | None = None,
    integer: IntegerChoices | None = None,
    compress: bool = False,
    target: str = PORTABLE,
    batch: int = 0,
    keep_functions: bool = False,
    dynamic_size: bool = False,
    opset: int = 0,
    trust_options: bool = False,
    force: bool = False,
    **stated: Unpack[Stated],
) -> ConversionResult:
    """Convert a checkpoint, or a network in memory.

    Args:
        checkpoint: The file, or a module, which stays as it is.
        directory: The export directory; None for one named after the checkpoint, here.
        model: Factory of a custom network, as `package.module:factory`: it is imported and called,
            and gets the checkpoint's tensors. None for the published architectures.
        model_arguments: Keyword arguments of the factory, Python literals.
        input_shape: Of one image (channels, height, width); None for the published architecture's.
        choices: How the network was trained, as far as its name and layers do not tell.
        integer: How to write the all-integer network, too; None: do not.
        compress: Entropy-code the codes in the packed file; not together with `integer`.
        target: Runtime of the ONNX model: "portable", "cpu", "cuda", "openvino", or "plain" for
            clients that know old standard operators only.
        batch: Images in every batch of target "plain"; 0 for any number.
        keep_functions: Leave the `apot` functions of target "plain" in.
        dynamic_size: Leave the ONNX model's height and width open; the integer model's stay fixed.
        opset: Operator set of the ONNX models, where an older one will do; 0 for the target's own.
        trust_options: Convert also what the checkpoint's batch-norms contradict.
        force: Replace an earlier export in `directory`.
        **stated: Fields of `Choices`, in place of one: `bits=4`, `method="uniform"`, ...

    Raises:
        ApotExportError: With what is wrong with the input; nothing is left half-written.
    """
    options: dict[str, Any] = {"target": target, "batch": batch, "keep_functions": keep_functions}
    path, name = _path_and_name(checkpoint)
    output = Output(
        folder=Path(directory or (default_directory(path) if path else name)),
        name=name,
        model={**options, "dynamic_size": dynamic_size, "opset": opset},
        integer=integer,
        compress=compress,
        force=force,
    )
    output.require_possible()
    from apot_export.conversion._of_original import convert_original

    custom = (model, model_arguments, input_shape)
    stated_choices = choices or Choices(**stated)
    return convert_original(checkpoint, output, stated_choices, *custom, trust=trust_options)


def _path_and_name(checkpoint: str | PathLike[str] | nn.Module) -> tuple[Path | None, str]:
    if isinstance(checkpoint, (str, PathLike)):
        path = Path(checkpoint)
        require_checkpoint_file(path)
        # File names may be any bytes; the strings of artifacts are Unicode.
        return path, export_name(path).encode(errors="backslashreplace").decode()
    from apot_export.original.custom import unwrapped

    return None, type(unwrapped(checkpoint)).__name__
