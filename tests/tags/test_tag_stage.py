"""What becomes of scores: which are refused, which are tags, and what a method is built with."""

from __future__ import annotations

import base64
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.sample import Sample
from pipeline.errors import UserError
from pipeline.tags.baseline import ClassTokenOptions, build_class_token
from pipeline.tags.scores import read_scores, summarise, tags_output
from pipeline.tags.stage import ScoredTags
from pipeline.tags.tagclip import TagClipOptions, build_tagclip
from pipeline.tags.tagger import Scored, ScoredTagOptions, Tagger
from tests.methods import ALONE, resources_of, stage_of
from tests.results import open_writer, write

NAMES = (("cat",), ("cup", "mug"))
VOCABULARY = Vocabulary(("cat", "cup"), NAMES, NAMES, backgrounds=("sky",))


def stage(options: ScoredTagOptions) -> ScoredTags:
    """Returns the stage of a method that scores images."""
    return stage_of(ScoredTags, options, VOCABULARY)


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        ({"scores": [0, 1.0005]}, ""),  # by which rounding may exceed 1
        ({"scores": [0.5, 0.5], "dmar": [0, 0]}, ""),
        ({"scores": [0, 1.002]}, "scores from 0 to 1, which are not in [0, 1],"),
        ({"scores": [-0.01, 1]}, "scores from -0.01 to 1, which are not in [0, 1],"),
        ({"scores": [0, 1], "dmar": [0, np.nan]}, "dmar that are not finite"),
        ({"scores": [0, 1, 1]}, "3 scores for 2 classes"),
        ({"scores": 1}, "one scores for 2 classes"),
        ({"dmar": [0, 1]}, "no scores"),
    ],
)
def test_scores_that_cannot_be_used_are_described(scores, problem):
    checked = stage(TagClipOptions()).checked
    if not problem:
        assert {row.dtype for row in checked(Scored(scores)).values()} == {np.dtype("float32")}
        return
    with pytest.raises(UserError, match=f"returned {re.escape(problem)} for image x y"):
        checked(Scored(scores), "x y")


def test_a_tagger_gives_scores_for_each_image_or_says_that_it_cannot():
    class Means(Tagger):
        def scores(self, image: np.ndarray) -> list[float]:
            return [image.mean() / 255, 0]

    ((name, scored),) = Means().stream([("a", np.full((2, 2, 3), 51, np.uint8))])
    assert name == "a" and list(scored.scores) == ["scores"]
    found = stage(TagClipOptions()).checked(scored)["scores"]
    np.testing.assert_array_equal(found, np.array([0.2, 0], np.float32))
    with pytest.raises(UserError, match="Tagger has no method scores"):
        Tagger().scores(np.zeros((1, 1, 3), np.uint8))


def test_kept_scores_get_tags_anew_and_lose_an_old_correction():
    scores = {"id": "a", **tags_output([], {"scores": np.array([0.2, 0.8])}).values}
    corrected = scores | {"tags": [0], "found": [1]}
    chosen = stage(TagClipOptions(alpha=0.25, variants=[]))
    assert chosen.adapt(corrected) == scores | {"tags": [1]}


def test_a_tag_exceeds_a_share_of_the_range_of_scores_and_the_least_score():
    scores = np.array([0.2, 0.8], np.float32)
    chosen = TagClipOptions(alpha=0.25, variants=[])
    assert stage(chosen).threshold(scores) == pytest.approx(0.35)
    assert stage(TagClipOptions(alpha=0.25, min_score=0.6)).threshold(scores) == 0.6
    entry = {"id": "x", **tags_output([], {"scores": np.array([0.2, 0.3, 0.8, 0.4])}).values}
    assert stage(chosen).adapt(entry) == {**entry, "tags": [2, 3]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (TagClipOptions(), ("corrections", "min_score")),  # CWR computes with alpha
        (TagClipOptions(reidentify=False), ("corrections", "min_score", "alpha")),
        (ClassTokenOptions(), ("corrections", "min_score", "alpha")),
    ],
)
def test_thresholds_are_the_settings_that_no_score_depends_on(options, expected):
    assert stage(options).thresholds == expected


def test_an_entry_needs_every_variant_that_its_method_has():
    facts = tags_output([], dict.fromkeys(("scores", "coarse"), np.zeros(2))).values
    entry = {"id": "a", **facts}
    assert stage(TagClipOptions(variants=["coarse"])).adapt(entry)
    assert stage(TagClipOptions(variants=["coarse", "dmar"])).adapt(entry) is None
    assert stage(ClassTokenOptions(variants=["dmar"])).adapt(entry), "the baseline has none"
    assert stage(TagClipOptions(variants=[])).adapt({"scores": {"coarse": ""}}) is None


def test_a_variant_that_is_the_scores_is_stored_once(tmp_path):
    """As TagCLIP's after CWR; what is read from it does not tell."""
    final, coarse = np.array([0.25, 0.75], np.float32), np.array([0.5, 0], np.float32)
    rows = {"scores": final, "cwr": final.copy(), "coarse": coarse}
    facts = {"id": "a", **tags_output([1], rows).values}
    assert json.dumps(facts).count(base64.b64encode(final.tobytes()).decode()) == 1
    assert stage(TagClipOptions(variants=["coarse", "cwr"])).adapt(facts)
    chosen = stage(TagClipOptions(alpha=0.5, variants=["cwr"]))
    assert chosen.adapt({**facts, "tags": []})["tags"] == [1]
    folder = open_writer(tmp_path, "val", "tags", {})
    with folder:
        write(folder, "a", {"photograph": "input"}, {}, **facts)
        write(
            folder,
            "b",
            {"photograph": "input"},
            {},
            **tags_output([1], {**rows, "cwr": coarse}).values,
        )
    assert read_scores(folder.results, "ab", "dmar") is None
    samples = [Sample(name, tmp_path / f"{name}.jpg") for name in "ab"]
    with np.load(
        io.BytesIO(summarise(folder.results, samples, ("cat", "cup"))["scores.npz"])
    ) as stored:
        assert {*stored} == {"ids", "classes", "scores", "cwr", "coarse"}
        np.testing.assert_array_equal(stored["scores"], [final, final])
        np.testing.assert_array_equal(stored["cwr"], [final, coarse])


def test_both_taggers_are_built_from_their_settings_and_resources(tiny_clip):
    asked = []

    def embed(*given: object) -> torch.Tensor:
        asked.append(given)
        return torch.eye(3, 32)

    clip = SimpleNamespace(
        encoder=ClipEncoder(ImageTower.of(tiny_clip)), embed=embed, batches=ALONE
    )
    options = TagClipOptions(templates="clip_es", attention_blocks=[1, 2])
    for quirk in (True, False):
        built = build_tagclip(
            options, resources_of(VOCABULARY, clip, open_border=quirk, cwr_stop=not quirk)
        )
        assert (built.quirks.open_border, built.quirks.cwr_stop) == (quirk, not quirk)
        assert (built.num_classes, built.options, built.batches) == (2, options, ALONE)
        assert list(built.window) == [1, 2]
    baseline = build_class_token(ClassTokenOptions(), resources_of(VOCABULARY, clip))
    assert (baseline.num_classes, baseline.batch_size) == (2, ALONE.images)
    assert asked[1:] == [(NAMES, ("sky",), "clip_es"), (NAMES, ("sky",), "tagclip")]
    assert baseline.text.shape == built.text.shape == (3, 32)


@pytest.mark.parametrize("kind", [TagClipOptions, ClassTokenOptions])
def test_an_unknown_set_of_templates_is_refused(kind):
    from pipeline.configuration.settings import check

    check(kind(), "tags")
    with pytest.raises(UserError, match="tags.templates=nope is unknown"):
        check(kind(templates="nope"), "tags")
