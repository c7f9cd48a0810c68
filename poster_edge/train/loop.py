"""The loop that landmark and expression training share: order, schedule, averaging, resumption.

Everything random in an epoch follows from (seed, epoch), so that a run resumed at an epoch's end
goes on exactly as if it had not stopped.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from poster_edge.errors import InputError, PosterEdgeError
from poster_edge.files import atomic_path
from poster_edge.train.ema import AveragedState
from poster_edge.train.plateau import Plateau
from poster_edge.train.recipe import Recipe, learning_rate
from poster_edge.train.step_graph import StepGraph

_NOT_DECAYED = ("pos_embed", "cls_token")
#: Pixels that are prepared at once on a GPU, where many small launches take longer than the work itself.
_GROUP_PIXELS = 1 << 26
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Device:
    """Where and in which precision to compute.

    Attributes:
        name: torch device, "cpu" or "cuda:0".
        autocast: bfloat16 for matrix products and convolutions, float32 for the rest.
        graphs: on a GPU, launch whole steps as CUDA graphs.
    """

    name: str = "cpu"
    autocast: bool = False
    graphs: bool = False

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.name.startswith("cuda")

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which the forward pass runs."""
        kind = self.name.partition(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.autocast)

    def place(self, model: Net) -> Net:
        """Move a model there, its kernels laid out channels last, which both CPUs and GPUs prefer."""
        # torch's stubs do not know ``memory_format``.
        move: Any = model.to
        move(self.name, memory_format=torch.channels_last)
        return model


@dataclass
class Progress:
    """What a resumed run needs beside weights: epochs done, history, best epoch so far, falls of the rate."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    plateau: Plateau = field(default_factory=Plateau)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters; vectors (norms, biases, slopes) and tokens and position codes are not decayed."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim < 2 or n.endswith(_NOT_DECAYED)]
    decayed = [p for n, p in named if not (p.ndim < 2 or n.endswith(_NOT_DECAYED))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
}


class Loop:
    """Optimiser, averaged weights and progress of one training; saves and resumes all of it."""

    def __init__(self, model: nn.Module, recipe: Recipe, device: Device) -> None:
        self.model = model
        self.recipe = recipe
        self.device = device
        self.optimizer = self._optimizer()
        self.average = AveragedState(model, recipe.ema_decay)
        self.progress = Progress()
        self.batch = recipe.batch
        self._graph: StepGraph | None = None
        self._loss_of: Callable[..., Tensor] | None = None

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.model, self.recipe.weight_decay)
        make = _OPTIMIZERS[self.recipe.optimizer]
        if not self.device.is_cuda:
            return make(groups, lr=self.recipe.lr)
        # The rate is a number in the GPU's memory, so that a captured step follows its schedule.
        for group in groups:
            group["lr"] = torch.tensor(self.recipe.lr, device=self.device.name)
        return make(groups, lr=torch.tensor(self.recipe.lr, device=self.device.name), fused=True, capturable=True)

    def generator(self) -> torch.Generator:
        """Random source of the coming epoch; also seeds torch's global one (stochastic depth)."""
        seed = self.recipe.seed * 100_003 + self.progress.epoch
        torch.manual_seed(seed)
        return torch.Generator(device=self.device.name).manual_seed(seed)

    def groups(self, indices: Tensor, generator: torch.Generator, *, pixels: int) -> Iterator[Tensor]:
        """Shuffled row numbers, one batch at a time on a CPU, several on a GPU; a last odd piece is left out.

        Args:
            indices: rows to go over.
            generator: of the order.
            pixels: values of one image.
        """
        order = indices.to(generator.device)[torch.randperm(len(indices), generator=generator, device=generator.device)]
        self.batch = min(self.recipe.batch, len(order))
        size = self.batch * (max(1, _GROUP_PIXELS // (self.batch * pixels)) if self.device.is_cuda else 1)
        yield from order[: len(order) // self.batch * self.batch].split(size)

    def take(self, table: Tensor, rows: Tensor) -> Tensor:
        """Rows of a table, on the training device wherever the table lies."""
        return table[rows.to(table.device)].to(self.device.name)

    def step(self, loss_of: Callable[..., Tensor], inputs: tuple[Tensor, ...], progress: float) -> Tensor:
        """One optimiser step at ``progress`` epochs; returns the loss, on the training device.

        Args:
            loss_of: of ``inputs``; it must not wait for the GPU.
            inputs: of one batch, on the training device.
            progress: epochs done, with a fraction.

        Raises:
            PosterEdgeError: the loss is not finite (on a GPU: see :meth:`mean_loss`).
        """
        self._set_rate(learning_rate(self.recipe, progress, falls=self.progress.plateau.falls))
        self._loss_of = loss_of
        if self.device.is_cuda and self.device.graphs:
            self._graph = self._graph or StepGraph(self._update, self._forget)
            loss = self._graph(inputs)
        else:
            self._forget()
            loss = self._update(inputs)
        self.average.update()
        if not self.device.is_cuda:
            self._check(float(loss))
        return loss

    def mean_loss(self, losses: list[Tensor]) -> float:
        """Mean of an epoch's losses.

        Raises:
            PosterEdgeError: one was not finite; the last saved state is still good.
        """
        return self._check(float(torch.stack(losses).mean()))

    def _update(self, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self._loss_of is not None
        with self.device.precision():
            loss = self._loss_of(*inputs)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self.recipe.clip)
        self.optimizer.step()
        return loss.detach()

    def _forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _check(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise PosterEdgeError(
                f"the loss became {loss} in epoch {self.progress.epoch + 1}: lower --lr and resume the run"
            )
        return loss

    def save(self, path: Path) -> None:
        """Write the whole state atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state,
            "updates": self.average.updates,
            "epoch": self.progress.epoch,
            "history": self.progress.history,
            "best": self.progress.best,
            "plateau": self.progress.plateau.to_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the file is unreadable or belongs to another model.
        """
        try:
            state = torch.load(path, map_location=self.device.name, weights_only=True)
            self.model.load_state_dict(state["model"])
            self._load_optimizer(state["optimizer"])
            self.average.state = state["average"]
            self.average.updates = state["updates"]
            # A state of before there was a plateau schedule has none.
            plateau = Plateau(**state.get("plateau", {}))
            self.progress = Progress(state["epoch"], state["history"], state["best"], plateau)
        except (OSError, RuntimeError, LookupError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"cannot resume from {path}: {reason}; remove it to train that part again") from error

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Moments and counts of a saved optimiser; how and where it computes stays this device's."""
        kept = [
            {k: v for k, v in group.items() if k in ("lr", "fused", "capturable", "foreach")}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state)
        for group, own in zip(self.optimizer.param_groups, kept, strict=True):
            group.update(own)
        for moments in self.optimizer.state.values():
            moments["step"] = moments["step"].to(self.device.name if self.device.is_cuda else "cpu")
