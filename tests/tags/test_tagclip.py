"""CWR, thresholds and the whole of TagCLIP on a tiny encoder."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import MeanAttention
from pipeline.tags.baseline.method import GlobalClip, global_scores
from pipeline.tags.reidentification import Cwr, Proposal
from pipeline.tags.tagclip import VARIANTS, TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from pipeline.tags.tagger import choose_tags
from tests.methods import ALONE, RELEASED, scores_of
from tests.small_runs import draw_photograph


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(6, 32, generator=generator), dim=-1)


def cwr(num_classes: int, *, open_border: bool = False, cwr_stop: bool = False) -> Cwr:
    """Returns what proposes classes with patches of 16 pixels, and crops of 64."""
    encoder = SimpleNamespace(patch_size=16, native_size=64)
    quirks = SimpleNamespace(open_border=open_border, cwr_stop=cwr_stop)
    return Cwr(encoder, torch.empty(0, 0), num_classes, 0.5, quirks)


def build(encoder: ClipEncoder, text: torch.Tensor, batches: Batches = ALONE, **changes) -> TagClip:
    options = TagClipOptions(attention_blocks=[-2, -1], votes=2, **changes)
    return TagClip(encoder, text, 4, options, batches, RELEASED)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_result_does_not_depend_on_the_other_images(encoder, text, batch_size):
    images = [draw_photograph(s, 64, 96) for s in range(5)] + [draw_photograph(9, 50, 40)]
    tagger = build(encoder, text, Batches(batch_size, crops=3, waiting=32))
    together = scores_of(tagger, images, ["coarse", "dmar"])
    for image, result in zip(images, together):
        [alone] = scores_of(tagger, [image], ["coarse", "dmar"])
        for name, values in result.items():
            np.testing.assert_array_equal(values, alone[name], err_msg=name)


def recorded(propose: Callable, proposals: list[Proposal]) -> Callable:
    """Wraps ``propose`` so that it also appends to ``proposals``."""

    def propose_and_record(*arguments: object) -> list[Proposal]:
        new = propose(*arguments)
        proposals.extend(new)
        return new

    return propose_and_record


def test_reidentification_averages_with_the_crops_probability(encoder, text):
    image = draw_photograph(1, 96, 96)
    tagger = build(encoder, text)
    proposals = []
    tagger.cwr.propose = recorded(tagger.cwr.propose, proposals)
    scores_of(tagger, [image])
    assert proposals, "this image has to propose a class"
    probabilities = tagger.cwr.classify(proposals, 8)
    [result] = scores_of(tagger, [image], ["dmar"])
    expected = result["dmar"].copy()
    for proposal, probability in zip(proposals, probabilities):
        k = proposal.class_index
        expected[k] = (expected[k] + float(probability)) / 2
    np.testing.assert_allclose(result["scores"], expected, atol=1e-6)
    assert (result["scores"] != result["dmar"]).any()


def test_without_reidentification_local_scores_are_final(encoder, text):
    tagger = build(encoder, text, reidentify=False)
    [result] = scores_of(tagger, [draw_photograph(1, 64, 64)], ["dmar"])
    np.testing.assert_array_equal(result["scores"], result["dmar"])


def test_every_variant_is_what_it_is_named_after(encoder, text):
    text = text / 10  # scores between 0 and 1, so that no token looks like another
    image, tagger = draw_photograph(2, 64, 96), build(encoder, text)
    [found] = scores_of(tagger, [image], VARIANTS)
    inputs = encoder.backbone(encoder.prepare(image)[None])
    own = encoder.classify(encoder.value_features(inputs), text)[0, :, :4]
    attended = encoder.classify(encoder.attended_features(inputs), text)[0, :, :4]
    expected = {
        "clip": global_scores(encoder, text, 4, [image])[0],
        "clip_native": attended[0],
        "coarse_last": attended[1:].amax(0),
        "coarse": own.amax(0),
    }
    assert (attended[0] > attended[1:].amax(0)).any(), "the class token is no patch"
    for name, scores in expected.items():
        np.testing.assert_allclose(found[name], scores, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found["cwr"], found["scores"])
    for name in VARIANTS:
        [alone] = scores_of(tagger, [image], [name])
        assert list(alone) == ["scores", name]
        np.testing.assert_array_equal(alone[name], found[name])


def proposals_of(columns: list[np.ndarray], **quirks) -> list[int]:
    """Returns the classes that scores on a 3×3 grid propose."""
    scores = torch.tensor(np.stack([c.reshape(-1) for c in columns], 1), dtype=torch.float32)
    proposals = cwr(len(columns), **quirks).propose(torch.zeros(3, 48, 48), scores.numpy())
    return [p.class_index for p in proposals]


@pytest.mark.parametrize("cell", [(2, 2), (1, 2), (2, 1)])
def test_an_empty_box_ends_the_search_by_the_quirk_only(cell):
    corner, centre = np.zeros((3, 3)), np.zeros((3, 3))
    corner[cell] = 1  # open_border clips this box to nothing
    centre[1, 1] = 0.9
    columns = [centre, corner, centre]
    assert proposals_of(columns, open_border=True, cwr_stop=True) == [0]
    assert proposals_of(columns, open_border=True, cwr_stop=False) == [0, 2]
    assert proposals_of(columns, open_border=False, cwr_stop=False) == [0, 1, 2]


def test_a_crop_shows_the_box_and_a_mask_the_object():
    pixels = torch.arange(48 * 48, dtype=torch.float32).reshape(1, 48, 48).expand(3, -1, -1)
    scores = torch.zeros(9, 1)
    scores[4] = 1
    [proposal] = cwr(1).propose(pixels, scores.numpy())
    expected = F.interpolate(pixels[None, :, 16:32, 16:32], (64, 64), mode="bilinear")
    torch.testing.assert_close(proposal.crop, expected[0])
    assert proposal.inside.shape == (4, 4) and proposal.inside.all()


@pytest.mark.parametrize(
    ("rows", "columns"), [((2, 3), (3, 4)), ((1, 3), (2, 4)), ((0, 1), (0, 1)), ((0, 3), (0, 4))]
)
def test_a_crop_reaches_to_the_last_pixel_of_its_last_patch(rows, columns):
    """Of 3×4 patches of 16 pixels."""
    pixels = torch.arange(48 * 64, dtype=torch.float32).reshape(1, 48, 64).expand(3, -1, -1)
    scores = torch.zeros(3, 4)
    scores[rows[0], columns[0]] = scores[rows[1] - 1, columns[1] - 1] = 1
    [proposal] = cwr(1).propose(pixels, scores.reshape(-1, 1).numpy())
    top, bottom, left, right = (16 * edge for edge in (*rows, *columns))
    part = pixels[None, :, top:bottom, left:right]
    torch.testing.assert_close(proposal.crop, F.interpolate(part, (64, 64), mode="bilinear")[0])
    assert proposal.inside[0, 0] and proposal.inside[-1, -1]


@pytest.mark.parametrize(("beside", "width"), [(0.5, 1), (0.51, 2)])
def test_patches_above_half_the_best_belong_to_the_object(beside, width):
    """Of 3×3 patches of 16 pixels; exactly half is not above it."""
    pixels = torch.arange(48 * 48, dtype=torch.float32).reshape(1, 48, 48).expand(3, -1, -1)
    scores = torch.zeros(9, 1)
    scores[3], scores[4] = 1, beside
    [proposal] = cwr(1).propose(pixels, scores.numpy())
    part = pixels[None, :, 16:32, : 16 * width]
    torch.testing.assert_close(proposal.crop, F.interpolate(part, (64, 64), mode="bilinear")[0])


@pytest.mark.parametrize(
    ("low", "background", "expected"),
    [(0, 0.7, [0]), (0, 0.8, []), (0, 0.9, []), (0.2, 0.55, [0]), (0.2, 0.65, [])],
)
def test_the_threshold_is_taken_over_all_scores(low, background, expected):
    """CWR looks again at classes above θ, not at one exactly on it."""
    scores = torch.full((9, 2), float(low))
    scores[4] = torch.tensor([0.4, background])
    proposals = cwr(1).propose(torch.zeros(3, 48, 48), scores.numpy())
    assert [proposal.class_index for proposal in proposals] == expected


@pytest.mark.parametrize(
    ("scores", "min_score", "expected"),
    [
        ([0.1, 0.9, 0.6], 0.0, (1, 2)),
        ([0.1, 0.9, 0.5], 0.0, (1,)),  # exactly on the threshold is not above it
        ([0.3, 0.3, 0.3], 0.0, (0,)),  # nothing is above it: the best
        ([0.1, 0.9, 0.6], 0.7, (1,)),
        ([0.1, 0.9, 0.6], 0.9, ()),  # exactly the least score does not exceed it
        ([0.1, 0.2, 0.1], 0.3, ()),
        ([0.4], 0.0, (0,)),
        ([0.0, 0.0], 0.0, (0,)),
    ],
)
def test_tags_are_the_classes_above_the_images_threshold(scores, min_score, expected):
    assert choose_tags(np.array(scores), 0.5, min_score) == expected


def test_global_scores_are_clips_own(tiny_clip, encoder, text):
    image = draw_photograph(4, 50, 90)
    (scores,) = global_scores(encoder, text, 4, [image])
    from pipeline.clip.encoder import to_pixels

    features = F.normalize(tiny_clip.encode_image(to_pixels(image, 64, 64)[None]), dim=-1)
    expected = (tiny_clip.logit_scale.exp() * features @ text.T).softmax(-1)[0, :4]
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)


def test_the_baseline_streams_in_batches_of_one_size(encoder, text, monkeypatch):
    batches, classify = [], ClipEncoder.classify_images

    def spy(self, pixels, *more):
        batches.append(tuple(pixels.shape))
        return classify(self, pixels, *more)

    monkeypatch.setattr(ClipEncoder, "classify_images", spy)
    images = [draw_photograph(s, 40 + 8 * s, 64) for s in range(5)]
    scorer = GlobalClip(encoder, text, 4, batch_size=3)
    by_name = {name: scored.scores["scores"] for name, scored in scorer.stream(enumerate(images))}
    assert list(by_name) == [0, 1, 2, 3, 4]
    for index, image in enumerate(images):
        ((_, alone),) = scorer.stream([("alone", image)])
        np.testing.assert_array_equal(by_name[index], alone.scores["scores"])
    assert set(batches) == {(3, 3, 64, 64)}


def test_images_wait_for_others_of_their_size_and_crops_for_any(encoder, text, monkeypatch):
    batches, crops, proposals = [], [], []
    backbone, image_features = ClipEncoder.backbone, ClipEncoder.image_features

    def spy_on_backbone(self, pixels, *hooks):
        batches.append(tuple(pixels.shape))
        return backbone(self, pixels, *hooks)

    def spy_on_crops(self, pixels, inside=None):
        crops.append(len(pixels))
        return image_features(self, pixels, inside)

    monkeypatch.setattr(ClipEncoder, "backbone", spy_on_backbone)
    monkeypatch.setattr(ClipEncoder, "image_features", spy_on_crops)
    sizes = [(64, 96), (50, 40), (64, 96), (50, 40), (64, 96), (50, 40)]
    images = [draw_photograph(s, *size) for s, size in enumerate(sizes)]
    tagger = build(encoder, text, Batches(3, crops=4, waiting=32))
    tagger.cwr.propose = recorded(tagger.cwr.propose, proposals)
    assert sorted(dict(tagger.stream(enumerate(images)))) == list(range(6))
    assert batches == [(3, 3, 64, 96), (3, 3, 64, 48)]
    assert set(crops) == {4}
    assert len(crops) == -(-len(proposals) // 4)


def test_the_shared_pass_is_kept_only_if_its_attention_is_recorded(encoder, text):
    image = draw_photograph(1, 64, 96)
    tagger = build(encoder, text)
    ((_, without),) = tagger.stream([("a", image)])
    ((_, scored),) = tagger.stream([("a", image)], cam_hooks=lambda: [MeanAttention(range(2, 4))])
    assert without.shared_pass is None
    assert scored.shared_pass.grid == (4, 6)
    assert scored.shared_pass.last_block_input.tokens.shape == (1, 25, 64)
    mean = MeanAttention(range(2, 4))
    encoder.backbone(encoder.prepare(image)[None], mean)
    (attention,) = scored.shared_pass.for_cams
    torch.testing.assert_close(attention, mean.result(), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(without.scores["scores"], scored.scores["scores"])


def test_images_without_proposals_do_not_pile_up_behind_one_that_has_some(encoder, text):
    tagger = build(encoder, text)
    propose_all, taken = tagger.cwr.propose, []
    tagger.cwr.propose = lambda pixels, scores: (
        propose_all(pixels, scores)[:1] if len(taken) == 1 else []
    )

    def images():
        for index in range(30):
            taken.append(index)
            yield index, draw_photograph(1, 64, 64)

    results = tagger.stream(images())
    assert next(results)[0] == 0
    assert len(taken) == 5, "no more than a batch of crops waits"
    assert [name for name, _ in results] == list(range(1, 30))
