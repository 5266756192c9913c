"""What changes from step to step, as pure functions of the step, and where randomness comes from."""

from __future__ import annotations

import hashlib
import math


def lr_factor(step: int, steps: int, warmup_steps: int = 0) -> float:
    """The share of the base learning rate in force at `step` of `steps`: linear from 1/w to 1 over the learning rate's
    own warm-up of w steps, then a cosine that would reach 0 at `steps` (no restarts).

    >>> lr_factor(0, 100), lr_factor(50, 100), lr_factor(0, 100, warmup_steps=10)
    (1.0, 0.5, 0.1)
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return 0.5 + 0.5 * math.cos(math.pi * progress) if progress != 0.5 else 0.5


def seed_of(*parts: object) -> int:
    """A 63-bit seed from a name such as (42, "br", 7): the same on every machine, unrelated for any two names.

    Order, augmentation and dropout of an epoch come from (seed, stage, epoch) alone, so an epoch can be trained again,
    or by another run, without carrying a generator's state.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
