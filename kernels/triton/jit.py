"""Runs a planned launch through Triton; importing this needs triton."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from poster_edge.kernels.launch import ARGUMENTS, Launch
from poster_edge.kernels.triton.attend import attend_kernel
from poster_edge.kernels.triton.linear import contract_kernel, expand_kernel, project_kernel
from poster_edge.kernels.triton.tokens import enter_kernel, mix_kernel

#: The kernels by the name that plans use.
KERNELS: dict[str, Any] = {
    "enter": enter_kernel,
    "attend": attend_kernel,
    "project": project_kernel,
    "expand": expand_kernel,
    "contract": contract_kernel,
    "mix": mix_kernel,
}


def interpreted() -> bool:
    """Whether Triton was loaded as an interpreter (``TRITON_INTERPRET=1``), which runs on CPU tensors."""
    return not isinstance(enter_kernel, triton.JITFunction)


def launch(step: Launch, tensors: dict[str, Tensor | int]) -> None:
    """Run one kernel.

    Args:
        step: the plan.
        tensors: the kernel's arguments by name, "batch" among them.
    """
    arguments = [tensors[name] for name in ARGUMENTS[step.kernel]]
    KERNELS[step.kernel][step.grid](*arguments, **step.constants, num_warps=step.warps, num_stages=step.stages)
