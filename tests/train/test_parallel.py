"""What a step calls: parameters nobody reads, parts of a batch, randomness of one's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poster_edge.train.parallel import Call, callable_for, hold_unread, own_randomness, unsynchronised
from poster_edge.train.team import Team


class Net(nn.Module):
    """Reads one of its two layers, normalises, drops."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.unread = nn.Conv2d(3, 2, 3), nn.Linear(2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.held = nn.Parameter(torch.ones(1), requires_grad=False)

    def answer(self, x: Tensor) -> Tensor:
        return self.norm(self.read(x)).mean(dim=(2, 3))


def test_unread_parameters_are_found_and_nothing_else_changes() -> None:
    net = Net().train()
    net.norm.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    names = hold_unread(Call(net, "answer"), torch.randn(2, 3, 6, 6))
    assert names == ["model.unread.weight", "model.unread.bias"]
    assert not net.unread.weight.requires_grad
    assert net.read.weight.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert not net.norm.training


def test_one_process_calls_the_method_itself() -> None:
    net, x = Net().eval(), torch.randn(2, 3, 6, 6)
    call = callable_for(net, "answer", Team(), compiled=False, probe=None)
    assert torch.equal(call(x), net.answer(x))
    with unsynchronised(call):
        call(x).sum().backward()
    assert net.unread.weight.requires_grad


def test_processes_drop_other_units_and_then_draw_the_same() -> None:
    def drawn(team: Team, seed: int = 5) -> tuple[list[float], list[float]]:
        torch.manual_seed(0)
        with own_randomness(team, "cpu", seed):
            inside = torch.rand(3).tolist()
        return inside, torch.rand(3).tolist()

    torch.manual_seed(0)
    alone = torch.rand(3).tolist(), torch.rand(3).tolist()
    assert drawn(Team()) == alone
    first, second = drawn(Team(0, 2)), drawn(Team(1, 2))
    assert first[0] != second[0]
    assert first[1] == second[1] == alone[0]
    assert drawn(Team(1, 2)) == second
    assert drawn(Team(1, 2), seed=6)[0] != second[0]
