"""What methods return is checked before it is stored, and a method that fails is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import Labeller
from pipeline.configuration.plugins import import_plugins
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.plugins.colour_cams import ChannelCams
from tests.plugins.colour_tagger import ColourTagger
from tests.plugins.superpixels import Superpixels

PLUGINS = [f"tests.plugins.{name}" for name in ("colour_tagger", "colour_cams", "superpixels")]
STAGES = ["tags", "cams", "masks"]
METHODS = {
    ColourTagger: "tags=colour",
    ChannelCams: "cams=channel",
    Superpixels: "masks=superpixels",
}
CHOICES = [*METHODS.values()]


@pytest.fixture
def run(photographs: Path, tmp_path: Path) -> Callable[[], None]:
    """Runs three methods of one's own on five photographs."""
    import_plugins(PLUGINS)
    given = ["dataset=folder", f"dataset.root={photographs}", "dataset.classes=[red,green,blue]"]
    given += ["clip=file", "clip.checkpoint=none", *CHOICES, f"output_dir={tmp_path / 'out'}"]
    config = read_config(compose([*given, "runtime.workers=1"]))

    def run() -> None:
        pipeline = Pipeline.open(config)
        for _ in pipeline.run(STAGES):
            pass

    return run


def gives(value: object) -> Callable[..., object]:
    """Returns what a method may be replaced by: it returns a value, whatever it is given."""
    return lambda *_: value


def scores(*values: float) -> Callable[..., np.ndarray]:
    return gives(np.array(values, np.float32))


def cams(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda self, image, tags: change(np.full((len(tags), 4, 4), 0.5, np.float32))


def masks(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., tuple]:
    return lambda self, image, cams: (change(np.zeros(cams.size, np.uint8)), None)


def lists(self: object, images: Iterable[tuple], *_: object) -> Iterator[tuple]:
    """Yields a list for each image, in place of a Scored."""
    return ((name, [1]) for name, _ in images)


TAGGER, CAMS, REFINER = (ColourTagger, "scores"), (ChannelCams, "cams"), (Superpixels, "__call__")
WRONG = {  # for masks see also tests/masks/test_stage.py
    "too few scores": (*TAGGER, scores(0.5, 1), "2 scores for 3 classes"),
    "a score alone": (*TAGGER, gives(np.float32(1)), "one scores for 3"),
    "NaN scores": (*TAGGER, scores(0, np.nan, 1), "scores that are not finite"),
    "infinite scores": (*TAGGER, scores(0, np.inf, 1), "scores that are not finite"),
    "a generator": (*TAGGER, gives(k for k in "abc"), "scores that are not an"),
    "names": (*TAGGER, gives(["red", "0.5", "1"]), "scores that are not an array"),
    "complex scores": (*TAGGER, gives(np.ones(3, complex)), "scores that are not"),
    "no Scored": (ColourTagger, "stream", lists, "no"),
    "large scores": (*TAGGER, scores(0, 3, 1), "scores from 0 to 3, which"),
    "too few CAMs": (*CAMS, cams(lambda c: c[1:]), "CAMs of shape "),
    "flat CAMs": (*CAMS, cams(lambda c: c[..., 0]), "CAMs of shape "),
    "no cells": (*CAMS, cams(lambda c: c[..., :0]), "CAMs of shape "),
    "NaN CAMs": (*CAMS, cams(lambda c: c * np.nan), "CAMs that are not finite"),
    "large CAMs": (*CAMS, cams(lambda c: c * 20), "CAMs from 10 to 10, which"),
    "negative CAMs": (*CAMS, cams(lambda c: -c), "CAMs from -0.5 to -0.5, which"),
    "no CAMs": (*CAMS, gives(None), "CAMs that are not an array"),
    "complex CAMs": (*CAMS, cams(lambda c: c * 1j), "CAMs that are not an array of"),
    "labels alone": (*REFINER, gives(np.zeros((90, 70), np.uint8)), "ndarray, not"),
    "nothing": (*REFINER, gives(None), "NoneType, not labels and their probab"),
    "text": (*REFINER, gives("ab"), "str, not labels and their probability or"),
    "a list as labels": (*REFINER, gives(([[0]], None)), "labels of type list"),
    "a mask of floats": (*REFINER, masks(lambda m: m / 1), "labels of type float64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_not_stored(name, run, monkeypatch, tmp_path):
    method, function, wrong, sentence = WRONG[name]
    monkeypatch.setattr(method, function, wrong)
    choice = METHODS[method]
    with pytest.raises(UserError, match=f"{choice} returned {sentence}.* for image a: correct the"):
        run()
    stage = choice.partition("=")[0]
    journals = list((tmp_path / "out" / "all" / stage).glob("*/entries.jsonl"))
    assert not any(journal.read_bytes() for journal in journals)
    # Python's single images take the same way.
    overrides = [*CHOICES, "images.longest_side=null"]
    labeller = Labeller(["red", "green", "blue"], clip="demo", plugins=PLUGINS, overrides=overrides)
    with pytest.raises(UserError, match=f"{choice} returned {sentence.partition(' of shape')[0]}"):
        labeller(np.full((90, 70, 3), 200, np.uint8))


@pytest.mark.parametrize(("method", "function"), [TAGGER, CAMS, REFINER])
def test_a_method_that_fails_is_named_with_its_image(method, function, run, monkeypatch):
    right, seen = getattr(method, function), []

    def fail(self, *given):
        seen.append(given)
        if len(seen) == 3:
            raise ZeroDivisionError("of its own")
        return right(self, *given)

    monkeypatch.setattr(method, function, fail)
    choice = METHODS[method]
    with pytest.raises(ZeroDivisionError) as caught:
        run()
    assert caught.value.__notes__ == [f"{choice} failed on image c"]


@pytest.mark.parametrize(
    ("method", "function"), [(ColourTagger, "__init__"), TAGGER, CAMS, REFINER]
)
def test_a_method_does_not_end_the_program(method, function, run, monkeypatch):
    monkeypatch.setattr(method, function, lambda *_: sys.exit(0))
    choice = METHODS[method]
    with pytest.raises(UserError, match=rf"{choice} ended the program \(SystemExit: 0\)"):
        run()
    labeller = Labeller(["red", "green", "blue"], clip="demo", plugins=PLUGINS, overrides=CHOICES)
    with pytest.raises(UserError, match=f"{choice} ended the program"):
        labeller(np.full((90, 70, 3), 200, np.uint8))


def test_a_stage_does_not_end_the_program(run, monkeypatch):
    """Such as one that learns, which no method computes image by image."""
    monkeypatch.setattr(Run, "_run_per_image", lambda *_: sys.exit())
    with pytest.raises(UserError, match="stage=tags ended the program"):
        run()


def test_a_tagger_that_passes_over_an_image_is_refused(run, monkeypatch):
    monkeypatch.setattr(ColourTagger, "stream", lambda self, images, variants: list(images)[:0])
    with pytest.raises(UserError, match="colour returned .* a, b, c, d, hol"):
        run()
