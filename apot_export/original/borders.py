"""What convolutions add to an image before they convolve it, in terms of `primitives`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from apot_export.original import primitives as p
from apot_export.original._calls import call, shape_of
from apot_export.original._rearranging import padded
from apot_export.original.quantized_layers import padding_of


class TransposedConv2d(nn.Conv2d):
    """A transposed convolution: that of the image with zeros between its numbers."""

    spread: tuple[int, int]
    """Places from one number to the next, in height and width."""
    widths: list[int]
    """Places left, right, above and below; negative ones are cut off."""

    @staticmethod
    def of(layer: nn.ConvTranspose2d) -> TransposedConv2d:
        """Return what computes the same, on the CPU, with the kernel turned by 180 degrees."""
        made = TransposedConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]  # pairs, as PyTorch keeps them
            dilation=layer.dilation,  # type: ignore[arg-type]
            groups=layer.groups,
            bias=layer.bias is not None,
        )
        weight = layer.weight.detach().cpu()
        inputs, outputs, *kernel = weight.shape
        grouped = weight.reshape(layer.groups, inputs // layer.groups, outputs, *kernel)
        grouped = grouped.transpose(1, 2).flatten(0, 1)
        made.weight = nn.Parameter(grouped.flip(2, 3).contiguous(), requires_grad=False)
        if layer.bias is not None:
            made.bias = nn.Parameter(layer.bias.detach().cpu().clone(), requires_grad=False)
        made.spread = (layer.stride[0], layer.stride[1])
        made.widths = []
        for axis in (1, 0):
            reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            before = reach - int(layer.padding[axis])
            # Zeros follow the last number, too.
            after = before + layer.output_padding[axis] - (layer.stride[axis] - 1)
            made.widths += [before, after]
        return made

    def _conv_forward(self, input: Any, weight: Any, bias: Any) -> torch.Tensor:  # noqa: A002 - PyTorch's name
        result: torch.Tensor = super()._conv_forward(prepared(self, input), weight, bias)
        return result


def prepared(layer: nn.Module, x: Any) -> Any:
    """Return what the convolution in a layer reads of its input, a tensor or a traced one."""
    if isinstance(layer, TransposedConv2d):
        channels, height, width = shape_of(x)
        (down, right) = layer.spread
        if (down, right) != (1, 1):
            apart = call(p.reshape, x, (channels, height, 1, width, 1))
            apart = call(p.pad, apart, (0,) * 5, (0, 0, down - 1, 0, right - 1), 0.0)
            x = call(p.reshape, apart, (channels, height * down, width * right))
        return padded(x, layer.widths)
    if not isinstance(layer, nn.Conv2d) or _is_plain(layer):
        return x
    widths = list(layer._reversed_padding_repeated_twice)  # noqa: SLF001 - left, right, above, below
    return padded(x, widths, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def without_borders(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution that follows: the layer itself, or a copy that shares its weights."""
    if _is_plain(layer):
        return layer
    bare = copy.copy(layer)
    bare.padding, bare.padding_mode = (0, 0), "zeros"
    if isinstance(layer, TransposedConv2d):
        bare.__class__ = nn.Conv2d
    return bare


def _is_plain(layer: nn.Conv2d) -> bool:
    """Tell whether a layer adds nothing but zeros, as many on both sides."""
    has_zeros = layer.padding_mode == "zeros" and padding_of(layer) is not None
    return has_zeros and not isinstance(layer, TransposedConv2d)
