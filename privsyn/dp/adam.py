"""Adam with bias correction for the noise of DP-SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

FLOOR = 0.1  # smallest second moment, as a share of the noise's variance


class AdamBC(torch.optim.Optimizer):
    """DP-AdamBC: the known variance of the noise of DP-SGD is subtracted from Adam's second moment.

    Without that all weights have nearly the same second moment, the noise's, and Adam is little more than
    momentum. What is left may be negative by chance, hence a floor. Tang, Shpilevskiy & Lecuyer 2024,
    "DP-AdamBC", algorithm 1, https://arxiv.org/abs/2312.14334; weight decay as in AdamW.

    Attributes:
        noise_variance: of one weight's gradient as it comes in; it is public.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        noise_variance: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas})
        self.noise_variance = noise_variance

    @torch.no_grad()
    def step(self, closure: Callable[[], object] | None = None) -> None:  # type: ignore[override]
        """One step; there is no closure."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group["lr"], group["weight_decay"], group["betas"])

    def _move(
        self, weight: Tensor, gradient: Tensor, lr: float, weight_decay: float, betas: tuple[float, float]
    ) -> None:
        memory, (beta1, beta2) = self.state[weight], betas
        if not memory:
            memory["step"] = torch.zeros(())
            memory["exp_avg"], memory["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        memory["step"] += 1
        steps, mean, square = memory["step"].item(), memory["exp_avg"], memory["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.lerp_(gradient.square(), 1 - beta2)
        signal = square / (1 - beta2**steps) - self.noise_variance
        spread = signal.clamp_min(FLOOR * self.noise_variance + 1e-16).sqrt()
        weight.mul_(1 - lr * weight_decay)
        weight.addcdiv_(mean, spread, value=-lr / (1 - beta1**steps))
