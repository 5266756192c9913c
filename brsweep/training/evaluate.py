"""Accuracy of a network as it would be deployed: quantized in evaluation as in training."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brsweep.training.step import Learner

EVAL_BATCH = 500


class Evaluation(NamedTuple):
    """accuracy in [0, 1]; loss: mean cross entropy; confusion: int64 [classes, classes], rows are the true classes."""

    accuracy: float
    loss: float
    confusion: Tensor


@torch.no_grad()
def evaluate(learner: Learner, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Evaluation:
    """Run the network over `batches` in evaluation mode. Waits for the device once, at the end."""
    model = learner.model
    was_training = model.training
    model.eval()
    confusion = loss = None
    for images, labels in batches:
        with learner.autocast(images.device.type):
            logits = model(images)
        cells = torch.zeros(classes * classes, dtype=torch.int64, device=labels.device)
        cells.scatter_add_(0, labels * classes + logits.argmax(1), torch.ones_like(labels))
        total = F.cross_entropy(logits.float(), labels, reduction="sum").double()
        confusion = cells if confusion is None else confusion + cells
        loss = total if loss is None else loss + total
    model.train(was_training)
    table = confusion.view(classes, classes).cpu()
    count = int(table.sum())
    return Evaluation(int(table.diagonal().sum()) / count, float(loss) / count, table)


@torch.no_grad()
def with_reestimated_norms(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of the network whose batch-norm statistics are the plain mean over `batches` of training images, which
    have to be fair samples of them: of a table sorted by class the first ones hold one class.

    Oscillating weights harm the running statistics first (Nagel et al., ICML 2022), which re-estimate them on 50
    training batches before each evaluation.
    """
    model = copy.deepcopy(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean instead of a moving one
    for images in batches:
        model(images)
    return model.eval()
