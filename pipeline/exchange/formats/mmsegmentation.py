"""Masks and their images as a data set of mmsegmentation.

DEST/img_dir/<split>/<id>.jpg, DEST/ann_dir/<split>/<id>.png, and DEST/<split>.py, a config for
mmsegmentation's BaseSegDataset.
"""

import re
from collections.abc import Mapping, Sequence

from pipeline.exchange.formats.data_set import DataSet

_CONFIG = """\
# Written by tools/export.py. With this file among its _base_, a config uses the data set as
# train_dataloader = dict(dataset=_base_.{name}).
{name} = dict(
    type='BaseSegDataset',
    data_root='{{{{ fileDirname }}}}',  # this file's folder
    data_prefix=dict(img_path={images}, seg_map_path={masks}),
    img_suffix='{suffix}',
    seg_map_suffix='.png',
    reduce_zero_label=False,  # label 0 is the background, a class; 255 is ignored
    metainfo=dict(
        classes=[
{classes}
        ],
        palette=[
{palette}
        ],
    ),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
)
"""


class Mmsegmentation(DataSet):
    """A data set of mmsegmentation's ``BaseSegDataset``, which needs one suffix."""

    photographs, annotations = "img_dir/{}", "ann_dir/{}"
    one_suffix = True

    def index(self, written: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Implements the base class: the config."""
        artefact, split = self.artefact, self.split
        text = _CONFIG.format(
            name="dataset_" + re.sub(r"\W", "_", split, flags=re.ASCII),
            images=_quote(f"img_dir/{split}"),
            masks=_quote(f"ann_dir/{split}"),
            suffix=next(iter(self.suffixes.values()), ".png"),
            classes="\n".join(f"            {_quote(name)}," for name in artefact.names),
            palette="\n".join(f"            {list(colour)}," for colour in artefact.palette),
        )
        return {f"{split}.py": text}


def _quote(text: str) -> str:
    """Returns a Python literal without braces, since mmengine replaces text in double braces."""
    return ascii(text).replace("{", "\\x7b")
