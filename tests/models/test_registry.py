"""Facts of the registry against the models themselves, and the published counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from poster_edge.errors import UsageError
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS, model_config
from poster_edge.models.network import live_parameters
from poster_edge.models.poster import Poster
from poster_edge.models.poster_config import PosterConfig
from poster_edge.models.registry import REGISTRY
from poster_edge.train.recipe import recipe_for


def test_every_configuration_is_registered() -> None:
    assert list(REGISTRY) == list(CONFIGS)


@pytest.mark.parametrize("name", REGISTRY)
def test_counts(name: str) -> None:
    facts = REGISTRY[name]
    with torch.device("meta"):
        model = build_network(CONFIGS[name]).eval()
        x = torch.empty(1, 3, facts.input_size, facts.input_size)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x)
    assert sum(p.numel() for p in model.parameters()) == facts.parameters
    assert live_parameters(model) == facts.live_parameters
    assert counter.get_total_flops() == facts.flops


def test_listing_needs_no_torch() -> None:
    code = "import sys, poster_edge.models.registry, poster_edge.train.recipe; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


def test_every_configuration_has_a_network_and_a_recipe() -> None:
    for config in CONFIGS.values():
        with torch.device("meta"):
            network = build_network(config)
        assert network.config is config
        assert recipe_for(config).epochs > 0


def test_published_parameter_counts() -> None:
    """Table 4 of the POSTER paper, in millions."""
    published = {"poster-t": 52.2, "poster-s": 62.0, "poster": 71.8}
    for name, millions in published.items():
        assert abs(REGISTRY[name].parameters / 1e6 - millions) < 0.06


def test_dead_parameters() -> None:
    with torch.device("meta"):
        model = build_network(CONFIGS["poster"])
    dead = sum(p.numel() for n, p in model.named_parameters() if n.startswith(Poster.dead_prefixes))
    assert dead == 12_944_144


def test_dead_parameters_really_are_dead() -> None:
    model = build_network(CONFIGS["poster-t"]).eval()
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(x)
        for name, parameter in model.named_parameters():
            if name.startswith(Poster.dead_prefixes):
                parameter.fill_(float("nan"))
        assert torch.equal(model(x), before)


def test_nano_keeps_its_budget() -> None:
    config, facts = CONFIGS["poster-nano"], REGISTRY["poster-nano"]
    assert facts.parameters <= 4_000_000
    assert facts.flops <= 150_000_000
    assert all(d // config.heads % 16 == 0 for d in config.dims)


@pytest.mark.parametrize(
    "changes",
    [{"num_classes": 1}, {"heads": 3}, {"dims": (512, 128)}, {"grid": 5}],
    ids=["one-class", "heads", "pyramid", "grid"],
)
def test_impossible_configurations_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PosterConfig("broken", **changes)  # type: ignore[arg-type]


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="poster-nano"):
        model_config("posterr")
