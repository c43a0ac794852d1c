"""CorrCLIP: patches attend to their region, as far as it is alike (Zhang et al., ICCV 2025).

CorrCLIPv2 of the same authors adds a second backbone that sees whole pictures, and a memory bank.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.clip.settings import SecondSettings
from pipeline.configuration.settings import ABSENT, setting
from pipeline.datasets.regions import SLIC, RegionSettings
from pipeline.dense.settings import DenseSettings, register_dense
from pipeline.errors import UserError

ROOT = "cams.bank.root"
_LEARNED = "the key holds what was learned"


def _of_learned(_: object) -> object:
    """Leaves folders to the key of the stage that learns from them."""
    return ABSENT


@dataclass
class BankSettings:
    """The memory bank: for each region, what CLIP says of the most similar ones of other pictures.

    Attributes:
        split: the split of the data set whose pictures are the bank; null if there is none.
        root: a folder of pictures that are the bank, in place of a split.
        regions: the folder of their regions, or ``slic``; null takes that of the images.
        neighbours: the number of regions whose vectors are averaged.
        share: the weight of the bank in the similarities.
        own: whether regions of an image itself count, if it is in the bank.
        short_side: the shorter side, in pixels, to which its pictures are resized for CLIP.
        window: the side of the windows in which CLIP sees them; 0 for whole pictures.
        stride: pixels between windows.
        second: the second backbone that decides which patches of a window attend to each other;
            without a model and a checkpoint, it is that of the images.
        refit: whether the bank is learned again after its pictures or their regions changed.
    """

    split: str | None = None
    root: str | None = setting(None, in_key=_of_learned)
    regions: str | None = setting(None, in_key=_of_learned)
    neighbours: int = setting(20, at_least=1)
    share: float = setting(0.5, at_least=0, at_most=1)
    own: bool = False
    short_side: int = setting(448, at_least=1, at_most=16_384)
    window: int = setting(336, at_least=0, at_most=16_384)
    stride: int = setting(112, at_least=1, at_most=16_384)
    second: SecondSettings = setting(SecondSettings())
    refit: bool = setting(False, changes="nothing", why=_LEARNED, stage="cams")

    @property
    def is_used(self) -> bool:
        """Whether there is a bank."""
        return bool(self.split or self.root)


@dataclass
class CorrClipSettings(RegionSettings, DenseSettings):
    """CorrCLIP: regions, and a second backbone, decide which patches attend to each other.

    Attributes:
        second: the second backbone.
        whole_picture: whether it sees the whole picture in its own size, and not CLIP's windows,
            and patches are those of a grid twice as fine as CLIP's, as CorrCLIPv2 has it.
        merge: the cosine distance, beyond that of the most similar regions, up to which regions are
            merged.
        sharpness: the factor of similarities in the attention, 1/τ.
        spatial_blocks: first and last block whose tokens are averaged for the spatial branch, as
            offsets from the last one.
        spatial: the weight of the spatial branch.
        semantic: the weight of the semantic branch.
        correct: whether each region of a label map takes its most frequent label, in
            ``masks=dense``.
        bank: the memory bank of CorrCLIPv2.
    """

    second: SecondSettings = setting(SecondSettings("dino_vitb8"))
    whole_picture: bool = False
    merge: float = setting(0.2, at_least=0, at_most=2)
    sharpness: float = setting(4.0, above=0)
    spatial_blocks: list[int] = setting([-6, -2], at_least=-99, at_most=-1, lengths=(2,))
    spatial: float = setting(1.0, at_least=0)
    semantic: float = setting(0.5, at_least=0)
    correct: bool = True
    bank: BankSettings = setting(
        BankSettings(), in_key=lambda bank: bank if bank.is_used else ABSENT
    )

    @property
    def shares_pass(self) -> bool:
        """Whether they can be computed in the pass that tags take, which shows no whole picture."""
        return self.regions == SLIC and not (self.whole_picture or self.bank.is_used)

    @property
    def learns_from(self) -> str | None:
        """Returns the split of the bank; none if there is no bank."""
        return self.bank.split or (ROOT if self.bank.root else None)

    @property
    def folders(self) -> dict[str, str]:
        """Returns the folder of the bank's pictures, by the name of its split."""
        return {ROOT: self.bank.root} if self.bank.root else {}

    @property
    def refit(self) -> bool:
        """Whether the bank is learned again after its pictures or their regions changed."""
        return self.bank.refit

    def seconds(self) -> dict[str, SecondSettings]:
        """Returns the second backbones that these settings use, by their keys below ``cams``."""
        bank, found = self.bank, super().seconds()
        is_other = bank.is_used and (bank.second.model or bank.second.checkpoint)
        return found | {"bank.second": bank.second} if is_other else found

    def without_effect(self, prefix: str) -> Iterator[str]:
        """Yields a note on settings of a bank where there is none."""
        if not self.bank.is_used and self.bank != BankSettings():
            yield f"{prefix}.bank has no effect without {prefix}.bank.root or {prefix}.bank.split"

    def validate(self, prefix: str) -> None:
        """Refuses two banks, and gaps between windows of one."""
        bank = self.bank
        if bank.split and bank.root:
            raise UserError(f"{ROOT} and {prefix}.bank.split are two banks: give one of them")
        if bank.window and bank.stride > bank.window:
            raise UserError(
                f"{prefix}.bank.stride={bank.stride} leaves gaps between windows of {bank.window}"
                f" pixels: give at most {bank.window}"
            )


register_dense(
    "corrclip",
    CorrClipSettings,
    label="CorrCLIP",
    algorithm=2,
    learns="pipeline.dense.corrclip.learning:learn_bank",
    presets=("cams/corrclip_*", "experiment/*corrclip*"),
    source="Zhang et al., CorrCLIP, ICCV 2025, arXiv 2411.10086",
)("pipeline.dense.corrclip.method:CorrClip")
