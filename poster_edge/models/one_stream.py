"""POSTER with one of its two streams, for the paper's ablation: the image alone, or the landmarks alone.

Source: Zheng et al., "POSTER" (2022), section 4.4.  Backbone, pyramid, gate and head are the published ones;
the blocks are :class:`poster_edge.models.fusion.JointBlock` on the stream's own tokens.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from poster_edge.models.backbones import IRNet, MobileFaceNet
from poster_edge.models.fusion import PyramidFusion
from poster_edge.models.layers import ClassificationHead, SEBlock, every_kth
from poster_edge.models.network import Network
from poster_edge.models.poster import Poster, as_image_tokens
from poster_edge.models.poster_config import PosterConfig


class OneStream(Network):
    """What both have: pyramid, gate and head; (B, 3, S, S) normalised image -> (B, C) logits."""

    config: PosterConfig
    dead_prefixes = Poster.dead_prefixes

    def __init__(self, config: PosterConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dims[0]
        self.pyramid_fuse = PyramidFusion(config)
        self.se_block = SEBlock(dim)
        self.head = ClassificationHead(dim, config.num_classes)

    @abstractmethod
    def fuse(self, x: Tensor) -> Tensor:
        """The pyramid's feature (B, D) of a subsampled input."""

    def features(self, x: Tensor) -> Tensor:
        """The gated feature (B, D) that the head classifies."""
        return self.se_block(self.fuse(every_kth(x, self.config.subsample)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ImagePoster(OneStream):
    """The image stream alone."""

    def __init__(self, config: PosterConfig) -> None:
        super().__init__(config)
        self.ir_back = IRNet(config.image)
        self.ir_layer = nn.Linear(config.image_token_width, config.dims[0])

    def fuse(self, x: Tensor) -> Tensor:
        return self.pyramid_fuse(self.ir_layer(as_image_tokens(self.ir_back(x), self.config)), None)


class LandmarkPoster(OneStream):
    """The landmark stream alone, its backbone trained to find points and then held still."""

    def __init__(self, config: PosterConfig) -> None:
        super().__init__(config)
        self.face_landback = MobileFaceNet(config.landmark, config.dims[0], config.grid, config.subsample)

    def fuse(self, x: Tensor) -> Tensor:
        # B x D x g x g -> B x g² x D
        return self.pyramid_fuse(None, self.face_landback(x).flatten(2).transpose(1, 2))

    @property
    def landmark_stream(self) -> MobileFaceNet:
        """The part that finds the 68 points."""
        return self.face_landback

    def freeze_landmarks(self, *, batch_norm: bool) -> None:
        """See :meth:`poster_edge.models.poster.Poster.freeze_landmarks`."""
        self.face_landback.requires_grad_(False)
        if batch_norm:
            self.face_landback.eval()


def build_poster(config: PosterConfig) -> Network:
    """The network of a configuration, with the streams that it names."""
    if config.streams == "both":
        return Poster(config)
    return ImagePoster(config) if config.streams == "image" else LandmarkPoster(config)
