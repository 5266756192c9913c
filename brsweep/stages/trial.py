"""Parts of one's own, tried before anything trains: one pass each way on made-up values.

A quantizer without a gradient trains nothing and says nothing; a penalty that is no number ends a run after its float
stage. Both show in the first pass. brsweep's own parts have tests in the place of this; what they can't know is a
quantizer without a step size, so a regularizer is tried beside one whoever wrote it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.quant.calibration import calibrate
from brsweep.quant.quantizer import Quantizer
from brsweep.quant.sites import Site
from brsweep.regularizers.regularizer import Regularizer
from brsweep.targets import TARGET

MADE_UP = 4, 8, 4, 4
"""A made-up weight or activation; as many channels as the quantizer has, where it has several."""


def is_own(node: Mapping[str, Any]) -> bool:
    return not node[TARGET].startswith("brsweep.")


def try_quantizers(sites: Sequence[Site]) -> None:
    """Raise `BrsweepError` unless each kind of quantizer keeps shape and dtype and passes a gradient to its values."""
    draw = torch.Generator().manual_seed(0)
    kinds = {(type(site.quantizer), site.grid, site.kind): site for site in sites}
    for site in kinds.values():
        quantizer = copy.deepcopy(site.quantizer)
        values = torch.randn(_made_up_shape(quantizer), generator=draw)
        values = (values if quantizer.grid.signed else values.relu()).requires_grad_()
        with kernels.using("reference"):
            quantizer.init_from(values.detach())
            quantized = quantizer(values)
        where = f"{type(quantizer).__name__}.forward"
        if not isinstance(quantized, Tensor) or (quantized.shape, quantized.dtype) != (values.shape, values.dtype):
            wanted = f"{list(values.shape)}, {values.dtype}"
            raise BrsweepError(f"{where}: returns {_words(quantized)} for values of {wanted}; the same are wanted")
        if not quantized.isfinite().all():
            raise BrsweepError(f"{where}: of finite values it makes some that are not")
        if not _moves(quantized, values, draw):
            raise BrsweepError(
                f"{where}: no gradient reaches its values, so nothing before it would train; pass it straight through, "
                f"as values + (quantized - values).detach() does"
            )


def try_regularizer(regularizer: Regularizer, model: nn.Module, sites: Sequence[Site], images: Tensor) -> None:
    """Raise `BrsweepError` unless the penalties of a forward pass are numbers, 0 or more, with a gradient."""
    model, sites = copy.deepcopy((model, list(sites)))
    name = type(regularizer).__name__
    with kernels.using("reference"):
        calibrate(model, [images])
        with regularizer.collect(sites) as seen:
            model.train()(images)
        if type(regularizer).penalties is Regularizer.penalties:  # which would add up whatever each site gives
            for place, entry in seen.items():
                _check_penalty(f"{name}.penalty of {place}", regularizer.penalty(entry))
        found = regularizer.penalties(seen)
    wanted = {entry.site.kind for entry in seen.values()}
    if not isinstance(found, Mapping) or found.keys() != wanted:
        raise BrsweepError(f"{name}.penalties: gives {_words(found)}; a penalty for each of {sorted(wanted)} is wanted")
    for kind, penalty in found.items():
        _check_penalty(f"{name}.penalties, {kind}", penalty)


def _check_penalty(where: str, penalty: Any) -> None:
    if not isinstance(penalty, Tensor) or penalty.dim():
        raise BrsweepError(f"{where}: gives {_words(penalty)}; a 0-d tensor is wanted, such as a mean over the values")
    if not penalty.requires_grad:
        raise BrsweepError(f"{where}: has no gradient, so its lambda would do nothing; leave collected.values attached")
    value = penalty.item()
    if not 0 <= value < math.inf:
        raise BrsweepError(f"{where}: gives {value:g} on made-up images; a penalty is 0 or more, and finite")


def _made_up_shape(quantizer: Quantizer) -> tuple[int, ...]:
    if not quantizer.per_channel or quantizer.alpha is None:
        return MADE_UP
    return tuple(quantizer.alpha.numel() if i == quantizer.axis else size for i, size in enumerate(MADE_UP))


def _moves(quantized: Tensor, values: Tensor, draw: torch.Generator) -> bool:
    if not quantized.requires_grad:
        return False
    upstream = torch.randn(quantized.shape, generator=draw)
    (gradient,) = torch.autograd.grad((quantized * upstream).sum(), values, allow_unused=True)
    return gradient is not None and bool(gradient.count_nonzero())


def _words(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of {list(found.shape)}, {found.dtype}"
    return f"{sorted(found)}" if isinstance(found, Mapping) else type(found).__name__
