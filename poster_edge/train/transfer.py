"""What one network can take over from another: of another size, or for other classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from poster_edge.errors import UsageError
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import read_checkpoint
from poster_edge.models.network import Network, WithLandmarks


@dataclass(frozen=True)
class Transferred:
    """What a network has taken over.

    Attributes:
        landmarks: whether a whole landmark stream was among it.
        note: how much it was, and what begins anew, in one line.
    """

    landmarks: bool
    note: str


def take_over(network: Network, path: Path, classes: tuple[str, ...]) -> Transferred:
    """Copy every entry of a checkpoint that has its name and shape in the network too.

    What depends on the number of classes is left out unless the checkpoint tells the same classes apart, in the
    same order.

    Args:
        network: changed in place.
        path: a checkpoint of this project.
        classes: that the network is to tell apart.

    Raises:
        InputError: the checkpoint is unreadable.
        UsageError: nothing of it fits but a head.
    """
    state, info = read_checkpoint(path)
    own = network.state_dict()
    head = _of_classes(network)
    kept_out = set() if info.classes == classes else head
    taken = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape and k not in kept_out}
    if not taken.keys() - head:
        raise UsageError(f"{path} is {info.model}: nothing of it fits {network.config.variant}")
    network.load_state_dict(taken, strict=False)
    anew = Counter(name.partition(".")[0] for name in own if name not in taken)
    rest = ", ".join(f"{part} ({count})" for part, count in anew.items()) or "nothing"
    stream = network.landmark_stream if isinstance(network, WithLandmarks) else None
    return Transferred(
        landmarks=stream is not None and not anew.keys() & _parts_of(network, stream),
        note=f"{path} ({info.model}): {len(taken)} of {len(own)} entries fit and are taken; anew: {rest}",
    )


def _of_classes(network: Network) -> set[str]:
    """Entries whose shape depends on the number of classes."""
    config = network.config
    with torch.device("meta"):
        other = build_network(replace(config, num_classes=config.num_classes + 1)).state_dict()
    return {name for name, tensor in network.state_dict().items() if tensor.shape != other[name].shape}


def _parts_of(network: Network, stream: torch.nn.Module) -> set[str]:
    """Names of a network's parts that are the stream or hold it."""
    return {name for name, part in network.named_children() if any(m is stream for m in part.modules())}
