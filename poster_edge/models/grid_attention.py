"""Grid-wise attention: the cells of a face image weighed against each other before the trunk sees it.

Source: Huang et al., "Facial expression recognition with grid-wise attention and visual transformer"
(2021), section 3.2.  The paper names no axis for its softmax.  Over keys or queries the pooled weight
is the same constant for every image and nothing learns; over the cells it works, so it is the cells.
"""

from __future__ import annotations

from torch import Tensor, nn

from poster_edge.models.fer_vt_config import FerVtConfig

LEAK = 0.1


def _transform() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True))


class GridAttention(nn.Module):
    """(B, 3, S, S) image -> (B, 3, S, S) in 0..1, in which important cells stand out."""

    def __init__(self, config: FerVtConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.cell = (config.input_size // self.grid[0], config.input_size // self.grid[1])
        width = config.score_width
        self.local_features = nn.Sequential(
            nn.Conv2d(3, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(width, 3, 1, bias=False),
            nn.BatchNorm2d(3),
            nn.LeakyReLU(LEAK),
        )
        self.transform_image = _transform()
        self.transform_weighed = _transform()
        self.refine = nn.Sequential(
            *(layer for _ in range(2) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.PReLU(3))),
            nn.Conv2d(3, 3, 3, padding=1, bias=False),
            nn.Sigmoid(),
        )

    def cell_weights(self, x: Tensor) -> Tensor:
        """Weight of each cell and channel, (B, 3, rows·columns); they sum to 1 over the cells."""
        rows, columns = self.grid
        height, width = self.cell
        features = self.local_features(x)
        # B x 3 x S x S -> B x 3·rows x height x columns x width
        cells = features.reshape(-1, 3 * rows, height, columns, width)
        # -> B x 3·rows·columns x height x width
        cells = cells.transpose(2, 3).reshape(-1, 3 * rows * columns, height, width)
        scores = (cells / width) @ cells.transpose(2, 3)
        # B x 3·rows·columns x height x height -> B x 3 x rows·columns x height²
        shares = scores.reshape(-1, 3, rows * columns, height * height).softmax(dim=2)
        return shares.mean(dim=3)

    def weigh(self, x: Tensor) -> Tensor:
        """The image (B, 3, S, S) with each cell multiplied by its weight."""
        rows, columns = self.grid
        height, width = self.cell
        # B x 3 x rows·columns -> B x 3·rows x 1 x columns x 1
        weights = self.cell_weights(x).reshape(-1, 3 * rows, 1, columns, 1)
        # B x 3 x S x S -> B x 3·rows x height x columns x width, and back
        return (x.reshape(-1, 3 * rows, height, columns, width) * weights).reshape(-1, *x.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return self.refine(self.transform_image(x) + self.transform_weighed(self.weigh(x)))
