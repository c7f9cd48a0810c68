"""POSTER: two-stream pyramid cross-fusion transformer for facial expression recognition.

Source: Zheng, Mendieta, Chen, "POSTER: A Pyramid Cross-Fusion Transformer Network for Facial
Expression Recognition" (2022), Fig. 2; numerically equal to the authors' published code.
"""

from __future__ import annotations

from torch import Tensor, nn

from poster_edge.models.backbones import IRNet, MobileFaceNet
from poster_edge.models.fusion import PyramidFusion
from poster_edge.models.layers import ClassificationHead, SEBlock, every_kth
from poster_edge.models.network import Network
from poster_edge.models.poster_config import PosterConfig


def as_image_tokens(features: Tensor, config: PosterConfig) -> Tensor:
    """The image backbone's features (B, W, h, w) as tokens (B, g², W·h·w / g²), before they are projected."""
    if config.raw_tokens:
        # B x W x h x w -> B x g² x (W·h·w / g²), in flat NCHW order: a token is a run of
        # flattened channel maps, not a patch (as in the published code).
        return features.contiguous().reshape(features.shape[0], config.grid**2, -1)
    # B x W x g x g -> B x g² x W
    return features.flatten(2).transpose(1, 2)


class Poster(Network):
    """The network of one :class:`PosterConfig` with both streams: (B, 3, S, S) normalised -> (B, C) logits."""

    config: PosterConfig
    #: Entries that exist in published files but never run (12,944,144 parameters).
    dead_prefixes = ("ir_back.output_layer.", "face_landback.output_layer.", "pyramid_fuse.cls_token")

    def __init__(self, config: PosterConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dims[0]
        self.face_landback = MobileFaceNet(config.landmark, dim, config.grid, config.subsample)
        self.ir_back = IRNet(config.image)
        self.ir_layer = nn.Linear(config.image_token_width, dim)
        self.pyramid_fuse = PyramidFusion(config)
        self.se_block = SEBlock(dim)
        self.head = ClassificationHead(dim, config.num_classes)

    def subsample(self, x: Tensor) -> Tensor:
        """See :func:`every_kth`."""
        return every_kth(x, self.config.subsample)

    def image_tokens(self, x: Tensor) -> Tensor:
        """Image tokens (B, g², D) of a subsampled input."""
        return self.ir_layer(as_image_tokens(self.ir_back(x), self.config))

    def landmark_tokens(self, x: Tensor) -> Tensor:
        """Landmark tokens (B, g², D) of a subsampled input."""
        # B x D x g x g -> B x g² x D
        return self.face_landback(x).flatten(2).transpose(1, 2)

    def features(self, x: Tensor) -> Tensor:
        """The gated feature (B, D) that the head classifies."""
        small = self.subsample(x)
        fused = self.pyramid_fuse(self.image_tokens(small), self.landmark_tokens(small))
        return self.se_block(fused)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    @property
    def landmark_stream(self) -> MobileFaceNet:
        """The part that finds the 68 points."""
        return self.face_landback

    def freeze_landmarks(self, *, batch_norm: bool) -> None:
        """Stop training the landmark stream.

        Args:
            batch_norm: also hold its BatchNorm statistics; the published training did not.
        """
        self.face_landback.requires_grad_(False)
        if batch_norm:
            self.face_landback.eval()
