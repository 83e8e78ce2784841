"""What makes a task the same as another: names, shapes, digests."""

import hashlib
from typing import Any

import torch

from autocompress.task import Task, flatten, split_batch


def task_identity(task: Task) -> dict[str, Any]:
    """Names, shapes and digests that tell one task from another.

    Validation data counts only if it reads the same twice; a shuffling loader would otherwise never resume.
    """
    validation = [_digest_of_first_batch(task) for _ in range(2)]
    return {
        "name": task.name,
        "score": task.score_name,
        "higher_is_better": task.higher_is_better,
        "seed": task.seed,
        "model": type(task.model).__name__,
        "weights": _digest([t for _, t in sorted(task.model.state_dict().items())]),
        "example_input": [list(t.shape) for t in flatten(task.example_input)],
        "validation": validation[0] if validation[0] == validation[1] else "shuffled",
    }


def _digest_of_first_batch(task: Task) -> str:
    for batch in task.validation:
        inputs, targets = split_batch(batch, "validation")
        return _digest(flatten(inputs) + flatten(targets))
    return "empty"


def _digest(tensors: list[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return digest.hexdigest()[:12]
