"""Published weights for POSTER's two backbones: read safely, loaded strictly.

- The image backbone: IR-50 trained for face recognition (Deng et al., "ArcFace", 2019), the file ``ir50.pth``: the
  entries themselves, or under ``model`` or ``state_dict``.
- The landmark backbone: MobileFaceNet trained on 68 points, the file ``mobilefacenet_model_best.pth.tar``: entries
  under ``state_dict``.

The authors' code drops what does not fit without a word; here every entry of the network must be in the file, with
its shape, and the only entries left over may be the last stage of IR-50, which POSTER does not have.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from poster_edge.errors import UsageError
from poster_edge.models.backbones import IRNet, MobileFaceNet
from poster_edge.models.checkpoint import strict_load
from poster_edge.models.network import Network
from poster_edge.models.official import read_official

#: Units 21 to 23 of IR-50, 512 channels wide: POSTER reads the map before them.
_LAST_STAGE = re.compile(r"body\.2[1-3]\.")
#: Older files lack it; it then starts at 0.
_COUNTER = "num_batches_tracked"


def load_image_weights(network: Network, path: Path) -> None:
    """Start POSTER's image stream from published IR-50 weights.

    Raises:
        UsageError: the network has no such stream.
        InputError: the file is unreadable, or its entries do not fit (they are named).
    """
    backbone = getattr(network, "ir_back", None)
    if not isinstance(backbone, IRNet):
        raise UsageError(f"{network.config.variant} has no image stream of POSTER: it trains without --image-weights")
    state = {k: v for k, v in read_official(path).items() if not _LAST_STAGE.match(k)}
    _load(backbone, state, path)


def load_landmark_weights(network: Network, path: Path) -> None:
    """Start POSTER's landmark stream from published MobileFaceNet weights.

    Raises:
        UsageError: the network has no such stream.
        InputError: the file is unreadable, or its entries do not fit (they are named).
    """
    backbone = getattr(network, "face_landback", None)
    if not isinstance(backbone, MobileFaceNet):
        raise UsageError(f"{network.config.variant} has no landmark stream: it trains without --landmark-weights")
    _load(backbone, read_official(path), path)


def _load(backbone: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    counters = {k: torch.zeros((), dtype=torch.int64) for k in backbone.state_dict() if k.endswith(_COUNTER)}
    strict_load(backbone, counters | state, str(path))
