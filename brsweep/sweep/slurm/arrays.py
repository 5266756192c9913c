"""Tasks -> job arrays, as plain data: those with the same parent together, cut to what the site allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brsweep.sweep.tree import Task


@dataclass(frozen=True)
class Array:
    """Tasks that are submitted together. parent: the name of the task that has to end well first; None for none."""

    parent: str | None
    tasks: tuple[Task, ...]


def arrays(tasks: Sequence[Task], largest: int) -> list[Array]:
    """The arrays of `tasks`, which come parents first, and so do the arrays. largest: tasks in one array, at most."""
    groups: dict[str | None, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.parent, []).append(task)
    return [
        Array(parent, tuple(group[i : i + largest]))
        for parent, group in groups.items()
        for i in range(0, len(group), largest)
    ]
