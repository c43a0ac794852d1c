"""PIAA from images to tags, against a naive computation on the same features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.clip.frozen import FrozenClip
from pipeline.dense.sc_clip import ScClipSettings
from pipeline.engine.executors import ExecutorSettings
from pipeline.engine.run import Run
from pipeline.engine.sample import ImageReader
from pipeline.engine.workers import Executor
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from pipeline.tags.piaa import PiaaOptions
from pipeline.tags.piaa.bank import Candidates, read_prototypes
from pipeline.tags.piaa.patches import BatchedScClip, build_patches, centre
from pipeline.tags.piaa.prototypes import Prototypes, choose_bank, learn
from pipeline.tags.stage import ScoredTags
from tests.engine.test_workers import HerePool
from tests.small_runs import artefacts, folder_options, latest, wait_for_entries
from tests.tags.test_prototypes import naive_scores

SIZE = 6
PIAA = ("tags=piaa", f"tags.bank_size={SIZE}", "tags.min_score=0")


@pytest.fixture(autouse=True)
def names_apart(monkeypatch):
    """To the random text tower all names are alike."""

    def embed(self, names, backgrounds, templates):
        generator = torch.Generator().manual_seed(0)
        return F.normalize(torch.randn(len(names) + len(backgrounds), 32, generator=generator))

    monkeypatch.setattr(FrozenClip, "embed", embed)


@pytest.fixture
def opened(photographs: Path, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., Pipeline]:
    def opened(*given: str, out: str = "out") -> Pipeline:
        given = *PIAA, f"output_dir={tmp_path / out}", *given
        options = folder_options(photographs, tiny_checkpoint, *given)
        return Pipeline.open(read_config(compose(options)))

    opened.root = tmp_path
    return opened


def run(pipeline: Pipeline, pool=None) -> list:
    builder = pipeline.builder
    executor = Executor(pool or ExecutorSettings(), 1)
    with Run(builder.images, builder.store, executor) as run:
        return [*run.compute(pipeline.stages(["tags"]))]


def prototypes_in(root: Path, tags: ScoredTags, text: torch.Tensor) -> Prototypes:
    """Returns what a stage of tags loads."""
    folder = latest(root, "prototypes")
    return read_prototypes(folder, text, tags.options, empty_class=False, device="cpu")


def naive_bank(features: dict[str, np.ndarray], text: np.ndarray) -> dict[str, list[int]]:
    ranked = []
    for image_id in sorted(features):
        for patch, x in enumerate(features[image_id]):
            logits = 60 * (text @ x).astype(np.float64)
            p = np.exp(logits - logits.max())
            p /= p.sum()
            ranked.append((-(p * np.log(np.maximum(p, 1e-10))).sum(), p.argmax(), image_id, patch))
    bank = {}
    for c in range(len(text)):
        for _, _, image_id, patch in sorted(r for r in ranked if r[1] == c)[:SIZE]:
            bank.setdefault(image_id, []).append(patch)
    return {image_id: sorted(patches) for image_id, patches in bank.items()}


@pytest.mark.parametrize("given", [("tags.crop=true",), ("tags.encoder=itaclip",)])
def test_prototypes_and_scores_follow_from_the_features_of_the_images(opened, given):
    pipeline = opened(*given)
    outcomes = run(pipeline)
    assert [o.stage for o in outcomes] == ["patches", "prototypes", "tags"]
    tags, builder = pipeline.stages(["tags"])[-1], pipeline.builder
    patches, text = build_patches(tags.options, tags.resources)
    images = [(s.id, ImageReader(True)(s)[0]) for s in builder.images.of("all")]
    seen = dict(patches.stream(images))
    features = {i: p.features.numpy() for i, p in seen.items()}
    root = builder.store.root
    bank = naive_bank(features, text.numpy())
    kept = torch.cat([seen[i].features[bank[i]] for i in sorted(bank)])
    with np.load(latest(root, "prototypes") / "bank.npz") as stored:
        np.testing.assert_array_equal(stored["features"], kept.numpy())
    expected = learn(kept, text, 60.0, 100.0, empty_class=False)
    found = prototypes_in(root, tags, text)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-5)
    weight, bias = found.weight.numpy(), found.bias.numpy()
    with np.load(latest(root, "tags") / "scores.npz") as stored:
        ids, scores = stored["ids"], stored["scores"]
    for image_id, row in zip(ids, scores):
        logits = features[image_id].astype(np.float64) @ weight + bias
        cosines = text.numpy() @ seen[image_id].whole_image.numpy()
        np.testing.assert_allclose(row, naive_scores(logits, cosines), atol=2e-5)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)


def test_workers_and_a_run_that_goes_on_write_the_same_bytes(opened, monkeypatch):
    run(opened(out="whole"))
    run(opened(out="workers"), HerePool())
    calls, stop = [], opened(out="killed")
    store = type(stop.stages(["tags"])[0]).compute

    def compute(self, images, model):
        for result in store(self, images, model):
            calls.append(self.name)
            if len(calls) == 3:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patched:
        patched.setattr(type(stop.stages(["tags"])[0]), "compute", compute)
        with pytest.raises(KeyboardInterrupt):
            run(stop)
    outcomes = run(opened(out="killed"))
    assert 0 < outcomes[0].computed < 5, "what was done before is not done again"
    # Which patches are stored beside those of the bank depends on who saw which image first.
    whole, workers, killed = (
        {name: data for name, data in artefacts(opened.root / n).items() if "/patches/" not in name}
        for n in ("whole", "workers", "killed")
    )
    assert whole == workers == killed
    assert any(name.endswith("bank.npz") for name in whole)


def test_what_follows_from_the_bank_takes_no_pass(opened):
    """And a smaller bank is the one that would have been learned."""
    first = run(opened())
    for given in ("tags.rescoring_temperature=3", "compat.empty_class=true", "tags.bank_size=3"):
        again = run(opened(given))
        assert [(o.stage, o.computed) for o in again] == [("prototypes", 0), ("tags", 5)], given
        assert again[0].path == first[1].path
    fresh = run(opened("tags.bank_size=3", out="fresh"))[-1].path / "scores.npz"
    assert fresh.read_bytes() == (again[-1].path / "scores.npz").read_bytes()
    larger = run(opened("tags.bank_size=7"))
    assert [(o.stage, o.computed) for o in larger] == [
        ("patches", 5),
        ("prototypes", 5),
        ("tags", 5),
    ]
    assert [o.computed for o in run(opened("tags.temperature=50"))] == [5, 5, 5]


@pytest.mark.parametrize("size", [1, 3, 40])
def test_candidates_hold_the_bank_in_whatever_order_images_come(size):
    """Also where entropies are equal; what is certainly not in the bank is left out."""
    random = np.random.default_rng(size)
    entropies = [random.integers(0, 9, 30).astype(np.float32) / 8 for _ in range(12)]
    classes = [random.integers(0, 3, 30) for _ in range(12)]
    bank = choose_bank(entropies, classes, size)
    for order in (range(12), range(11, -1, -1), random.permutation(12)):
        candidates = Candidates(PiaaOptions(bank_size=size), None, None)
        found = {int(i): candidates.choose(entropies[i], classes[i]) for i in order}
        assert all({*bank[i]} <= {*found[i]} for i in range(12))
        of_candidates = choose_bank(
            [entropies[i][found[i]] for i in range(12)],
            [classes[i][found[i]] for i in range(12)],
            size,
        )
        for i in range(12):
            np.testing.assert_array_equal(found[i][of_candidates[i]], bank[i])
    assert sum(map(len, found.values())) < 360 or size == 40


def test_what_is_kept_of_an_image_is_no_part_of_the_journal(opened):
    """10,000 lines of 2,000 bytes are 20 MB."""
    folder = run(opened())[0].path
    lines = (folder / "entries.jsonl").read_text().splitlines()
    assert len(lines) == 5 and max(map(len, lines)) < 500


def test_other_prototypes_are_other_tags(opened, photographs):
    first = run(opened("dataset.limit=2"))[-1]
    again = run(opened("tags.alpha=0.7", "dataset.limit=2"))
    assert [(o.stage, o.computed, o.reused) for o in again] == [
        ("prototypes", 0, 0),
        ("tags", 0, 2),
    ]
    assert again[-1].path != first.path
    note = run(opened())[0].note
    assert note.startswith("prototypes learned from 2 of 5 images of split all: tags.refit=")
    assert run(opened("tags.refit=true"))[-1].computed == 5


@pytest.fixture
def in_twos(opened, monkeypatch):
    """Runs of SC-CLIP in batches of two images, on a grid of 16 patches."""
    monkeypatch.setattr("pipeline.tags.piaa.BATCH", 2)
    few = ScClipSettings(neighbours=9)
    monkeypatch.setattr("pipeline.tags.piaa.patches.ScClipSettings", lambda: few)
    given = ("tags.encoder=sc_clip", "tags.crop=true", "compat.piaa_batch=true")
    given += ("runtime.batch_size=4",)
    return partial(opened, *given)


def test_sc_clip_mixes_up_the_images_of_a_batch_as_released(in_twos):
    pipeline = in_twos()
    run(pipeline)
    tags, builder = pipeline.stages(["tags"])[-1], pipeline.builder
    encoder, text = build_patches(tags.options, tags.resources)[0].encoder, tags.resources.clip
    text = text.embed(builder.vocabulary.tag_names, (), "piaa")
    prototypes = prototypes_in(builder.store.root, tags, text)
    samples, scores = builder.images.of("all"), {}
    for start in (0, 2, 4):
        ids = [sample.id for sample in samples[start : start + 2]]
        images = [ImageReader(True)(sample)[0] for sample in samples[start : start + 2]]
        pixels = torch.stack([encoder.prepare(centre(image, 64)) for image in images])
        method = BatchedScClip(ScClipSettings(neighbours=9))
        seen = method.run_pass(encoder, pixels)
        features = F.normalize(method.patch_features(encoder, seen), dim=-1)
        cosines = encoder.attended_features(seen.last_block_input)[:, 0] @ text.mT
        for image_id, x, of_token in zip(ids, features, cosines, strict=True):
            scores[image_id] = naive_scores(prototypes.logits(x).numpy(), of_token.numpy())
    with np.load(latest(builder.store.root, "tags") / "scores.npz") as stored:
        assert len(stored["ids"]) == 5
        for image_id, row in zip(stored["ids"], stored["scores"]):
            np.testing.assert_allclose(row, scores[image_id], atol=2e-5)


def test_a_batch_is_computed_whole_whoever_computes_and_whatever_is_there(in_twos, monkeypatch):
    run(in_twos(out="whole"))
    monkeypatch.setattr("pipeline.engine.workers._SHARD", 1)
    run(in_twos(out="workers"), HerePool())
    tags = type(in_twos(out="killed").stages(["tags"])[-1])

    computed = []

    def compute(self, images, model, store=tags.compute):
        for result in store(self, images, model):
            computed.append(result)
            if len(computed) == 4:  # between two images of one batch
                wait_for_entries(in_twos.func.root / "killed" / "all" / "tags", 2)
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tags, "compute", compute)
        run(in_twos(out="killed"))
    assert 0 < run(in_twos(out="killed"))[-1].computed < 5
    whole, workers, killed = (
        artefacts(in_twos.func.root / n) for n in ("whole", "workers", "killed")
    )
    assert whole == workers == killed


def test_a_photograph_changes_those_of_its_batch_alone(in_twos, photographs):
    run(in_twos())
    Image.new("RGB", (70, 70), "red").save(photographs / "z.png")
    outcome = run(in_twos())[-1]
    assert (outcome.computed, outcome.images) == (2, 6)
    (photographs / "a.jpg").write_bytes((photographs / "a.jpg").read_bytes()[:900])
    outcome = run(in_twos())[-1]
    assert outcome.computed == 1 and [*outcome.left_out] == ["a"]
    assert run(in_twos("compat.piaa_batch=false", "tags.encoder=sclip"))[-1].computed == 5


def test_backgrounds_and_cwr_are_extensions(opened):
    with_both = run(opened("tags.with_backgrounds=true", "tags.reidentify=true"))
    with np.load(with_both[-1].path / "scores.npz") as stored:
        assert stored["scores"].shape == (5, 4)
        assert (stored["scores"].sum(1) < 4).all() and (stored["scores"] >= 0).all()
    with np.load(with_both[-2].path / "bank.npz") as stored:
        assert stored["classes"].max() > 4


def test_a_least_score_is_refused():
    given = ["dataset=demo", "tags=piaa", "tags.min_score=0.3"]
    with pytest.raises(UserError, match="sum to 1: give tags.min_score=0"):
        read_config(compose(given))


def test_the_centre_square_is_cut_after_the_shorter_side_was_resized():
    image = np.random.default_rng(0).integers(0, 256, (90, 121, 3), dtype=np.uint8)
    small = Image.fromarray(image).resize((int(64 * 121 / 90), 64), Image.Resampling.BICUBIC)
    left = round((small.width - 64) / 2)
    np.testing.assert_array_equal(centre(image, 64), np.array(small)[:, left : left + 64])
