"""The calibration of scores against a search over all thresholds, and its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.sample import Sample
from pipeline.evaluation.measures import EvaluationInputs, evaluate_tags
from pipeline.evaluation.metrics import best_threshold, calibration_figures
from pipeline.tags.scores import tags_output
from tests.report.measured import tables_of
from tests.results import open_writer, write


def naive_f1(chosen: list[bool], present: list[bool]) -> float:
    hits = sum(c and p for c, p in zip(chosen, present))
    return 2 * hits / (sum(chosen) + sum(present))


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better_than_the_best_one(seed: int):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    scores = rng.normal(size=count).round(0 if seed % 2 else 6)  # every other time with ties
    present = rng.random(count) < 0.4
    present[rng.integers(count)] = True
    threshold, f1 = best_threshold(scores, present)
    candidates = [naive_f1([s >= cut for s in scores], present) for cut in {*scores}]
    assert f1 == pytest.approx(max(candidates))
    assert naive_f1([s > threshold for s in scores], present) == pytest.approx(f1)


def test_a_class_without_positives_has_no_calibration():
    scores = np.array([[0.5, 2.0], [-0.5, 1.0], [0.0, 3.0]])
    positive = np.array([[True, False], [True, False], [False, False]])
    found = calibration_figures(scores, positive, scores > 0.25, ["cat", "cup"])
    assert found["per_class"] == {
        "cat": {
            "precision": 1,
            "recall": 1 / 2,
            "f1": pytest.approx(2 / 3),
            "best_threshold": -1,
            "best_f1": pytest.approx(4 / 5),
        }
    }
    assert found["f1"] == 1 / 2, "of both classes together, with all six above the threshold"
    nothing = calibration_figures(scores, positive & False, scores > 0, ["cat", "cup"])
    assert nothing == {"threshold": None, "f1": None, "per_class": {}}


def test_it_is_measured_where_scores_are_standardised(tmp_path: Path):
    vocabulary = build_vocabulary(VocabularySettings(classes=["cat", "cup"]))
    rows = {"a": [1.2, -0.3], "b": [0.4, 1.1], "c": [-1.0, 0.2]}
    samples = [
        Sample(image_id, tmp_path / image_id, labels=labels)
        for image_id, labels in {"a": (0,), "b": (0, 1), "c": ()}.items()
    ]

    def measure(*names: str) -> dict:
        with open_writer(tmp_path / "-".join(names), "val", "tags", {}) as folder:
            for image_id, values in rows.items():
                facts = tags_output([], {name: np.array(values) for name in names}).values
                tags = [k for k, value in enumerate(values) if value > 1]
                write(folder, image_id, {"photograph": "input"}, {}, **{**facts, "tags": tags})
        return evaluate_tags(EvaluationInputs(samples, folder.results, vocabulary))

    assert "calibration" not in measure("scores")
    figures = measure("scores", "z")
    text = tables_of(tmp_path, tags=figures)
    assert "## Calibration of the standardised scores, val" in text
    assert "| cat | 2 | 100.0 | 50.0 | 66.7 | -0.30 | 100.0 |" in text
    assert "| cup | 1 | 100.0 | 100.0 | 100.0 | 0.65 | 100.0 |" in text
    assert "| all, one z | 3 | 100.0 | 66.7 | 80.0 | 0.30 | 100.0 |" in text
