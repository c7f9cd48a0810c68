"""Two processes do what one would do with the same batch, and agree on what they must."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.train.team import Team, joined, started

WORKER = Path(__file__).with_name("team_worker.py")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("team")
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)], env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(2)
    ]
    try:
        # They take seconds; a machine that is busy otherwise may take minutes.
        assert [w.wait(600) for w in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("team_worker", WORKER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_whole_batch_is_normalised_as_one(seen: list[dict], worker: ModuleType) -> None:
    net = worker.network()
    out = worker.pass_through(net, *worker.batch())
    for process in seen:
        torch.testing.assert_close(process["out"], out, atol=1e-5, rtol=1e-5)
        for name, p in net.named_parameters():
            torch.testing.assert_close(process["gradients"][name], p.grad, atol=1e-5, rtol=1e-4, msg=name)
        assert process["state"].keys() == net.state_dict().keys()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(process["state"][name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_processes_agree(seen: list[dict]) -> None:
    assert [s["leads"] for s in seen] == [True, False]
    for process in seen:
        assert process["agreed"] == {"from": 0}
        assert float(process["mean"]) == 0.5
        assert not process["copied"].any()
        assert process["uneven"].tolist() == [0, 0, 1]


def test_one_process_needs_nobody() -> None:
    team = Team()
    rows = torch.arange(4)
    team.wait()
    assert team.leads
    assert team.agree("x") == "x"
    assert all(torch.equal(rows, f(rows)) for f in (team.part, team.gather, team.mean))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"RANK": "0"}, "RANK=0: expected whole numbers in all of RANK, WORLD_SIZE, LOCAL_RANK"), ({"RANK": "x"}, "=x")],
)
def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], message: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert started() == Team()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        started()


def test_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UnavailableError, match="the 2 processes do not find each other"), joined("cpu"):
        pass
