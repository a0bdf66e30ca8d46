"""The tasks that `polymodal evaluate --task NAME` measures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from polymodal.errors import UnknownName
from polymodal.evaluate.metric import Metric
from polymodal.evaluate.task import Task

TOP_1 = Metric(name="accuracy", rows=lambda s: np.array([float(str(x.record["label"]) == x.prediction[0]) for x in s]))

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="classification",
            summary="the label of a picture, of all labels of the data",
            verb="classify",
            media=("image",),
            fields=("label",),
            metrics=(TOP_1,),
        ),
    )
}


def task_of(name: str | Task) -> Task:
    """A task by its name.  Raises UnknownName, listing them."""
    if isinstance(name, Task):
        return name
    if name not in TASKS:
        raise UnknownName(f"there is no task {name!r}; there are {', '.join(sorted(TASKS))}")
    return TASKS[name]
