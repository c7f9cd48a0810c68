"""The loop that landmark and expression training share: order, schedule, averaging, resumption.

Everything random in an epoch follows from (seed, epoch), so that a run resumed at an epoch's end
goes on exactly as if it had not stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from poster_edge.errors import InputError, PosterEdgeError, UsageError
from poster_edge.train.ema import AveragedState
from poster_edge.train.parallel import callable_for, own_randomness, unsynchronised
from poster_edge.train.plateau import Plateau
from poster_edge.train.recipe import Recipe, learning_rate
from poster_edge.train.sam import climbed, norms_held
from poster_edge.train.sampling import epoch_order
from poster_edge.train.state import load_state, restore_optimizer, save_state
from poster_edge.train.step_graph import StepGraph
from poster_edge.train.team import Team

if TYPE_CHECKING:
    from poster_edge.train.pictures import Pictures

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
        graphs: on a GPU, launch whole steps as CUDA graphs; a run of one process only.
        compiled: backend of torch.compile that translates the network before it is trained, "inductor"; "": none.
    """

    name: str = "cpu"
    autocast: bool = False
    graphs: bool = False
    compiled: str = ""

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.name.startswith("cuda")

    @property
    def arithmetic(self) -> str:
        """What records call the precision: "bf16" or "fp32"."""
        return "bf16" if self.autocast else "fp32"

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


def check_parts(recipe: Recipe, team: Team) -> None:
    """Refuse a batch that does not divide among the processes and their parts.

    Raises:
        UsageError: says what does not divide.
    """
    parts = team.size * recipe.accumulate
    if recipe.batch % parts or recipe.batch < 2 * parts:
        raise UsageError(
            f"a batch of {recipe.batch} does not divide into equal parts of 2 or more for {team.size} processes that "
            f"take theirs in {recipe.accumulate}: change --batch or --accumulate"
        )


def fitting(recipe: Recipe, team: Team) -> Recipe:
    """The recipe with a batch that divides among the processes, for batches that nobody chose: at most as large."""
    return replace(recipe, batch=max(2, recipe.batch // team.size) * team.size)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
}


class Loop:
    """Optimiser, averaged weights and progress of one training; saves and resumes all of it.

    Args:
        model: trained in place.
        recipe: how.
        device: where.
        team: the processes that train it together, each on its part of every batch.
        method: of the model, which the loss is computed from.
        side: of the images in pixels.

    Raises:
        UsageError: a batch does not divide into the parts.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, device: Device, team: Team | None = None, *, method: str, side: int
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.device = device
        self.team = team or Team()
        self.batch = recipe.batch
        check_parts(recipe, self.team)
        self.optimizer = self._optimizer()
        self.average = AveragedState(model, recipe.ema_decay)
        self.progress = Progress()
        #: Called by a loss in place of the model's method.
        self.call = callable_for(
            model,
            method,
            self.team,
            compiled=device.compiled,
            probe=torch.zeros(2, 3, side, side, device=device.name) if self.team.size > 1 else None,
        )
        self._rate_option = "--landmark-lr" if method == "landmarks" else "--lr"
        self._seed = 0
        self._graph: StepGraph | None = None
        self._loss_of: Callable[..., Tensor] | None = None

    @property
    def _parts(self) -> int:
        return self.team.size * self.recipe.accumulate

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
        self._seed = seed * 1_000_003
        return torch.Generator(device=self.device.name).manual_seed(seed)

    def groups(
        self, indices: Tensor, generator: torch.Generator, *, pixels: int, labels: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Row numbers in the epoch's order, one batch at a time on a CPU, several on a GPU; an odd rest is left out.

        All processes get all of them: what is drawn at random for a batch does not depend on how many they are.

        Args:
            indices: rows to go over.
            generator: of the order.
            pixels: values of one image.
            labels: class of every row of the whole set, where classes are to be balanced.

        Raises:
            InputError: fewer rows than processes and parts.
        """
        order = epoch_order(
            indices,
            torch.zeros_like(indices) if labels is None else labels,
            "shuffle" if labels is None else self.recipe.sampling,
            generator,
        )
        self.batch = min(self.recipe.batch, len(order)) // self._parts * self._parts
        if not self.batch:
            raise InputError(f"{len(order)} images are too few for {self._parts} parts of a batch")
        size = self.batch * (max(1, _GROUP_PIXELS // (self.batch * pixels)) if self.device.is_cuda else 1)
        yield from torch.split(order[: len(order) // self.batch * self.batch], size)

    def take(self, table: Tensor | Pictures, rows: Tensor) -> Tensor:
        """Rows of a table, on the training device wherever the table lies."""
        return table[rows.to(table.device)].to(self.device.name)

    def batches(self, *tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """This process's part of each batch of a group, from tables (k·B, …) that :meth:`own` cut."""
        yield from zip(*(torch.split(t, self.batch // self.team.size) for t in tables), strict=True)

    def own(self, table: Tensor) -> Tensor:
        """This process's rows of a group of batches, (k·B, …) -> (k·B/P, …) for P processes."""
        if self.team.size == 1:
            return table
        part = self.batch // self.team.size
        # k·B x … -> k x B x … -> k x B/P x …
        batches = table.reshape(-1, self.batch, *table.shape[1:])
        return batches[:, self.team.rank * part : (self.team.rank + 1) * part].flatten(0, 1)

    def step(self, loss_of: Callable[..., Tensor], inputs: tuple[Tensor, ...], progress: float) -> Tensor:
        """One optimiser step at ``progress`` epochs; returns the loss, on the training device.

        Args:
            loss_of: of ``inputs``; it must not wait for the GPU.
            inputs: of this process's part of one batch, on the training device.
            progress: epochs done, with a fraction.

        Raises:
            PosterEdgeError: the loss is not finite (on a GPU: see :meth:`mean_loss`).
        """
        self._set_rate(learning_rate(self.recipe, progress, falls=self.progress.plateau.falls))
        self._loss_of = loss_of
        self._seed += 1
        if self.device.is_cuda and self.device.graphs and self.team.size == 1:
            self._graph = self._graph or StepGraph(self._update, self._forget)
            loss = self._graph(inputs)
        else:
            self._forget()
            with own_randomness(self.team, self.device.name, self._seed):
                loss = self._update(inputs)
        self.average.update()
        if not self.device.is_cuda:
            self._check(float(loss))
        return loss

    def mean_loss(self, losses: list[Tensor]) -> float:
        """Mean of an epoch's losses over all processes.

        Raises:
            PosterEdgeError: one was not finite; the last saved state is still good.
        """
        return self._check(float(self.team.mean(torch.stack(losses).mean())))

    def _update(self, inputs: tuple[Tensor, ...]) -> Tensor:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        loss = self._gradients(inputs)
        if self.recipe.sam_rho:
            held = norms_held(self.model) if self.recipe.sam_hold_norm else nullcontext()
            with climbed(trained, self.recipe.sam_rho), held:
                self._forget()
                self._gradients(inputs)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(trained, self.recipe.clip)
        self.optimizer.step()
        return loss

    def _gradients(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Add the gradients of a batch's mean loss, computed in equal parts; returns that loss."""
        assert self._loss_of is not None
        losses = []
        pieces = list(zip(*(t.chunk(self.recipe.accumulate) for t in inputs), strict=True))
        for index, piece in enumerate(pieces):
            with unsynchronised(self.call) if index + 1 < len(pieces) else nullcontext():
                with self.device.precision():
                    loss = self._loss_of(*piece) / len(pieces)
                torch.autograd.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

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
                f"the loss became {loss} in epoch {self.progress.epoch + 1}: begin again with a lower "
                f"{self._rate_option}"
            )
        return loss

    def save(self, path: Path) -> None:
        """Write the whole state atomically."""
        save_state(
            path,
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state,
                "updates": self.average.updates,
                "epoch": self.progress.epoch,
                "history": self.progress.history,
                "best": self.progress.best,
                "plateau": self.progress.plateau.to_dict(),
            },
        )

    def resume(self, path: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the file is unreadable or belongs to another model.
        """
        try:
            state = load_state(path, self.device.name)
            self.model.load_state_dict(state["model"])
            restore_optimizer(self.optimizer, state["optimizer"])
            self.average.restore(state["average"], state["updates"])
            self.progress = Progress(state["epoch"], state["history"], state["best"], Plateau(**state["plateau"]))
        except (InputError, RuntimeError, LookupError, ValueError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"cannot resume from {path}: {reason}; remove it to train that part again") from error
