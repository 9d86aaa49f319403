"""Muon, for the weights of convolutions and of linear layers: momentum whose matrix is made orthogonal, so that a step turns
all directions equally far (https://kellerjordan.github.io/posts/muon/), as large as one of Adam's would be
(https://arxiv.org/abs/2502.16982). torch.optim.Muon takes no convolutions, and one matrix at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAM_SIZE = 0.2  # root mean square of Adam's steps, in learning rates


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon is for this weight: not for vectors, tables of words, nor what comes in first and goes out last."""
    return parameter.ndim >= 2 and not name.startswith(("conv_in", "conv_out")) and "embeddings" not in name


@torch.no_grad()
def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """[n, rows, columns] to the nearest orthogonal ones, roughly: singular values end in about 0.7 to 1.2.

    What the iteration does to a matrix depends on its products with itself alone, which are small where it is long."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    square = x @ x.mT
    identity = torch.eye(square.shape[1], device=x.device, dtype=x.dtype)
    turned = identity.expand_as(square)
    for _ in range(ITERATIONS):
        factor = a * identity + b * square + c * square @ square
        turned, square = factor @ turned, factor @ square @ factor
    x = turned @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Weights of one shape are made orthogonal together. Learning rates and decay are those one would give to AdamW."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                self._step_together(group, shape, parameters)

    def _step_together(self, group: dict, shape: torch.Size, parameters: list[torch.Tensor]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        wanted = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - momentum)
            wanted.append(parameter.grad.lerp(state["momentum"], momentum).flatten(1))  # Nesterov's
        updates = orthogonal(torch.stack(wanted))
        size = ADAM_SIZE * max(updates.shape[1:]) ** 0.5
        for parameter, update in zip(parameters, updates):
            parameter.mul_(1 - lr * group["weight_decay"]).sub_(update.view(shape), alpha=lr * size)
