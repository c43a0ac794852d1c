"""Masks as label images, with their photographs: for VOC, Hugging Face and mmsegmentation."""

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from pipeline.errors import UserError
from pipeline.exchange.formats.data_set import DataSet
from pipeline.files.images import IGNORED
from pipeline.files.label_images import IGNORE

_IGNORED_NAME = "ignore"  # of label 255
_UNLISTED = re.compile(r"^[#\s]|\s$|[\r\n]")  # what a line of a list cannot hold
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


class Voc(DataSet):
    """The folders of PASCAL VOC, with CVAT's ``labelmap.txt``.

    DEST/JPEGImages/<id>.jpg, DEST/SegmentationClass/<id>.png, and
    DEST/ImageSets/Segmentation/<split>.txt. All splits share the first two.
    """

    photographs, annotations = "JPEGImages", "SegmentationClass"
    is_shared = True

    def name(self, image_id: str) -> str:
        """Implements the base class."""
        return _UNLISTED.sub(lambda found: quote(found[0]), image_id)

    def index(self, written: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Implements the base class: the list of the split, and labelmap.txt.

        Raises a UserError if another split has one of the images, or a class has no possible name.
        """
        # Readers take a name with an underscore for the list of a class, such as cat_train.txt.
        name = f"ImageSets/Segmentation/{self.split.replace('_', '-')}.txt"
        names = [self.name(image_id) for image_id in self.artefact.entries]
        for other in {*self.target.glob("ImageSets/Segmentation/*.txt")} - {self.target / name}:
            listed = other.read_text(encoding="utf-8", errors="replace").splitlines()
            if shared := sorted({*listed} & {*names}):
                raise UserError(
                    f"{other} has an image {shared[0]} as well, and splits share their folders:"
                    " choose another output"
                )
        classes = [*self.artefact.names, _IGNORED_NAME]
        if wrong := [n for n in classes if ":" in n or _UNLISTED.search(n)]:
            raise UserError(
                f"labelmap.txt cannot name class {wrong[0]}: rename it without a colon, a # at the"
                " start or white space at an end, or choose another format"
            )
        colours = zip(classes, [*self.artefact.palette, IGNORED])
        label_map = "".join(f"{n}:{r},{g},{b}::\n" for n, (r, g, b) in colours)
        self.refuse_other_classes("labelmap.txt", label_map)
        listed = "".join(f"{self.name(image_id)}\n" for image_id in written)
        return {name: listed, "labelmap.txt": f"# label:color_rgb:parts:actions\n{label_map}"}


class HuggingFace(DataSet):
    """An image folder of the library ``datasets``, with the names of labels in id2label.json.

    DEST/<split>/images/<id>.jpg, DEST/<split>/masks/<id>.png and DEST/<split>/metadata.jsonl.
    """

    photographs, annotations = "{}/images", "{}/masks"

    def index(self, written: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Implements the base class: the files and the tags of each image, and the names."""
        lines = []
        for image_id, tags in written.items():
            image, mask = f"images/{image_id}{self.suffixes[image_id]}", f"masks/{image_id}.png"
            line = {"file_name": image, "mask_file_name": mask, "id": image_id, "tags": tags}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        names = dict(enumerate(self.artefact.names)) | {IGNORE: _IGNORED_NAME}
        return {
            f"{self.split}/metadata.jsonl": "".join(lines),
            f"{self.split}/id2label.json": json.dumps(names, ensure_ascii=False, indent=1),
        }


class Mmsegmentation(DataSet):
    """A data set of mmsegmentation's ``BaseSegDataset``, which needs one suffix.

    DEST/img_dir/<split>/<id>.jpg, DEST/ann_dir/<split>/<id>.png, and DEST/<split>.py, its config.
    """

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
