"""Every configuration of every network by name.  No torch here, so that listing models needs none."""

from __future__ import annotations

from dataclasses import replace

from poster_edge.errors import UsageError
from poster_edge.models.ablation import SEPARATOR, variant_config
from poster_edge.models.base_config import ModelConfig
from poster_edge.models.cf_dan_config import CF_DAN_CONFIGS
from poster_edge.models.fer_vt_config import FER_VT_CONFIGS
from poster_edge.models.poster_config import POSTER_CONFIGS, PosterConfig

#: See :mod:`poster_edge.models.registry` for what is known of each.
CONFIGS: dict[str, ModelConfig] = {c.variant: c for c in (*POSTER_CONFIGS, *FER_VT_CONFIGS, *CF_DAN_CONFIGS)}


def model_config(name: str, *, num_classes: int | None = None) -> ModelConfig:
    """Configuration of a model by name, optionally with another number of classes.

    Args:
        name: a key of :data:`CONFIGS`, or one with an ablation variant: "poster-nano@image-only", see
            :mod:`poster_edge.models.ablation`.
        num_classes: C.

    Raises:
        UsageError: unknown name; lists the known ones.
    """
    base, _, variant = name.partition(SEPARATOR)
    if base not in CONFIGS:
        raise UsageError(f"unknown model '{name}'; known: {', '.join(CONFIGS)}")
    config = CONFIGS[base]
    if variant:
        if not isinstance(config, PosterConfig):
            raise UsageError(f"'{name}': the ablation variants are POSTER's; {base} has none")
        config = variant_config(config, variant)
    return config if num_classes is None else replace(config, num_classes=num_classes)
