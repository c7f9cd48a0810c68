"""A network from its configuration: the one place that knows which class belongs to which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poster_edge.models.base_config import ModelConfig
from poster_edge.models.cf_dan import CfDan
from poster_edge.models.cf_dan_config import CfDanConfig
from poster_edge.models.fer_vt import FerVt
from poster_edge.models.fer_vt_config import FerVtConfig
from poster_edge.models.network import Network
from poster_edge.models.one_stream import build_poster
from poster_edge.models.poster_config import PosterConfig

_NETWORKS: dict[type[ModelConfig], Callable[[Any], Network]] = {
    PosterConfig: build_poster,
    FerVtConfig: FerVt,
    CfDanConfig: CfDan,
}


def build_network(config: ModelConfig) -> Network:
    """The untrained network of a configuration; the configuration's type chooses the class."""
    return _NETWORKS[type(config)](config)
