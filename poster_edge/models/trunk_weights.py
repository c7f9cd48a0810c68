"""ImageNet weights for a residual trunk, as torchvision publishes them: read safely, loaded strictly."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from poster_edge.errors import UsageError
from poster_edge.models.checkpoint import strict_load
from poster_edge.models.network import Network
from poster_edge.models.official import read_official
from poster_edge.models.resnet import ResNet

#: Entries of a file that a trunk has no use for: the classifier of ImageNet's classes.
_CLASSIFIER = "fc."
#: Counted since PyTorch 0.4.1 only; what ResNet's files lack of it starts at 0.
_COUNTER = "num_batches_tracked"


def load_trunk(network: Network, path: Path) -> None:
    """Start the residual trunk of ``network`` from a file such as torchvision's ``resnet18-*.pth``.

    Raises:
        UsageError: the network has no residual trunk.
        InputError: the file is unreadable, or its entries do not fit the trunk (they are named).
    """
    trunk = getattr(network, "trunk", None)
    if not isinstance(trunk, ResNet):
        raise UsageError(f"{network.config.variant} has no residual trunk: it trains without --trunk")
    state: dict[str, Tensor] = {
        k: torch.zeros((), dtype=torch.int64) for k in trunk.state_dict() if k.endswith(_COUNTER)
    }
    state |= {k: v for k, v in read_official(path).items() if not k.startswith(_CLASSIFIER)}
    strict_load(trunk, state, str(path))
