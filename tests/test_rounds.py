"""Self-training on photographs: every round's masks are what the segmenter before it sees."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.small_runs import TINY_SEGMENTER, artefacts

SEEN = (
    "self_training.keep_tags=false",
    "self_training.tag_threshold=0.2",
    "self_training.confidence=0.25",
)


def manifests(out, stage):
    found = [json.loads(p.read_text()) for p in (out / "all" / stage).glob("*/manifest.json")]
    return {manifest["key"]: manifest["configuration"] for manifest in found}


@pytest.mark.large
@pytest.mark.parametrize("refined", [False, True])
def test_rounds_without_any_ground_truth(refined, run_stage, run_tool, arguments, tmp_path):
    out, given = tmp_path / "out", (*SEEN, f"self_training.refine={refined}")
    one = run_stage(*arguments, *TINY_SEGMENTER)
    assert one.code == 0, one.errors
    two = run_stage(*arguments, *TINY_SEGMENTER, *given, "rounds=2")
    assert two.code == 0, two.errors
    trained = [p.name for p in (out / "segmenter").iterdir() if not p.is_symlink()]
    assert len(trained) == 2
    seen = {k: c for k, c in manifests(out, "masks").items() if c["method"] == "segmenter"}
    tags = {k: c for k, c in manifests(out, "tags").items() if c["method"] == "segmenter"}
    assert len(seen) == len(tags) == 1
    assert (out / "all" / "masks" / "latest").resolve().name in seen
    # Maps are those of the first round.
    assert len(manifests(out, "cams")) == 1

    # The masks are what the first segmenter sees.
    from pipeline.files.images import decode_image
    from pipeline.masks.crf import CrfOptions, dense_crf
    from pipeline.segmenter.predict import Segmenter
    from pipeline.segmenter.self_training import best_of, chosen_probabilities
    from pipeline.segmenter.settings import SelfTrainingSettings

    newest = (out / "segmenter" / "latest").resolve().name
    (first,) = [out / "segmenter" / name for name in trained if name != newest]
    segmenter = Segmenter.from_run(first)
    settings = SelfTrainingSettings(0.002, 0.2, 0.25, keep_tags=False)
    (folder,) = [out / "all" / "masks" / key for key in seen]
    for image in (tmp_path / "photographs").glob("?.*"):
        pixels = decode_image(image)
        seen_by = segmenter.probabilities(pixels)
        _, cams = chosen_probabilities(seen_by, pixels.shape[:2], settings)
        labels, probability = best_of(pixels, cams)
        if refined:
            scores = dense_crf(pixels, cams.cams, CrfOptions())
            labels, probability = (cams.classes + 1)[scores.argmax(0)], scores.max(0)
        labels = np.where(probability < 0.25, 255, labels)
        with Image.open(folder / f"{image.stem}.png") as mask:
            assert np.array_equal(np.asarray(mask), labels)

    before = artefacts(out)
    cleaned = run_tool("clean.py", out, "--yes")
    assert "nothing to remove" in cleaned.output, cleaned.output
    again = run_stage(*arguments, *TINY_SEGMENTER, *given, "rounds=2")
    assert again.code == 0 and again.output.count(" 0 computed now") == 9
    assert artefacts(out) == before


def test_a_round_needs_the_one_before(run_stage, arguments, finish):
    finish("stage=[tags,cams,masks]")
    finished = run_stage(*arguments, *TINY_SEGMENTER, "rounds=2", "stage=masks")
    assert finished.code == 2
    assert "needs the segmenter of round 1: run stage=train first: python " in finished.errors
    assert "'stage=[tags,cams,masks,train]'" in finished.errors and finished.errors.count("\n") == 1
    assert run_stage(*arguments, "rounds=0", "stage=masks").code == 2


def test_tags_of_the_first_round_are_kept_by_default(run_stage, arguments, tmp_path):
    stages = "stage=[tags,cams,masks,train]"
    finished = run_stage(*arguments, *TINY_SEGMENTER, stages, "rounds=2")
    assert finished.code == 0, finished.errors
    out = tmp_path / "out" / "all"
    first, later = sorted(manifests(tmp_path / "out", "tags").items(), key=lambda c: len(str(c[1])))
    assert later[1]["method"] == "segmenter"
    lines = [(out / "tags" / key / "tags.txt").read_text() for key, _ in (first, later)]
    assert lines[0] == lines[1]
    scores = [np.load(out / "tags" / key / "scores.npz")["scores"] for key, _ in (first, later)]
    assert not np.allclose(*scores)  # these are the segmenter's own


@pytest.mark.parametrize("masks", ["argmax", "ground_truth"])
def test_masks_without_a_refiner_cannot_refine_later_rounds(masks, run_stage, arguments):
    given = f"masks={masks}", "rounds=2", "self_training.refine=true", "dry_run=true"
    finished = run_stage(*arguments, *TINY_SEGMENTER, *given)
    assert finished.code == 2
    assert "requires a refiner of probabilities" in finished.errors
