"""What is known of each model: parameters, operations, accuracy.  No torch here.

Counts are those of ``tests/models/test_registry.py``, which builds each model and compares.
``flops`` counts 2 per multiply-add of every convolution and matrix product, attention included;
element-wise work is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from poster_edge.models.config import CONFIGS


@dataclass(frozen=True)
class ModelFacts:
    """Measured and published facts of one configuration with its default classes.

    Attributes:
        name: key of :data:`poster_edge.models.config.CONFIGS`.
        parameters: all that a checkpoint holds, buffers not counted.
        live_parameters: those that take part in inference, hence in an exported file.
        flops: of one image.
        trained_on: data set of the accuracy.
        accuracy: "92.05 % (paper)" or "" where none is known.
        weights: where weights come from.
    """

    name: str
    parameters: int
    live_parameters: int
    flops: int
    trained_on: str
    accuracy: str
    weights: str

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels."""
        return CONFIGS[self.name].input_size

    @property
    def description(self) -> str:
        """The shape of the network in a few words."""
        return CONFIGS[self.name].description


_PUBLISHED = "published .pth"
_TRAIN = "yours: train it"

REGISTRY: dict[str, ModelFacts] = {
    f.name: f
    for f in (
        ModelFacts("poster-nano", 1_236_319, 1_213_775, 149_361_920, "fer2013", "66.90 % (ours)", "packaged"),
        ModelFacts("poster-micro", 3_629_279, 3_606_735, 528_028_928, "fer2013", "67.51 % (ours)", _TRAIN),
        ModelFacts("poster-mini", 3_647_839, 3_625_295, 612_963_584, "fer2013", "70.58 % (ours)", "packaged"),
        ModelFacts("poster-48", 14_087_039, 14_042_223, 2_728_651_776, "fer2013", "", _TRAIN),
        ModelFacts("poster-t", 52_229_135, 39_284_991, 13_582_183_424, "rafdb", "", _PUBLISHED),
        ModelFacts("poster-s", 62_039_767, 49_095_623, 14_647_962_624, "rafdb", "", _PUBLISHED),
        ModelFacts("poster", 71_850_399, 58_906_255, 15_713_741_824, "rafdb", "92.05 % (paper)", _PUBLISHED),
        ModelFacts("poster-t-affectnet", 52_107_935, 39_163_791, 13_510_503_424, "affectnet7", "", _PUBLISHED),
        ModelFacts("poster-s-affectnet", 61_857_967, 48_913_823, 14_540_442_624, "affectnet7", "", _PUBLISHED),
        ModelFacts(
            "poster-affectnet", 71_607_999, 58_663_855, 15_570_381_824, "affectnet7", "67.31 % (paper)", _PUBLISHED
        ),
        ModelFacts("fer-vt-nano", 650_982, 650_982, 84_520_320, "fer2013", "62.39 % (ours)", _TRAIN),
        ModelFacts("fer-vt", 27_607_686, 27_607_686, 7_302_271_360, "rafdb", "88.26 % (paper)", _TRAIN),
        ModelFacts("cf-dan-nano", 582_183, 582_183, 71_796_480, "fer2013", "62.80 % (ours)", _TRAIN),
        ModelFacts("cf-dan-48-trunk", 11_172_423, 11_172_423, 2_499_386_368, "fer2013", "69.71 % (ours)", _TRAIN),
        ModelFacts("cf-dan", 15_404_615, 15_404_615, 3_903_876_096, "rafdb", "92.78 % (paper)", _TRAIN),
        ModelFacts("cf-dan-out-proj", 16_453_191, 16_453_191, 4_006_636_544, "rafdb", "", _TRAIN),
    )
}

#: Operations of one image by the POSTER paper's convention, see :mod:`poster_edge.models.counting`.
PAPER_FLOPS: dict[str, int] = {
    "poster-nano": 150_811_022,
    "poster-micro": 530_408_846,
    "poster-mini": 616_080_782,
    "poster-48": 2_735_579_662,
    "poster-t": 13_622_415_886,
    "poster-s": 14_684_500_494,
    "poster": 15_746_585_102,
    "poster-t-affectnet": 13_550_019_086,
    "poster-s-affectnet": 14_575_905_294,
    "poster-affectnet": 15_601_791_502,
    "fer-vt-nano": 85_552_142,
    "fer-vt": 7_326_975_502,
    "cf-dan-nano": 71_686_926,
    "cf-dan-48-trunk": 2_507_422_734,
    "cf-dan": 3_916_424_206,
    "cf-dan-out-proj": 4_019_184_654,
}
