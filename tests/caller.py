"""A caller's program, in which ``make lint`` checks all types strictly. Nothing runs it.

An unused ``type: ignore`` is an error, so each of them is a mistake that the checkers must find.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

import pipeline
from pipeline import Labeller, Labelling, Segmenter, load_image

labeller = Labeller(["cat", "person"], clip="vit_b16", overrides=["masks=argmax"])
labelling = labeller("a.jpg")
assert_type(labelling, Labelling)
print(labelling.mask.shape, labelling.tags, labelling.names, labelling.scores.max())

assert_type(labeller(load_image("a.jpg")), Labelling)
assert_type(labeller(Path("a.jpg")), Labelling)
assert_type(labeller(Image.open("a.jpg")), Labelling)
assert_type(labeller(["a.jpg", "b.jpg"]), list[Labelling])
assert_type(labeller(sorted(Path("photographs").glob("*.jpg"))), list[Labelling])
mask = labeller.mask("a.jpg", ["cat", 1])
cams = labeller.cams(np.zeros((4, 4, 3), np.uint8), labeller.tags("a.jpg"))

segmenter = Segmenter.from_run("outputs/folder/segmenter/latest")
assert_type(Segmenter.from_run(Path("outputs"), device="cuda", which="best"), Segmenter)
print(segmenter("a.jpg").shape, segmenter(("a.jpg", Path("b.jpg")))[0].shape)
print(segmenter.class_names[0].upper(), segmenter.palette[0][2] + 1)
probabilities = segmenter.probabilities("a.jpg", scales=(0.5, 1), flip=True)
print(segmenter.refine("a.jpg", probabilities).argmax(0))

labeller(3)  # type: ignore
print(labeller(["a.jpg"]).mask)  # type: ignore
Segmenter.from_run(3)  # type: ignore
print(pipeline.Segmentor)  # type: ignore
