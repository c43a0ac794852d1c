"""Figures of networks: those of a run, what is kept of them, and rows of the page."""

from __future__ import annotations

import json

import pytest

from docs import networks
from docs.networks import main, networks_table, read_kept
from tests.report.measured import measured, write_runs

USUAL = {"iterations": 200, "enlarge": "1", "decoder": "tokens", "crop_size": 192, "seed": 0}
USUAL |= {"scale_range": [0.75, 1.5], "learning_rate": 1e-3, "pretrained": "clip", "backbone": None}
LATER = {"refine": True, "keep_tags": True}


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    path.write_text("[]")
    monkeypatch.setattr(networks, "KEPT", path)
    return path


@pytest.fixture
def results(tmp_path):
    """Writes results of frozen_clip on the demo; returns the folder."""

    def results(*runs):
        entries = []
        for number, (stage, miou, changes) in enumerate(runs):
            about = {"dataset": "demo", "segmenter": "frozen_clip"}
            about |= {"round": changes.pop("round", "")}
            figures = {"supervised": changes.pop("supervised", False)}
            steps = changes.pop("variants", {})
            test = {"crf": {"iterations": 10} if steps else None, "scales": [1.0]}
            entry = measured(stage, "val", 150, about, miou=miou, variants=steps, **figures)
            chain = {"segmenter": USUAL | changes | {"masks": LATER}}
            if stage == "masks":  # of a later round a network's
                chain = {**(chain if about["round"] else {}), **LATER}
            entry["configuration"] = chain
            entry["settings"] = {"segmenter": {"test": test}}
            entries.append({**entry, "key": str(number)})
        return str(write_runs(tmp_path / "out" / "metrics.json", *entries).parent)

    return results


def rows() -> list[tuple[str, str]]:
    return [(masks, f"{words}: {demo}") for _, masks, words, demo, *_ in networks_table()[1]]


def test_a_repeated_figure_is_compared_with_the_one_that_is_kept(results, capsys):
    main([results(("predictions", 0.87, {})), "--write"])
    assert "87.0 (new)" in capsys.readouterr().out
    main([results(("predictions", 0.88, {}))])
    assert "88.0 (+1.00)" in capsys.readouterr().out
    assert [record["miou"] for record in read_kept().values()] == [87]


def test_a_row_is_the_mean_over_seeds_and_names_what_changed(results):
    seeds = (("predictions", miou, {"seed": seed}) for seed, miou in enumerate((0.8, 0.9)))
    longer = "predictions", 0.91, {"iterations": 400}
    main([results(*seeds, longer), "--write"])
    assert rows() == [("published", ": 85.0 ± 7.1 (2)"), ("published", "`iterations=400`: 91.0")]


def test_steps_rounds_and_given_masks_have_rows_of_their_own(results):
    refined = "predictions", 0.9, {"variants": {"single_scale": {"miou": 0.8}}}
    later = ("masks", 0.7, {"round": 2}), ("predictions", 0.71, {"round": 2})
    main([results(refined, *later, ("predictions", 0.95, {"supervised": True})), "--write"])
    rounds = "`rounds=2`, `refine=true`"
    assert rows() == [
        ("ground truth", ": 95.0"),
        ("published", ": 80.0"),
        ("published", f"{rounds}: 71.0"),
        ("published", f"{rounds}, masks of the last round: 70.0"),
        ("published", "with the CRF: 90.0"),
    ]


def test_figures_are_kept_one_a_line(results, kept):
    first = results(("masks", 0.8, {}), ("predictions", 0.8, {}), ("predictions", 0.9, {"seed": 1}))
    main([first, "--write"])
    lines = kept.read_text().splitlines()[1:-1]
    assert [json.loads(line.strip(","))["seed"] for line in lines] == [0, 1]
