"""Which places of a face made POSTER choose a class: relevance maps of both streams and all pyramid levels.

Method: Chefer, Gur, Wolf, "Generic Attention-Model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers" (ICCV 2021).  A matrix R says how much each token's content comes from each
token at the entrance; it starts as the identity and grows along the forward pass.  What every map of tokens
adds follows from the map G (attention, or a convolution across tokens) and the gradient of the explained logit
(eq. 5, mean over H heads, positive part)::

    Ḡ = E_h[(∇G ⊙ G)⁺]

**Attention.**  R ← R + Ḡ R (eq. 6 and 7).  Every entry Ḡ[a, b] has two parents: token b, whose value it
carries, and token a, which asked.  In self-attention token a is in the residual connection, so eq. 6
covers both.  POSTER swaps the queries: position a of the image stream is asked for by landmark token a,
which is not in the residual, and the other way round.  The asking stream therefore gets its share as a term::

    R_img ← R_img + Ḡ_img R_img + diag(Ḡ_img 1) R_lm        R_lm ← R_lm + Ḡ_lm R_lm + diag(Ḡ_lm 1) R_img

with the block's input on the right-hand sides, as the network itself has it.  It takes the place of the paper's
eq. 10; the normalisation of its eq. 8 and 9 subtracts an identity that the mixing convolution does not leave.

**Convolutions across tokens** (mixing, up, down) act on every head's channels alike, so W is an attention map
that is the same for all faces, and eq. 5 applies to it.  They have no residual connection; the diagonal, a
token's way to itself, stands in for it::

    mixing: R ← |diag W| R + offdiag(W̄) R        up: R_wide ← R_wide + Ū R_narrow

**Read-out.**  The head sees token 0 of the widest level only, the image stream's mean token.  Its row of R, over
the entrance tokens of every level, is brought back through the downsampling convolutions and through the means
(a uniform attention) to places.  Norms, MLPs, the gate and the head move nothing between tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from poster_edge.errors import UnavailableError
from poster_edge.kernels import dispatch
from poster_edge.models.base_config import ModelConfig
from poster_edge.models.cf_dan_config import CfDanConfig
from poster_edge.models.fer_vt_config import FerVtConfig
from poster_edge.models.fusion import CrossAttention, CrossFusionBlock, FusionStage, JointBlock, PyramidFusion
from poster_edge.models.network import Network
from poster_edge.models.poster_config import PosterConfig

#: Why the method does not apply to the other networks.
_REFUSED: dict[type[ModelConfig], str] = {
    FerVtConfig: "its transformer sees three tokens, each a whole map of the face, so its attention has no places",
    CfDanConfig: "half of its attention is between channels, which have no place in the face",
}


@dataclass(frozen=True)
class Relevance:
    """Relevance of places for one class of each face; not negative, comparable between streams and levels.

    Attributes:
        maps: "image" and "landmark", as far as the network has them -> (B, L, h, w), L levels, widest first.
        widths: width of each level.
        logits: (B, C).
        explained: (B,) index of the class that each face's maps explain.
    """

    maps: dict[str, NDArray[np.float32]]
    widths: tuple[int, ...]
    logits: NDArray[np.float32]
    explained: NDArray[np.int64]


def explain(network: Network, x: Tensor, *, classes: Tensor | None = None) -> Relevance:
    """Relevance maps of a POSTER, in evaluation mode.

    Args:
        network: POSTER or one of its ablation variants.
        x: (B, 3, S, S) normalised.
        classes: (B,) index of the class to explain for each face; None: the most probable one.

    Raises:
        UnavailableError: another network; says why the method does not apply.
    """
    config = check_explainable(network)
    pyramid: Any = network.pyramid_fuse
    training = network.training
    network.eval()
    try:
        with _Tape(network).recording() as tape, torch.enable_grad(), dispatch.use("eager"):
            logits: Tensor = network(x.detach().clone().requires_grad_())
        explained = logits.argmax(dim=1) if classes is None else classes
        tape.differentiate(logits.gather(1, explained[:, None]).sum())
    finally:
        network.train(training)
    with torch.no_grad():
        places = _places(pyramid, tape, config)
    return Relevance(
        maps={name: m.float().cpu().numpy() for name, m in places.items()},
        widths=config.dims,
        logits=logits.detach().float().cpu().numpy(),
        explained=explained.cpu().numpy(),
    )


def check_explainable(network: Network) -> PosterConfig:
    """The configuration of a network to which the method applies.

    Raises:
        UnavailableError: it does not; says why.
    """
    if not isinstance(network.config, PosterConfig):
        raise UnavailableError(
            f"{network.config.variant} cannot be explained by its attention: {_REFUSED[type(network.config)]}"
        )
    return network.config


@dataclass
class _Tape:
    """What passed through the modules that move something between tokens, and its gradients.

    Attributes:
        network: which one.
        passed: module -> its inputs and its output.
        gradients: module -> gradient of the explained logits with respect to its output.
    """

    network: Network
    passed: dict[nn.Module, tuple[tuple[Any, ...], Any]] = field(default_factory=dict)
    gradients: dict[nn.Module, Tensor] = field(default_factory=dict)
    entrance: list[Tensor] = field(default_factory=list)
    entrance_gradients: list[Tensor] = field(default_factory=list)

    @contextmanager
    def recording(self) -> Iterator[_Tape]:
        """Within this context a forward pass is recorded."""
        pyramid: Any = self.network.pyramid_fuse
        kinds = (CrossAttention, nn.Conv1d, nn.ConvTranspose1d)
        watched = [m for m in pyramid.modules() if isinstance(m, kinds)]
        watched += [m for m in (getattr(self.network, "ir_back", None),) if m is not None]
        handles = [m.register_forward_hook(self._keep) for m in watched]
        handles.append(pyramid.blocks[0].register_forward_pre_hook(self._enter))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.passed[module] = (inputs, output)

    def _enter(self, module: nn.Module, inputs: tuple[list[Tensor]]) -> None:
        self.entrance = list(inputs[0])

    def differentiate(self, score: Tensor) -> None:
        """Find all gradients of a scalar; what it does not depend on has gradient 0."""
        outputs = [output for _, output in self.passed.values()] + self.entrance
        found = torch.autograd.grad(score, outputs, allow_unused=True)
        gradients = [torch.zeros_like(o) if g is None else g for o, g in zip(outputs, found, strict=True)]
        self.gradients = dict(zip(self.passed, gradients, strict=False))
        self.entrance_gradients = gradients[len(self.passed) :]


def attention_relevance(weights: Tensor, gradient: Tensor) -> Tensor:
    """Eq. 5: (B, H, N, M) attention and its gradient -> (B, N, M)."""
    return (weights * gradient).clamp_min(0).mean(dim=1)


def ask(own: Tensor, asking: Tensor | None, relevance: Tensor) -> Tensor:
    """A stream's R after attention.

    Args:
        own: (B, n, K) of the stream whose values are read.
        asking: (B, n, K) of the stream whose tokens are the queries; None: the stream itself.
        relevance: (B, n, n), see :func:`attention_relevance`.
    """
    grown = own + relevance @ own
    return grown if asking is None else grown + relevance.sum(dim=2, keepdim=True) * asking


def convolution_relevance(per_head: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Own way and relevance of a convolution across tokens.

    Args:
        per_head: (B, H, T, T) contribution of every input token (last) to the logit by way of every output token.
        weight: (T, T) sum of the kernel's absolute values, output token first.

    Returns:
        |diag W| (T, 1) and W̄ (B, T, T).
    """
    return weight.diagonal()[:, None], per_head.clamp_min(0).mean(dim=1)


def _attention(tape: _Tape, module: CrossAttention) -> Tensor:
    """Relevance of one attention (B, n, n); its map and the map's gradient follow from what passed through it."""
    (source, queries), _ = tape.passed[module]
    q, k, v = module.heads_of(source, queries)
    weights = ((q * module.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
    # The output is proj(A v), so the gradient of A is (g · proj) vᵀ, head by head.
    before = tape.gradients[module] @ module.proj.weight
    # B x n x D -> B x H x n x D/H
    before = before.reshape(before.shape[0], -1, module.heads, v.shape[-1]).transpose(1, 2)
    return attention_relevance(weights, before @ v.transpose(-2, -1))


def _convolution(tape: _Tape, module: Any, heads: int) -> tuple[Tensor, Tensor]:
    """Own way (T, 1) and relevance (B, T, T) of a convolution whose channels are the tokens."""
    (z,), _ = tape.passed[module]
    g, kernel = tape.gradients[module], module.weight.shape[2]
    # Output token first: (T, T, k).
    weight = module.weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose1d) else module.weight
    wide, narrow = (g, z) if isinstance(module, nn.ConvTranspose1d) else (z, g)
    # B x T x D -> B x T x H x D/H/k x k, and B x T x H x D/H/k
    wide = wide.reshape(*wide.shape[:2], heads, -1, kernel)
    narrow = narrow.reshape(*narrow.shape[:2], heads, -1)
    letters = "bahpk,bchp" if isinstance(module, nn.ConvTranspose1d) else "bchpk,bahp"
    per_head = torch.einsum(f"{letters},ack->bhac", wide, narrow, weight)
    return convolution_relevance(per_head, weight.abs().sum(dim=2))


def _mixed(relevance: Tensor, own: Tensor, between: Tensor) -> Tensor:
    """R after a convolution without a residual connection, of which the diagonal is a token's own way."""
    return own * relevance + _off_diagonal(between) @ relevance


def _off_diagonal(square: Tensor) -> Tensor:
    return square - torch.diag_embed(square.diagonal(dim1=-2, dim2=-1))


def _after_block(tape: _Tape, block: nn.Module, r: Tensor, heads: int) -> Tensor:
    if isinstance(block, CrossFusionBlock):
        n = block.per_stream
        image, landmark = r[:, :n], r[:, n:]
        asking = (landmark, image) if block.swap else (None, None)
        r = torch.cat(
            (
                ask(image, asking[0], _attention(tape, block.attn_img)),
                ask(landmark, asking[1], _attention(tape, block.attn_lm)),
            ),
            dim=1,
        )
    else:
        assert isinstance(block, JointBlock)
        r = ask(r, None, _attention(tape, block.attn))
    return _mixed(r, *_convolution(tape, block.conv, heads)) if block.mix else r


def _after_stage(tape: _Tape, stage: FusionStage, levels: list[Tensor], heads: int) -> list[Tensor]:
    out = [
        _after_block(tape, getattr(stage, f"block_{name}"), r, heads)
        for name, r in zip(stage.names, levels, strict=True)
    ]
    for i in range(len(out) - 1, 0, -1):
        _, between = _convolution(tape, getattr(stage, f"upsample_{stage.names[i]}"), heads)
        out[i - 1] = out[i - 1] + between @ out[i]
    return out


def _places(pyramid: PyramidFusion, tape: _Tape, config: PosterConfig) -> dict[str, Tensor]:
    """Relevance (B, L, h, w) of each stream's places for the token that is read out."""
    first = tape.entrance[0]
    batch, tokens, levels = first.shape[0], config.tokens, len(config.dims)
    # Columns: the entrance tokens of every level, L·T.
    identity = torch.eye(levels * tokens, dtype=first.dtype, device=first.device).expand(batch, -1, -1)
    r = list(torch.split(identity, tokens, dim=1))
    stages: Any = pyramid.blocks
    for stage in stages:
        r = _after_stage(tape, stage, r, config.heads)
    # B x L·T -> B x L x T
    read_out = r[0][:, 0].reshape(batch, levels, tokens)
    for i, name in enumerate(pyramid.names, start=1):
        own, between = _convolution(tape, getattr(pyramid, f"downsample_{name}"), config.heads)
        row = read_out[:, i]
        read_out[:, i] = row * own[:, 0] + (row[:, None] @ _off_diagonal(between))[:, 0]
    streams = ("image", "landmark") if config.streams == "both" else (config.streams,)
    rows = torch.split(read_out, config.per_stream, dim=2)
    content = torch.split(_without_positions(pyramid, first), config.per_stream, dim=1)
    gradient = torch.split(tape.entrance_gradients[0], config.per_stream, dim=1)
    found = {}
    for name, row, tokens_of, g in zip(streams, rows, content, gradient, strict=True):
        # The mean token's own relevance goes to what it is the mean of.
        part = g[:, :1] * tokens_of[:, 1:] / (config.per_stream - 1)
        # B x g² x D -> B x g² x H x D/H
        per_head = part.reshape(*part.shape[:2], config.heads, -1).sum(dim=3)
        share = per_head.clamp_min(0).mean(dim=2)
        found[name] = row[:, :, 1:] + row[:, :, :1] * share[:, None]
    return {name: _on_map(tape, config, name, values) for name, values in found.items()}


def _without_positions(pyramid: PyramidFusion, first: Tensor) -> Tensor:
    """Tokens (B, T, D) of the widest level before the read-out stream was told its positions."""
    n = pyramid.pos_embed.shape[1]
    return torch.cat((first[:, :n] - pyramid.pos_embed, first[:, n:]), dim=1)


def _on_map(tape: _Tape, config: PosterConfig, stream: str, values: Tensor) -> Tensor:
    """Relevance of tokens (B, L, g²) on the map they were cut from, (B, L, h, w).

    A raw image token is a run of flattened channel maps, not a place: its relevance is shared among the
    values it holds as (∇x ⊙ x)⁺, and each value has a place.
    """
    if stream == "landmark" or not config.raw_tokens:
        # B x L x g² -> B x L x g x g
        return values.reshape(*values.shape[:2], config.grid, config.grid)
    module: Any = tape.network.ir_back
    features = tape.passed[module][1]
    # B x W x h x w -> B x g² x W·h·w/g²
    held = (features * tape.gradients[module]).clamp_min(0).contiguous().reshape(len(features), config.grid**2, -1)
    total = held.sum(dim=2, keepdim=True)
    share = torch.where(total > 0, held / total.clamp_min(torch.finfo(held.dtype).tiny), 1 / held.shape[2])
    # B x L x g² x W·h·w/g² -> B x L x W x h x w
    spread = (values[..., None] * share[:, None]).reshape(*values.shape[:2], *features.shape[1:])
    return spread.sum(dim=2)
