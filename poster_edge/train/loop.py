"""The loop that landmark and expression training share: order, schedule, averaging, resumption.

Everything random in an epoch follows from (seed, epoch), so that a run resumed at an epoch's end
goes on exactly as if it had not stopped.
"""

from __future__ import annotations

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

_NOT_DECAYED = ("pos_embed", "cls_token")
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Device:
    """Where and in which precision to compute.

    Attributes:
        name: torch device, "cpu" or "cuda:0".
        autocast: bfloat16 for matrix products and convolutions, float32 for the rest.
    """

    name: str = "cpu"
    autocast: bool = False

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
        self.optimizer = _OPTIMIZERS[recipe.optimizer](parameter_groups(model, recipe.weight_decay), lr=recipe.lr)
        self.average = AveragedState(model, recipe.ema_decay)
        self.progress = Progress()

    def generator(self) -> torch.Generator:
        """Random source of the coming epoch; also seeds torch's global one (stochastic depth)."""
        seed = self.recipe.seed * 100_003 + self.progress.epoch
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    def batches(self, indices: Tensor, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
        """Shuffled row numbers, ``recipe.batch`` at a time; a last odd piece is left out."""
        order = indices[torch.randperm(len(indices), generator=generator)]
        size = min(self.recipe.batch, len(order))
        for step in range(len(order) // size):
            yield step, order[step * size : (step + 1) * size]

    def step(self, loss_of: Callable[[], Tensor], progress: float) -> float:
        """One optimiser step at ``progress`` epochs; returns the loss.

        Raises:
            PosterEdgeError: the loss is not finite; the last saved state is still good.
        """
        lr = learning_rate(self.recipe, progress, falls=self.progress.plateau.falls)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.device.precision():
            loss = loss_of()
        value = float(loss.detach())
        if value != value or value in (float("inf"), float("-inf")):
            raise PosterEdgeError(
                f"the loss became {value} in epoch {self.progress.epoch + 1}: lower --lr and resume the run"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self.recipe.clip)
        self.optimizer.step()
        self.average.update(self.model)
        return value

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
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.state = state["average"]
            self.average.updates = state["updates"]
            # A state of before there was a plateau schedule has none.
            plateau = Plateau(**state.get("plateau", {}))
            self.progress = Progress(state["epoch"], state["history"], state["best"], plateau)
        except (OSError, RuntimeError, LookupError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"cannot resume from {path}: {reason}; remove it to train that part again") from error
