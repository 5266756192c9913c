"""Tensors in the order of their storage, so that contiguous and channels_last are walked without a copy."""

from __future__ import annotations

import torch
from torch import Tensor


def laid_out(values: Tensor, alpha: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The values without gaps and, per channel, one channel after the other; and an empty tensor laid out alike."""
    if alpha.dim() and alpha.shape != values.shape[axis : axis + 1 or None]:
        raise ValueError(f"alpha of shape {list(alpha.shape)} for axis {axis} of values {list(values.shape)}")
    like = torch.empty_like(values)
    if alpha.dim() and like.stride(axis) * alpha.numel() != like.numel():
        like = torch.empty_like(like.movedim(axis, 0), memory_format=torch.contiguous_format).movedim(0, axis)
    return (values if values.stride() == like.stride() else torch.empty_like(like).copy_(values)), like


def laid_out_like(values: Tensor, grad: Tensor | None) -> Tensor:
    """A gradient laid out as the values are; zero where there is none."""
    if grad is None:
        return torch.zeros_like(values)
    return grad if grad.stride() == values.stride() else torch.empty_like(values).copy_(grad)


def as_row(tensor: Tensor) -> Tensor:
    """A tensor without gaps as one row in the order of its storage."""
    return tensor.as_strided((tensor.numel(),), (1,))
