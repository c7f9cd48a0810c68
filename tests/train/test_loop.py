"""One optimiser step: batches in parts, SAM, clipping, translation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from poster_edge.errors import InputError, UsageError
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.train.loop import Device, Loop, check_parts, fitting
from poster_edge.train.recipe import Recipe
from poster_edge.train.team import Team

RECIPE = Recipe(batch=8, warmup=0, ema_decay=0.0)


def network() -> nn.Module:
    """No BatchNorm: a batch in parts is the batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.GELU(), nn.Linear(5, 3)).double()


def stepped(recipe: Recipe, steps: int = 3) -> dict[str, Tensor]:
    net = network()
    loop = Loop(net, recipe, Device(), method="forward", side=2)
    torch.manual_seed(1)
    for _ in range(steps):
        x, y = torch.randn(8, 3, 2, 2).double(), torch.randn(8, 3).double()
        loop.step(lambda x, y: (loop.call(x) - y).square().mean(), (x, y), 0.0)
    return net.state_dict()


@pytest.mark.parametrize("rho", [0.0, 0.05], ids=["plain", "sam"])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch(rho: float, parts: int) -> None:
    recipe = replace(RECIPE, sam_rho=rho)
    whole, pieces = stepped(recipe), stepped(replace(recipe, accumulate=parts))
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-7, atol=1e-9, msg=name)


def test_sam_and_clipping_change_the_step() -> None:
    plain = stepped(RECIPE)
    for other in (replace(RECIPE, sam_rho=0.5), replace(RECIPE, clip=1e-9, optimizer="adam")):
        changed = stepped(other)
        assert not all(torch.equal(v, changed[k]) for k, v in plain.items())
    free, far = stepped(replace(RECIPE, clip=0.0)), stepped(replace(RECIPE, clip=1e9))
    assert all(torch.equal(v, far[k]) for k, v in free.items())


@pytest.mark.parametrize(("batch", "team"), [(8, Team(0, 3)), (4, Team(1, 4)), (8, Team(0, 8))])
def test_batches_that_do_not_divide(batch: int, team: Team) -> None:
    with pytest.raises(UsageError, match=f"a batch of {batch} does not divide into equal parts of 2 or more for"):
        Loop(network(), replace(RECIPE, batch=batch), Device(), team, method="forward", side=2)


@pytest.mark.parametrize(("size", "batch"), [(1, 128), (3, 126), (4, 128), (100, 200)])
def test_a_batch_that_nobody_chose_gives_way(size: int, batch: int) -> None:
    recipe, team = fitting(replace(RECIPE, batch=128), Team(0, size)), Team(0, size)
    assert recipe.batch == batch
    check_parts(recipe, team)


def test_small_sets_make_smaller_batches_or_none() -> None:
    loop = Loop(network(), replace(RECIPE, batch=16, accumulate=4), Device(), method="forward", side=2)
    assert [len(rows) for rows in loop.groups(torch.arange(11), loop.generator(), pixels=12)] == [8]
    with pytest.raises(InputError, match="3 images are too few for 4 parts of a batch"):
        next(loop.groups(torch.arange(3), loop.generator(), pixels=12))


def test_translated_networks_take_the_same_step() -> None:
    """The backend that only traces: the one that compiles takes half a minute."""

    def trained(backend: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = build_network(model_config("cf-dan-nano", num_classes=2)).train()
        loop = Loop(net, RECIPE, Device(compiled=backend), method="forward", side=48)
        loop.step(lambda x: loop.call(x).square().mean(), (torch.ones(8, 3, 48, 48),), 0.0)
        return net.state_dict()

    plain, translated = trained(""), trained("eager")
    assert plain.keys() == translated.keys()
    assert all(torch.equal(v, translated[k]) for k, v in plain.items())


@pytest.mark.campaign
def test_compiled_networks_take_nearly_the_same_step() -> None:
    def loss(backend: str) -> list[float]:
        torch.manual_seed(0)
        net = build_network(model_config("cf-dan-nano", num_classes=2)).train()
        loop = Loop(net, RECIPE, Device(compiled=backend), method="forward", side=48)
        x = torch.randn(8, 3, 48, 48)
        return [float(loop.step(lambda x: loop.call(x).square().mean(), (x,), 0.0)) for _ in range(3)]

    assert loss("inductor") == pytest.approx(loss(""), rel=1e-3)
