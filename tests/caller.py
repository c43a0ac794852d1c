"""A caller's program, in which ``make lint`` checks all types strictly. Nothing runs it.

An unused ``type: ignore`` is an error, so each of them is a mistake that the checkers must find.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import pipeline
from pipeline import Labeller, Labelling, Segmenter, load_image, train

labeller = Labeller(["cat", "person"], clip="vit_b16", batch_size=8, overrides=["masks=argmax"])
labelling = labeller("a.jpg")
assert_type(labelling, Labelling)
assert_type(labelling.show(), None)
print(labelling.mask.shape, labelling.tags, labelling.names, labelling.scores.max())

assert_type(labeller(load_image("a.jpg")), Labelling)
assert_type(labeller(Path("a.jpg")), Labelling)
assert_type(labeller(Image.open("a.jpg")), Labelling)
assert_type(labeller(["a.jpg", "b.jpg"]), list[Labelling])
assert_type(labeller(sorted(Path("photographs").glob("*.jpg"))), list[Labelling])
mask = labeller.mask("a.jpg", ["cat", 1])
cams = labeller.cams(np.zeros((4, 4, 3), np.uint8), labeller.tags("a.jpg"))
assert_type(labeller.cams("a.jpg", ["cat"], as_tensors=True), torch.Tensor)

images: list[str | Path | Image.Image | npt.NDArray[np.uint8]]
images = ["a.jpg", Path("b.jpg"), Image.open("c.jpg"), load_image("d.jpg")]
assert_type(labeller(image for image in images), list[Labelling])
assert_type(labeller.tags(images), list[tuple[int, ...]])
print(labeller.scores(images)[0].max(), labeller.mask(images, [["cat"], [1], (0,), []])[0].shape)
assert_type(labeller.cams(images, labeller.tags(images), as_tensors=True), list[torch.Tensor])
assert_type(labeller.features(images, blocks=range(1, 13)), list[torch.Tensor])
assert_type(labeller.features("a.jpg", [-1]), list[torch.Tensor])

masks: list[str | Path | Labelling | npt.NDArray[np.uint8]]
masks = ["a.png", Path("b.png"), labelling, np.zeros((4, 4), np.uint8)]
assert_type(train(images, masks, labeller.classes, output="out", iterations=100), Segmenter)

segmenter = Segmenter.from_run("outputs/folder/segmenter/latest")
assert_type(Segmenter.from_run(Path("outputs"), device="cuda", which="best"), Segmenter)
print(segmenter("a.jpg").shape, segmenter(("a.jpg", Path("b.jpg")))[0].shape)
print(segmenter.class_names[0].upper(), segmenter.palette[0][2] + 1)
probabilities = segmenter.probabilities("a.jpg", scales=(0.5, 1), flip=True)
print(segmenter.refine("a.jpg", probabilities).argmax(0))

labeller(3)  # type: ignore
labeller.features(images)[0].tolist(3)  # type: ignore
train(images, [3], ["cat"])  # type: ignore
print(labeller(["a.jpg"]).mask)  # type: ignore
Segmenter.from_run(3)  # type: ignore
print(pipeline.Segmentor)  # type: ignore
