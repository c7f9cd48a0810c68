"""Sharpness-aware minimisation: an optimiser's step from the gradient at the worst point nearby.

Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization" (2021), eq. 2 and
algorithm 1, with the L2 norm: w takes the step that the gradient at w + ρ g/|g| asks for.

    compute()                                  # gradients at w
    with climbed(parameters, rho):
        compute()                              # gradients at w + ρ g/|g|
    optimizer.step()                           # from w, whichever optimiser it is
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Keeps the division finite where the gradient vanishes.
_TINY = 1e-12


@contextmanager
def climbed(parameters: Iterable[nn.Parameter], rho: float) -> Iterator[None]:
    """Move parameters by ``rho`` along their gradient, all of them as one vector; on leaving, back to the bit.

    Nothing waits for the GPU.

    Args:
        parameters: those without a gradient stay where they are.
        rho: length of the move.
    """
    moved: list[Tensor] = [p for p in parameters if p.grad is not None]
    if not moved:
        yield
        return
    before = [p.detach().clone() for p in moved]
    gradients = [p.grad for p in moved if p.grad is not None]
    with torch.no_grad():
        steps = torch._foreach_mul(gradients, rho / (_norm(gradients) + _TINY))
        torch._foreach_add_(moved, list(steps))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, before)


def _norm(gradients: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


@contextmanager
def norms_held(model: nn.Module) -> Iterator[None]:
    """BatchNorm still normalises by the batch in here, but its running statistics and counts do not move."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        # Outside of training this would make it use the batch instead of the running statistics.
        norm.track_running_stats = not norm.training
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
