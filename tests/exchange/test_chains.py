"""Which results of an output directory belong together, by manifests alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.engine.records import read_manifest
from pipeline.exchange.chains import find_before, find_chain


class Results:
    """Writes the manifests of results; each one finishes a second after the one before.

    Attributes:
        run: the number of the run that does.
    """

    def __init__(self, root: Path):
        self.root, self.seconds, self.run = root, 0, 1

    def finish(self, place: str, *others: str, **needs: str) -> str:
        """Writes or finishes again the results in "split/stage/key".

        ``needs`` are such places, and so are the ``others``, those of the same run on other splits.
        """
        folder, self.seconds = self.root / place, self.seconds + 1
        *_, stage, key = place.split("/")
        now, run = f"2026-01-01T00:00:{self.seconds:02}.000+00:00", str(self.run)
        path = folder / "manifest.json"
        old = json.loads(path.read_text()) if path.exists() else {"first_run": run}
        folder.mkdir(parents=True, exist_ok=True)
        split = "" if stage == "segmenter" else place.split("/")[0]
        made_from, run_of = {}, dict[str, list[str]]()
        for name, need in needs.items():
            *where, of_stage, of_key = need.split("/")
            made_from[name] = [*(where or [""]), of_stage, of_key]
        for each in (place, *needs.values(), *others):
            run_of.setdefault(each.split("/")[0], []).append("/".join(each.split("/")[-2:]))
        facts = {
            "stage": stage,
            "split": split,
            "key": key,
            "complete": True,
            "finished": now,
            "run": run,
        }
        facts |= {"made_from": made_from, "counterparts": [*old.get("counterparts", ()), run_of]}
        path.write_text(json.dumps({**old, **facts}))
        (latest := folder.parent / "latest").unlink(missing_ok=True)
        latest.symlink_to(key)
        return place


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path.resolve())


def names(chain) -> dict[tuple[str, str], str]:
    return {place: result.path.name for place, result in chain.results.items()}


def test_tags_that_the_latest_run_began_with_are_not_of_the_run_before(results):
    """Of two runs with two rounds each, the run before had the first tags of the latest."""
    for results.run in (1, 2):
        every = [f"{s}/tags/{key}{results.run}" for s in ("train", "val") for key in "tu"]
        first = {s: results.finish(f"{s}/tags/t{results.run}") for s in ("train", "val")}
        network = f"segmenter/n{results.run}"
        results.finish(network, tags=first["train"])
        for split in ("train", "val"):
            needs = {"first_tags": first[split], "segmenter": network}
            results.finish(f"{split}/tags/u{results.run}", *every, **needs)
        for split in ("train", "val"):
            results.finish(f"{split}/predictions/p{results.run}", *every, segmenter=network)
    latest = find_chain(results.root)
    assert {*names(latest).values()} == {"n2", "u2", "p2"}
    before = names(find_before(results.root, latest))
    assert before["val", "tags"] == "u1" and {*before.values()} == {"n1", "u1", "p1"}


def test_masks_of_the_tags_before_do_not_belong_to_new_tags(results):
    results.finish("val/masks/m", tags=results.finish("val/tags/old"))
    results.finish("val/tags/new")
    assert names(find_chain(results.root)) == {("val", "tags"): "new"}


def test_what_both_runs_share_belongs_to_both(results):
    results.run = 0
    results.finish("val/tags/older")
    for results.run in (1, 2):
        results.finish(train := f"train/tags/t{results.run}")
        results.finish("val/tags/same", train)
    latest = find_chain(results.root)
    assert names(latest) == {("train", "tags"): "t2", ("val", "tags"): "same"}
    before = names(find_before(results.root, latest))
    assert before == {("train", "tags"): "t1", ("val", "tags"): "same"}


def test_a_run_without_a_round_is_the_run_before_one_with_two(results):
    results.finish("val/masks/m1", tags=results.finish("val/tags/t1"))
    masks = results.finish("val/masks/m2", tags=results.finish("val/tags/t2"))
    tags = results.finish("val/tags/u2", segmenter=results.finish("segmenter/n", masks=masks))
    results.finish("val/masks/v2", tags=tags)
    before = find_before(results.root, find_chain(results.root))
    assert names(before) == {("val", "tags"): "t1", ("val", "masks"): "m1"}


def test_a_split_that_only_ran_with_other_settings_is_left_out(results):
    results.finish("val/tags/v1", "train/tags/t1")
    results.finish("train/tags/t2", "val/tags/v2")
    assert names(find_chain(results.root)) == {("train", "tags"): "t2"}


def test_a_correction_that_one_split_alone_ran_with_leaves_the_other_out(results):
    results.finish("train/tags/raw", "val/tags/raw")
    results.finish("val/tags/raw", "train/tags/raw")
    before = find_chain(results.root)
    assert names(before) == {("train", "tags"): "raw", ("val", "tags"): "raw"}
    results.run = 2
    results.finish("val/tags/corrected", "train/tags/corrected")
    assert names(find_chain(results.root)) == {("val", "tags"): "corrected"}
    results.finish("train/tags/corrected", "val/tags/corrected")
    assert len(names(find_chain(results.root))) == 2


def test_a_manifest_is_read_once_however_many_results_were_made_from_it(results, monkeypatch):
    tags = results.finish("val/tags/t")
    for key in "abcde":
        cams = results.finish(f"val/cams/{key}", tags=tags)
        results.finish(f"val/masks/{key}", cams=cams, tags=tags)
    read, original = Counter(), read_manifest
    monkeypatch.setattr(
        "pipeline.engine.results.read_manifest",
        lambda folder: read.update([folder.relative_to(results.root)]) or original(folder),
    )
    assert len(find_chain(results.root).results) == 3
    assert len(read) == 11 and {*read.values()} == {1}
