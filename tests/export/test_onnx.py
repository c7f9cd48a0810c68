"""Export: BatchNorm folded exactly, dead weights left out, the graph equal to PyTorch at every batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from poster_edge.errors import PosterEdgeError
from poster_edge.export.fold import fold_batchnorm, remaining_batchnorms
from poster_edge.export.onnx import export_onnx
from poster_edge.export.validate import compare
from poster_edge.models.backbones import IRUnit
from poster_edge.models.network import Network, live_parameters
from poster_edge.models.poster import Poster
from poster_edge.models.poster_config import IRConfig


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("widths", [(8, 8), (8, 12)], ids=["same-width", "wider"])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
def test_folding_is_exact_at_the_border(
    randomise: Callable[[nn.Module], nn.Module], stride: int, widths: tuple[int, int], pre_norm: bool
) -> None:
    torch.manual_seed(0)
    unit = randomise(IRUnit(*widths, stride, IRConfig(pre_norm=pre_norm))).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    folded = fold_batchnorm(unit, x)
    assert not remaining_batchnorms(folded)
    assert remaining_batchnorms(unit), "the original is not changed"
    with torch.no_grad():
        assert torch.allclose(folded(x), unit(x), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def nano(exported_nano: tuple[Poster, Path, Path]) -> Network:
    return exported_nano[0]


@pytest.fixture(scope="module")
def graph(exported_nano: tuple[Poster, Path, Path]) -> Path:
    return exported_nano[1]


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 17])
def test_equals_pytorch_at_any_batch(nano: Network, graph: Path, batch: int) -> None:
    session = ort.InferenceSession(graph)
    x = np.random.default_rng(batch).normal(size=(batch, 3, 48, 48)).astype(np.float32)
    with torch.no_grad():
        expected = nano(torch.from_numpy(x)).numpy()
    found = session.run(["logits"], {"image": x})[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_graph_is_what_the_targets_want(nano: Network, graph: Path) -> None:
    proto = onnx.load(graph)
    kinds = [n.op_type for n in proto.graph.node]
    assert "BatchNormalization" not in kinds
    assert {"LayerNormalization", "Gelu", "Softmax"} <= set(kinds)
    assert [o.version for o in proto.opset_import if o.domain == ""] == [20]
    assert {o.domain for o in proto.opset_import} == {""}
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, [d.dim_value for d in shape[1:]]) == ("batch", [3, 48, 48])
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer)


def test_nothing_of_this_machine_is_in_the_file(graph: Path) -> None:
    data = graph.read_bytes()
    for trace in (b"site-packages", b"stack_trace", b"pkg.torch", b"/poster_edge/", str(Path.cwd()).encode()):
        assert trace not in data, trace


def test_dead_weights_are_not_written(nano: Network, graph: Path) -> None:
    written = sum(int(np.prod(t.dims)) for t in onnx.load(graph).graph.initializer)
    # Folding removes BatchNorm's own weights; a few shape constants come in.
    assert 0.95 * live_parameters(nano) < written < 1.01 * live_parameters(nano)


def test_a_model_that_cannot_be_traced_is_one_line(tmp_path: Path) -> None:
    class Moody(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(PosterEdgeError, match="torch cannot export") as caught:
        export_onnx(Moody(), 8, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_comparison_notices_every_kind_of_difference() -> None:
    batches = [np.ones((n, 3, 4, 4), np.float32) for n in (1, 3)]

    def right(x: np.ndarray) -> np.ndarray:
        return np.tile([1.0, 2.0], (len(x), 1))

    good = compare(right, right, batches, tolerance=1e-4)
    assert good
    assert (good.images, good.max_abs, good.agree) == (4, 0.0, 1.0)
    assert not compare(right, lambda x: right(x) + 0.01, batches, tolerance=1e-4)
    assert "shapes differ" in compare(right, lambda x: right(x)[:, :1], batches, tolerance=1e-4).problem
    assert "not finite" in compare(right, lambda x: right(x) * np.nan, batches, tolerance=1e-4).problem
    assert "no images" in compare(right, right, [], tolerance=1e-4).problem
