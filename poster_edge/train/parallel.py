"""What a training step calls: a method of the network, compiled or shared among processes where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from poster_edge.models.translated import translatable
from poster_edge.train.team import Team


class Call(nn.Module):
    """A method of a model as a module's forward pass, which is what compilers and wrappers take hold of."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self._method: Callable[[Tensor], Tensor] = getattr(model, method)

    def forward(self, x: Tensor) -> Tensor:
        """What the method answers."""
        return self._method(x)


class Compiled(nn.Module):
    """A module translated by torch.compile at its first call.

    Args:
        module: to translate; it stays as it is.
        backend: "inductor", or another of torch's.
    """

    def __init__(self, module: nn.Module, backend: str) -> None:
        super().__init__()
        self.module = module
        self._fast: Callable[[Tensor], Tensor] = torch.compile(module.forward, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        """What the module answers.

        Raises:
            UnavailableError: it cannot be translated here, for want of a compiler for instance.
        """
        with translatable():
            return self._fast(x)


def callable_for(model: nn.Module, method: str, team: Team, *, compiled: str, probe: Tensor | None) -> nn.Module:
    """What to call in place of ``model.method`` so that gradients are the mean over all processes.

    Args:
        model: trained in place; its own names stay as they are.
        method: "forward" or another that takes images (B, 3, S, S).
        team: the processes.
        compiled: backend of torch.compile to translate it with; "": none.
        probe: images (2, 3, S, S) to find out with which parameters it reads; only several processes need it.
    """
    call: nn.Module = Call(model, method)
    if team.size > 1:
        assert probe is not None
        hold_unread(call, probe)
    if compiled:
        call = Compiled(call, compiled)
    if team.size == 1:
        return call
    from torch.nn.parallel import DistributedDataParallel

    devices = None if probe is None or probe.device.type == "cpu" else [probe.device]
    # The first process's buffers, BatchNorm's statistics among them, reach the others with every forward pass.
    return DistributedDataParallel(call, device_ids=devices)


def hold_unread(call: nn.Module, probe: Tensor) -> list[str]:
    """Let parameters that no forward pass reads ask for no gradient: the processes would wait for it.

    Returns:
        Their names.
    """
    modes = [(m, m.training) for m in call.modules()]
    call.eval()
    call(probe).sum().backward()
    for module, mode in modes:
        module.training = mode
    unread = [(n, p) for n, p in call.named_parameters() if p.requires_grad and p.grad is None]
    for _, parameter in unread:
        parameter.requires_grad_(False)
    call.zero_grad(set_to_none=True)
    return [name for name, _ in unread]


def unsynchronised(call: nn.Module) -> AbstractContextManager[Any]:
    """In here the processes do not exchange gradients: not before a batch's last part."""
    no_sync = getattr(call, "no_sync", None)
    return nullcontext() if no_sync is None else no_sync()


@contextmanager
def own_randomness(team: Team, device: str, seed: int) -> Iterator[None]:
    """In here each process drops other units; before and after, all draw the same numbers.

    Args:
        team: the processes; with one, nothing changes.
        device: where the network computes.
        seed: of this step.
    """
    if team.size == 1:
        yield
        return
    with torch.random.fork_rng([] if device == "cpu" else [device]):
        torch.manual_seed(seed * team.size + team.rank)
        yield
