"""What a quantized stage says where it matters: the penalty's strength, a collapse under it, step sizes that have
fallen to their floor, codes that still change where they were to stand still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brsweep.kernels import ALPHA_FLOOR

COLLAPSED_BELOW = 0.5
"""Of the accuracy at the last stage's beginning. Healthy runs dip by a few points when BR sets in; measured collapses
end near chance."""
UNSETTLED = 0.1
"""Of the first target of the transition rate: how far it may be above the last one."""
REMEDIES = {"ramp": "cosine", "unit": "step", "reduction": "mean"}
"""Options of BR that tame it. `saturated=ignore` is none: networks escape from such a penalty beyond the range."""


def strength_line(record: Mapping[str, Any], strength: Mapping[str, float]) -> str:
    """How the penalty of the stage's first epoch stands to the task loss, with lambda at its full `strength`."""
    full = {kind: strength[kind] * record[f"trained_penalty_{kind}"] for kind in strength if strength[kind]}
    parts = " + ".join(f"{value:.3g} ({kind})" for kind, value in full.items())
    share = sum(full.values()) / record["task_loss"] if record["task_loss"] else float("inf")
    return (
        f"{record['stage']}: lambda x penalty of its first epoch, at full lambda: {parts}, "
        f"{share:.1%} of the task loss {record['task_loss']:.3g}"
    )


def unsettled_line(record: Mapping[str, Any], options: Mapping[str, float], first_target: float) -> str | None:
    """One line where a run's last record has a transition rate far from its target; else None. options: those of
    `transition_rate`; first_target: the target at the full learning rate."""
    rate, target = record["transition_rate"], record["transition_target"]
    if abs(rate - target) <= UNSETTLED * first_target:
        return None
    if rate < target:
        return (
            f"a step changes {rate:.2%} of the codes where {target:.2%} is the target: the weights' rate does not "
            f"rise to it; take a larger transition_rate.gain (it is {options['gain']:g}), or a smaller factor"
        )
    return (
        f"a step still changes {rate:.2%} of the codes where {target:.2%} is the target: the weights' rate does not "
        f"follow; for few steps take a larger transition_rate.gain (it is {options['gain']:g}), and a smaller "
        f"transition_rate.momentum ({options['momentum']:g}) where transition_lr swings"
    )


def floor_line(layers: Mapping[str, Any], told: set[str]) -> str | None:
    """One line for the sites of an epoch whose step size has fallen to its floor, added to those `told` of; else None.

    What such a site lets through is next to nothing, and a network may train on around it without a word.
    """
    alphas = dict(zip(layers["site"], layers["alpha"], strict=True))
    fallen = {name: alpha for name, alpha in alphas.items() if alpha is not None and alpha <= ALPHA_FLOOR}
    new = [name for name in fallen if name not in told]
    told.update(new)
    if not new:
        return None
    listed = ", ".join(f"{name} ({fallen[name]:.3g})" for name in new)
    return f"step sizes at their floor: {listed}; lower qat_optimizer.alpha_lr, or set gradient_clip"


class CollapseWatch:
    """Says one line when accuracy falls below half of what the stage began with, once; stops nothing.

    The reference is the last epoch before the stage: of the warm-up, or of the float stage where there is none.
    Validation accuracy decides, or training accuracy without a validation split.
    """

    def __init__(self, state: dict[str, Any], reporter: Any, reg: Mapping[str, Any]) -> None:
        self._state, self._reporter, self._reg = state, reporter, reg
        earlier = [record for record in state["history"] if record["stage"] != state["stage"]]
        self._reference = _accuracy(earlier[-1]) if earlier else None

    def look(self, record: Mapping[str, Any]) -> None:
        accuracy = _accuracy(record)
        if self._reference is None or accuracy >= COLLAPSED_BELOW * self._reference:
            return
        if self._state["collapse"] is None:
            self._state["collapse"] = {"epoch": record["epoch"], "accuracy": accuracy, "reference": self._reference}
            self._reporter.warn(self._line(record, accuracy))

    def _line(self, record: Mapping[str, Any], accuracy: float) -> str:
        line = (
            f"collapse: accuracy {accuracy:.1%} after epoch {record['epoch']}/{record['epochs']}, "
            f"{self._reference:.1%} before this stage"
        )
        if "trained_penalty_act" not in record:
            return f"{line}; no penalty is at work, so lower qat_optimizer.lr"
        shares = {kind: record[f"lambda_{kind}"] * record[f"trained_penalty_{kind}"] for kind in ("weight", "act")}
        worst = max(shares, key=lambda kind: shares[kind])
        return (
            f"{line}; lambda x penalty of the {worst} part is {shares[worst]:.3g} against a task loss of "
            f"{record['task_loss']:.3g}; remedies: {', '.join(self._remedies(worst))}"
        )

    def _remedies(self, kind: str) -> list[str]:
        """Those that are not in force already, as far as the regularizer has them."""
        chosen = {name: self._reg[name][kind] for name in REMEDIES if isinstance(self._reg.get(name), Mapping)}
        options = [f"reg.{name}.{kind}={REMEDIES[name]}" for name in chosen if chosen[name] != REMEDIES[name]]
        return [f"a lower reg.lambda_{kind}", *options, "a lower qat_optimizer.lr"]


def _accuracy(record: Mapping[str, Any]) -> float:
    return record["train_accuracy"] if record["val_accuracy"] is None else record["val_accuracy"]
