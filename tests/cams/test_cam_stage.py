"""Which CAMs are refused or stored, and what CLIP-ES is built from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.cams.method import CamMethod
from pipeline.cams.pass_method import competitors_of
from pipeline.cams.stage import ComputedCams
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.configuration.settings import check
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Item
from pipeline.errors import UserError
from tests.methods import ALONE, resources_of, stage_of

TAG_NAMES, CAM_NAMES = (("cat",), ("cup",)), (("pet",), ("mug",))
VOCABULARY = Vocabulary(("cat", "cup"), TAG_NAMES, CAM_NAMES, backgrounds=("sky",))


@pytest.fixture(scope="module")
def stage() -> ComputedCams:
    return stage_of(ComputedCams, ClipEsOptions(), VOCABULARY)


@pytest.mark.parametrize(
    ("shape", "low", "high", "message"),
    [
        ((2, 3, 4), 0, 1, None),
        ((2, 1, 1), -0.0005, 1.0005, None),  # by which rounding may leave [0, 1]
        ((2, 3, 4), -0.002, 1, r"CAMs from -0.002 to 1, which are not in \[0, 1\]"),
        ((2, 3, 4), 0, 1.002, r"CAMs from 0 to 1, which are not"),
        ((2, 3, 4), np.nan, 1, "CAMs that are not finite"),
        ((2, 0, 4), 0, 1, "CAMs of shape 2×0×4 for 2 tags"),
        ((2, 3, 0), 0, 1, "CAMs of shape 2×3×0 for 2 tags"),
        ((1, 3, 4), 0, 1, "CAMs of shape 1×3×4 for 2 tags"),
        ((2, 12), 0, 1, "CAMs of shape 2×12 for 2 tags"),
    ],
)
def test_cams_that_cannot_be_used_are_refused(stage, shape, low, high, message):
    cams = np.full(shape, 0.5)
    cams.flat[:1], cams.flat[-1:] = low, high
    if message is None:
        assert stage.checked(cams, [0, 1]) is cams
        return
    with pytest.raises(UserError, match=f"{message}.* for image x y"):
        stage.checked(cams, [0, 1], "x y")


def test_an_image_without_tags_has_no_cams_and_is_stored_under_its_own_input(stage):
    inputs = {"photograph": "image", **stage.reading(())}
    item = Item(Sample("a", Path("a.png")), {"photograph": "image"}, size=(30, 40))
    output = stage.output(item, (), np.zeros((0, 3, 4), np.float32), inputs)
    assert list(output.files) == ["a.npz"] and output.inputs == inputs
    assert stage.reading(()) != stage.reading((0,)) != stage.reading((1,))


def test_cams_that_are_known_are_not_taken_from_a_pass_again(stage, monkeypatch):
    known = {"photograph": "image", **stage.reading([0])}
    inputs = {"photograph": "image", "regions": "of tags alone"}
    item = Item(Sample("a", Path("a.png")), inputs, known_to_rider=[known], size=(30, 40))
    method = SimpleNamespace(cams_of_pass=lambda _, tags: np.ones((len(tags), 3, 4)))
    monkeypatch.setitem(vars(stage), "pass_method", method)
    assert stage.of_pass(item, None, [0]) == {}
    assert stage.of_pass(item, None, [1])["cams"].inputs == {**known, **stage.reading([1])}


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        (None, ("sky",), ("sky",)),
        (["grass", "sea"], ("sky",), ("grass", "sea")),
        (None, (), ("background",)),  # an only tag needs a competitor
        ([], ("sky",), ("background",)),
    ],
)
def test_the_tags_compete_with_backgrounds(own, given, expected):
    vocabulary = Vocabulary(("cat",), (("cat",),), (("cat",),), backgrounds=given)
    assert competitors_of(ClipEsOptions(backgrounds=own), vocabulary) == expected


@pytest.mark.parametrize("open_border", [True, False])
def test_clip_es_is_built_from_its_settings_and_resources(open_border, tiny_clip):
    asked = []

    def embed(*given: object) -> torch.Tensor:
        asked.append(given)
        return torch.eye(4, 32)

    clip = SimpleNamespace(
        encoder=ClipEncoder(ImageTower.of(tiny_clip)), embed=embed, batches=ALONE
    )
    options = ClipEsOptions(backgrounds=["sea", "sky"], affinity_blocks=[1, 2])
    built = ClipEs.build(options, resources_of(VOCABULARY, clip, open_border=open_border))
    assert asked == [(CAM_NAMES, ("sea", "sky"), "clip_es")]
    assert torch.equal(built.class_text, torch.eye(4, 32)[:2])
    assert torch.equal(built.background_text, torch.eye(4, 32)[2:])
    assert built.quirks.open_border is open_border
    assert (built.batches, list(built.blocks)) == (ALONE, [1, 2])


def test_settings_and_methods_that_cannot_be_used_say_so():
    with pytest.raises(UserError, match="cams.templates=nope is unknown"):
        check(ClipEsOptions(templates="nope"), "cams")
    with pytest.raises(UserError, match="cams.affinity_blocks=.*give 2"):
        check(ClipEsOptions(affinity_blocks=[-7, -1, 0]), "cams")
    with pytest.raises(UserError, match="CamMethod has no method cams"):
        CamMethod().cams(np.zeros((1, 1, 3), np.uint8), [0])
