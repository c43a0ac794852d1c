"""Files of annotations that are altered between two runs: what was cached hides nothing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from pipeline.engine.progress import notes
from pipeline.files.images import encode_png
from tests.datasets.annotated import (
    SIZE,
    altered,
    boxes,
    coco,
    instance,
    labelme,
    labelme_mask,
    stroke,
    task,
    write,
)
from tests.small_runs import artefacts, draw_photograph

IDS = [f"n{k}" for k in range(6)]
CASES = 15
TAGS_AND_MASKS = {
    "tags": ["tags=file", "tags.alpha=0", "tags.min_score=0.3"],
    "masks": ["masks=file"],
}


def content_of(form: str) -> object:
    """Returns annotations of all images: a cat in each, and in every second one a dog."""
    cat, dog = boxes((1, 1, 8, 9)), boxes((4, 5, 11, 16))
    found = {i: [("cat", cat)] + [("dog", dog)] * (k % 2) for k, i in enumerate(IDS)}
    if form == "tasks":
        about = {"created_at": "2026-01-01T10:00:00Z"}
        return [task(f"{i}.png", *(stroke(*r) for r in found[i]), **about) for i in IDS]
    if form == "labelme":
        return {i: labelme(*(labelme_mask(*region) for region in found[i])) for i in IDS}
    return coco(
        [(f"{i}.png", [instance(*r, score=0.9) for r in found[i]]) for i in IDS],
        ["cat", "dog", "x"],
    )


def write_altered(place: Path, form: str, content: dict | list, rng: random.Random) -> None:
    """Writes annotations, of which one file is altered."""
    if form == "labelme":
        name = rng.choice(IDS)
        (place / f"{name}.json").write_text(altered(content[name], rng))
    elif form == "results" and rng.random() < 0.5:
        images = {key: content[key] for key in ("images", "categories")}
        (place / "images.json").write_text(altered(images, rng))
    else:
        (place / "given.json").write_text(altered(chosen(form, content), rng))


def chosen(form: str, content: dict | list) -> dict | list:
    return content["annotations"] if form == "results" else content


@pytest.mark.large
@pytest.mark.parametrize("form", ["coco", "results", "tasks", "labelme"])
def test_what_was_cached_hides_no_alteration(form, run_stage, tmp_path):
    for seed, name in enumerate(IDS):
        path = tmp_path / "photographs" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(draw_photograph(seed, *SIZE)))
    content, whole, place = content_of(form), tmp_path / "whole", tmp_path / "given"
    if form == "labelme":
        for name, each in content.items():
            write(whole / f"{name}.json", each)
    else:
        write(whole / "given.json", chosen(form, content))
    if form == "results":
        write(whole / "images.json", {k: content[k] for k in ("images", "categories")})

    def run(out: str) -> tuple[list[int], list[list[str]], dict[str, bytes]]:
        given = place if form == "labelme" else place / "given.json"
        options = ["dataset=folder", f"dataset.root={tmp_path / 'photographs'}"]
        options += ["dataset.classes=[cat,dog]", "runtime.workers=1", "runtime.max_failures=9"]
        options.append(f"output_dir={tmp_path / out}")
        found, said, codes = {}, [], []
        for stage, more in TAGS_AND_MASKS.items():
            if stage == "tags" and form == "labelme":
                continue  # has no scores
            notes.clear()  # each is printed once in a process
            finished = run_stage(*options, *more, f"{stage}.path={given}", f"stage={stage}")
            assert finished.code in (0, 2) and "Traceback" not in finished.errors
            codes.append(finished.code)
            errors = finished.errors.replace(str(tmp_path / out), "OUT")
            said.append(sorted(errors.splitlines()))
            if finished.code == 0:
                results = artefacts((tmp_path / out / "all" / stage / "latest").resolve())
                results.pop(
                    "entries.jsonl", None
                )  # whose order is that in which images were computed
                found |= {f"{stage} {name}": data for name, data in results.items()}
        return codes, said, found

    shutil.copytree(whole, place)
    codes, _, results = run("before")
    assert not any(codes) and len(results) >= len(IDS)
    refused = 0
    for case in range(CASES):
        rng = random.Random(f"{form} {case}")
        shutil.rmtree(place)
        shutil.copytree(whole, place)
        write_altered(place, form, content, rng)
        shutil.copytree(tmp_path / "before", tmp_path / "cached", symlinks=True)
        cached, fresh = run("cached"), run("fresh")
        assert cached[:2] == fresh[:2], case
        assert cached[2].keys() == fresh[2].keys(), case
        assert [n for n, data in fresh[2].items() if cached[2][n] != data] == [], case
        refused += any(fresh[0])
        for name in ("cached", "fresh"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
    assert refused < CASES
