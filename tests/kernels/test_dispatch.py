"""Which kernels compute the pyramid: choice, refusal, packing, and that export and training stay out."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.kernels import chain, dispatch, reference
from poster_edge.kernels.attention import attention, attention_reference, exportable
from poster_edge.kernels.launch import ARGUMENTS, DEPTH, OUTPUTS, Launch, plan, signature
from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.shape import FusionShape
from poster_edge.models import fused
from poster_edge.models.config import CONFIGS
from poster_edge.models.fusion import PyramidFusion
from poster_edge.models.poster_config import PosterConfig

SHAPE = FusionShape(50, 8, (512, 256, 128), True)
CALL = dispatch.Call(SHAPE, 1, torch.float16, torch.device("cpu"))


class TorchLauncher:
    """Computes each kernel's step with the reference: tests what surrounds the kernels."""

    def __init__(self, depths: list[PackedDepth]) -> None:
        self.depths = depths
        self.launched: list[str] = []

    def __call__(self, step: Launch, tensors: dict[str, Tensor | int]) -> None:
        self.launched.append(step.kernel)
        t = {k: v for k, v in tensors.items() if isinstance(v, Tensor)}
        packed = self.depths[max(self.launched.count("attend") - 1, 0)]
        if step.kernel == "enter":
            levels = [t[f"level{i}"] for i in range(packed.shape.levels)]
            t["x"].copy_(reference.join_levels(levels))
            t["partials"].copy_(reference.partials(t["x"], packed.shape))
        elif step.kernel == "attend":
            t["attended"].copy_(reference.attend(t["x"], packed))
        elif step.kernel == "project":
            t["y"].copy_(reference.project(t["x"], t["attended"], packed))
            t["y_partials"].copy_(reference.partials(t["y"], packed.shape))
        elif step.kernel == "expand":
            t["hidden"].copy_(reference.expand(t["y"], packed))
        elif step.kernel == "contract":
            t["z"].copy_(reference.contract(t["y"], t["hidden"], packed))
        else:
            out = reference.mix(t["z"], packed)
            last = bool(step.constants["LAST"])
            t["out"].copy_(out[:, 0, : packed.shape.dims[0]] if last else out)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(dispatch, "_logged", set())
    monkeypatch.setattr(dispatch, "_broken", {})


def fusion(config: PosterConfig = CONFIGS["poster-nano"]) -> PyramidFusion:
    torch.manual_seed(0)
    module = PyramidFusion(config).eval()
    for value in module.parameters():
        with torch.no_grad():
            value.add_(torch.randn_like(value) * 0.05)
    return module


def tokens(config: PosterConfig, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (batch, config.tokens // 2 - 1, config.dims[0])
    return torch.randn(size, generator=generator), torch.randn(size, generator=generator)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[TorchLauncher]:
    """A triton back end that serves on the CPU, its kernels computed by the reference."""
    launchers: list[TorchLauncher] = []
    packed = fused.packed_depths

    def follow(module: PyramidFusion, precision: str) -> list:
        depths = packed(module, precision)
        launchers.append(TorchLauncher(depths))
        return depths

    monkeypatch.setattr(fused, "packed_depths", follow)
    backend = replace(
        dispatch.BACKENDS["triton"],
        reject=dispatch._reject_fused,
        decline=lambda call: None,
        launcher=lambda: launchers[-1],
    )
    monkeypatch.setitem(dispatch.BACKENDS, "triton", backend)
    return launchers


def test_automatic_choice_falls_back_and_logs_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "poster_edge.kernels"):
        assert [dispatch.choose(CALL).name for _ in range(3)] == ["sdpa"] * 3
    lines = [r.getMessage() for r in caplog.records]
    assert len([x for x in lines if "'triton'" in x]) == 1
    assert "needs a CUDA GPU, and the tensors are on 'cpu'" in lines[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"training": True}, "no backward pass"),
        ({"autocast": True}, "autocast is on"),
        ({"dtype": torch.float64}, "activations are torch.float64"),
        ({"dtype": torch.bfloat16, "int8": True}, "INT8 weights go with float16"),
        ({"batch": 9000}, r"batch of 9000 is too large \(at most 8192\)"),
        ({"batch": 3000, "shape": replace(SHAPE, ratio=8)}, r"batch of 3000 is too large \(at most 2995\)"),
        ({"shape": replace(SHAPE, heads=16)}, "heads 8 wide"),
    ],
    ids=str,
)
def test_forced_triton_says_why_it_cannot_serve(change: dict, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.choose(CALL, backend="triton").name == "triton"
    with pytest.raises(UnavailableError, match=reason):
        dispatch.choose(replace(CALL, **change), backend="triton")


def test_automatic_choice_never_takes_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.choose(CALL).name == "sdpa"


@pytest.mark.parametrize("name", ["fast", "triton:int4", "sdpa:int8", "auto:int8", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError), dispatch.use(name):
        pass


def test_environment_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fusion()
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    with torch.inference_mode(), pytest.raises(UnavailableError, match="kernels 'triton' were asked for"):
        module(*tokens(CONFIGS["poster-nano"], 1))


@pytest.mark.parametrize("name", ["poster-nano", "no-mix"])
@pytest.mark.parametrize("batch", [1, 3])
def test_fused_chain_is_the_module(name: str, batch: int, served: list[TorchLauncher]) -> None:
    config = CONFIGS.get(name) or replace(CONFIGS["poster-nano"], depth=3, mix=False)
    module, given = fusion(config), tokens(config, batch)
    with torch.inference_mode():
        found = module(*given)
        with dispatch.use("eager"):
            expected = module.double()(*(t.double() for t in given))
    assert (found - expected).norm() / expected.norm() < 1e-6
    assert served[0].launched == ["enter", *DEPTH * config.depth]


def test_training_and_export_stay_out(served: list[TorchLauncher]) -> None:
    module, given = fusion(), tokens(CONFIGS["poster-nano"], 1)
    module(*given).sum().backward()
    module.train()
    with torch.no_grad():
        module(*given)
    module.eval()
    with torch.no_grad(), exportable():
        module(*given)
        with dispatch.use("triton"):
            module(*given)
    with torch.no_grad():
        torch.export.export(module, given)
    assert not served


def test_weights_are_packed_again_when_they_change() -> None:
    module = fusion()
    first = fused.packed_depths(module, "fp32")
    assert fused.packed_depths(module, "fp32") is first
    assert fused.packed_depths(module, "w8a16") is not first
    assert fused.packed_depths(module, "fp32") is first
    with torch.no_grad():
        module.blocks[1].block_m.mlp2.fc2.weight.mul_(2)
    second = fused.packed_depths(module, "fp32")
    assert second is not first
    assert not torch.equal(second[1].fc2, first[1].fc2)
    module.load_state_dict(module.state_dict())
    third = fused.packed_depths(module, "fp32")
    assert third is not second
    module.blocks[0].block_l.attn_img.proj.weight = torch.nn.Parameter(torch.zeros(128, 128))
    assert fused.packed_depths(module, "fp32")[0].proj[: 128 * 128].count_nonzero() == 0
    module.half()
    assert fused.packed_depths(module, "fp32") is not third


def test_a_failing_back_end_is_given_up_once(
    served: list[TorchLauncher], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> chain.Launcher:
        raise RuntimeError("no ptxas\nmore lines")

    monkeypatch.setitem(dispatch.BACKENDS, "triton", replace(dispatch.BACKENDS["triton"], launcher=broken))
    module, given = fusion(), tokens(CONFIGS["poster-nano"], 1)
    with torch.inference_mode(), caplog.at_level(logging.WARNING, "poster_edge.kernels"):
        found = [module(*given) for _ in range(3)]
        with dispatch.use("eager"):
            expected = module(*given)
        with dispatch.use("triton"), pytest.raises(RuntimeError, match="no ptxas"):
            module(*given)
    assert all(torch.allclose(x, expected, atol=1e-5) for x in found)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "RuntimeError: no ptxas" in warnings[0]


def test_attention_follows_what_was_asked() -> None:
    q, k, v = (torch.randn(1, 2, 37, 64, requires_grad=True) for _ in range(3))
    with dispatch.use("eager"):
        plain = attention(q, k, v, scale=0.125)
    assert torch.equal(plain, attention_reference(q, k, v, scale=0.125))
    with dispatch.use("sdpa"):
        assert "ScaledDotProduct" in type(attention(q, k, v, scale=0.125).grad_fn).__name__


def test_levels_that_do_not_fit_are_refused() -> None:
    module = fusion()
    packed = fused.packed_depths(module, "fp32")
    levels = [torch.zeros(1, 74, d) for d in (128, 64, 32)]
    chain.enter(levels, packed[0], TorchLauncher(packed))
    for wrong in ([t[:, :50] for t in levels], [t.half() for t in levels], levels[:2]):
        with pytest.raises(UsageError, match="do not fit weights for"):
            chain.enter(wrong, packed[0], TorchLauncher(packed))


@pytest.mark.parametrize("kernel", ARGUMENTS)
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_plans_cover_every_row(kernel: str, batch: int) -> None:
    step = plan(kernel, SHAPE, batch, "fp16")
    rows = batch * (SHAPE.tokens if kernel == "enter" else SHAPE.per_stream)
    if "BM" in step.constants:
        assert step.grid[1] * step.constants["BM"] >= rows > (step.grid[1] - 1) * step.constants["BM"]
    else:
        assert step.grid[1] == batch
    assert set(OUTPUTS[kernel]) <= set(ARGUMENTS[kernel])
    assert list(signature(kernel, "w8a16")) == [n if n == "batch" else f"p_{n}" for n in ARGUMENTS[kernel]]
