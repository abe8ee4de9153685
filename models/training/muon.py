"""Muon: each kernel moves by the nearest orthogonal matrix to its averaged gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["Muon", "orthogonalised"]

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that brings singular values near 1 in five turns (Jordan et al.)."""
_TURNS = 5
_RMS = 0.2
"""Of a step's entries at a rate of 1, as AdamW's steps have it, so that its rates serve."""


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is not typed here
    """Muon for the kernels, AdamW for the rest.

    The rest: biases, norms, linear layers, and kernels of 1 x 1 x 1 or of one channel, as last and
    first layers have them. A kernel (N, C, ...) counts as a matrix of N rows.

    Sources: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; Liu et al.
    2025, arXiv:2502.16982 (size of a step, weight decay).

    Args:
        params: tensors to move.
        lr: rate of the kernels.
        other_lr: rate of AdamW for the rest.
        momentum: of the averaged gradient, by Nesterov's way.
        betas: of AdamW.
        weight_decay: a step of rate lr takes this share, times lr, off each weight.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-2,
        other_lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
    ) -> None:
        every = list(params)
        kernels = [p for p in every if _is_kernel(p)]
        rest = [p for p in every if not _is_kernel(p)]
        groups = [
            {"params": kernels, "lr": lr, "orthogonal": True},
            {"params": rest, "lr": other_lr, "orthogonal": False},
        ]
        defaults = {"momentum": momentum, "betas": tuple(betas), "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not typed here
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every tensor that has a gradient; the closure's value, if one is given."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            move = self._move_kernel if group["orthogonal"] else self._move_other
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    move(weight, group)
        return value

    def _move_kernel(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        mean = state.setdefault("mean", torch.zeros_like(weight))
        mean.lerp_(weight.grad, 1 - group["momentum"])
        ahead = weight.grad.lerp(mean, group["momentum"]).flatten(1)
        size = _RMS * max(ahead.shape) ** 0.5
        weight.add_(orthogonalised(ahead).reshape(weight.shape), alpha=-group["lr"] * size)

    def _move_other(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[weight], group["betas"]
        count = state["count"] = state.get("count", 0) + 1
        mean = state.setdefault("mean", torch.zeros_like(weight))
        square = state.setdefault("square", torch.zeros_like(weight))
        mean.lerp_(weight.grad, 1 - first)
        square.lerp_(weight.grad.square(), 1 - second)
        scale = (square / (1 - second**count)).sqrt_().add_(1e-8)
        weight.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**count))


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """About ``U V^T`` of the matrix ``U S V^T``: singular values between 0.7 and 1.2.

    Args:
        matrix: (N, M), any size.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    found = matrix if wide else matrix.T
    found = found / (found.norm() + 1e-12)
    for _ in range(_TURNS):
        square = found @ found.T
        found = a * found + (b * square + c * square @ square) @ found
    return found if wide else found.T


def _is_kernel(weight: torch.Tensor) -> bool:
    """Whether a tensor is the kernel of a layer between others."""
    if weight.dim() <= 2:
        return False
    return bool(weight[0, 0].numel() > 1 and weight.shape[1] > 1)
