"""The leaderboard: which figures stand in one table, what a row is, and what is said of it."""

from __future__ import annotations

import re
import statistics

import pytest

from pipeline.errors import UserError
from pipeline.report.tables.leaderboard import collect_boards, write_leaderboard
from tests.report.chains import Chain, cells, runs_of
from tests.report.html_page import page_of
from tests.report.measured import write_runs
from tests.report.small_run import CLASSES

pytestmark = pytest.mark.usefixtures("figures_are_current")


def test_rows_are_combinations_ordered_by_the_last_stage_with_the_best_in_bold(tmp_path):
    full = Chain().tags(0.8).cams("sclip", 0.4, affinity=True).masks("crf", 0.5, crf={})
    weaker = Chain().tags(0.8).cams("clip_es", 0.6).masks("pamr", 0.45)
    argmax = Chain().tags(0.8).cams("clip_es", 0.6).masks("crf", 0.6)
    only_cams = Chain("clip").tags(0.9).cams("sclip", 0.7)
    only_tags = Chain("piaa").tags(0.95)
    text = write_leaderboard(runs_of(tmp_path, only_tags, weaker, only_cams, full, argmax))
    assert cells(text) == [
        ["tags", "cams", "affinity", "masks", "mAP", "F1", "mIoU CAMs", "mIoU masks"],
        ["TagCLIP", "CLIP-ES", "no", "argmax", "80.0", "40.0", "60.0", "**60.0**"],
        ["TagCLIP", "SCLIP", "yes", "CRF", "80.0", "40.0", "40.0", "50.0"],
        ["TagCLIP", "CLIP-ES", "no", "PAMR", "80.0", "40.0", "60.0", "45.0"],
        ["CLIP, class token", "SCLIP", "no", "", "90.0", "45.0", "**70.0**", ""],
        ["PIAA", "", "", "", "**95.0**", "**47.5**", "", ""],
    ]


def test_the_best_figure_is_the_largest_number(tmp_path):
    text = write_leaderboard(runs_of(tmp_path, Chain().tags(0.095), Chain("piaa").tags(0.102)))
    assert [row[1] for row in cells(text)] == ["mAP", "**10.2**", "9.5"]


def test_what_all_rows_share_is_in_the_caption_and_what_differs_in_columns(tmp_path):
    first, second = (Chain().tags(v).cams(n, v) for n, v in (("sclip", 0.5), ("gem", 0.4)))
    text = write_leaderboard(runs_of(tmp_path, first, second))
    assert "\n## crowded report, 500 images\n" in text
    assert (
        "split report, 500 images (a1), 2 classes, affinity no, CLIP demo (demo), compat released,"
        " precision fp32, commit c0ffee.\n"
    ) in text
    other = {"clip": "vit_b16", "compat": "clean", "precision": "bf16", "commit": "beef"}
    third = Chain(**other).tags(0.9, alpha=0.7).cams("naclip", 0.9)
    header, best, *_ = cells(write_leaderboard(runs_of(tmp_path, first, second, third)))
    assert header[2:7] == ["CLIP", "compat", "precision", "commit", "settings"]
    assert best[2:7] == ["vit_b16 (demo)", "clean", "bf16", "beef", "tags alpha=0.7"]
    # A row whose stages were computed by two versions names both, the earlier stage's first.
    second.entries[1]["about"]["commit"] = "f00d"
    rows = cells(write_leaderboard(runs_of(tmp_path, first, second)))
    assert [row[2] for row in rows] == ["commit", "c0ffee", "c0ffee / f00d"]


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"image_set": "b2"}, "crowded report, 500 images"),
        ({"images": 100, "image_set": "b2"}, "crowded report, 100 images"),
        ({"split": "choose"}, "crowded choose, 500 images"),
        ({"per_class": {"cat": {}, "cow": {}}}, "crowded report, 500 images"),
    ],
)
def test_figures_of_other_images_never_stand_in_one_table(change, title, tmp_path):
    # The later stage was measured on other images, and so was one of two rows.
    mixed = Chain().tags(0.8).cams("sclip", 0.5, **change)
    same = Chain().tags(0.8).cams("gem", 0.4)
    boards = collect_boards(runs_of(tmp_path, mixed, same))
    assert len(boards) == 2
    tables = {tuple(b.header): (b.title, [list(row) for row in b.rows]) for b in boards}
    expected = [["TagCLIP", "GEM", "80.0", "40.0", "40.0"]]
    whole = tables["tags", "cams", "mAP", "F1", "mIoU CAMs"]
    assert whole == ("crowded report, 500 images", expected)
    assert tables["tags", "cams", "mIoU CAMs"] == (title, [["TagCLIP", "SCLIP", "50.0"]])


def test_other_data_sets_and_conventions_of_labels_have_tables_of_their_own(tmp_path):
    chains = [Chain(**about).tags(0.5) for about in ({}, {"dataset": "x"}, {"data": "masks of y"})]
    boards = collect_boards(runs_of(tmp_path, *chains, shuffled=False)[:3])
    assert len(boards) == 3 and sum("masks of y" in board.caption for board in boards) == 1


def test_there_is_no_leaderboard_of_nothing():
    with pytest.raises(UserError, match="run stage=evaluate first$"):
        write_leaderboard([])


def test_seeds_alone_are_merged_and_the_latest_of_a_key_counts(tmp_path):
    def trained(seed: int, value: float, **about: str) -> Chain:
        chain = Chain(**about).tags(0.8).cams("sclip", 0.5).masks("crf", 0.6, crf={})
        return chain.then("predictions", {"name": "demo", "seed": seed}, miou=value)

    chains = [trained(k, 0.6 + k / 10) for k in range(3)]
    text = write_leaderboard(runs_of(tmp_path, *chains))
    ((*_, last),) = cells(text)[1:]
    assert last == "70.0 ± 10.0 (3 seeds)" and "network" in text
    again = trained(2, 0.9)
    (row,) = cells(write_leaderboard(runs_of(tmp_path, *chains, again, shuffled=False)))[1:]
    assert row[-1] == "73.3 ± 15.3 (3 seeds)"
    # Other images, and other settings, are no seeds of it.
    other = trained(5, 0.1, image_set="b2")
    rows = cells(write_leaderboard(runs_of(tmp_path, *chains, other)))
    assert [row[-1] for row in rows if "demo" in row] == ["70.0 ± 10.0 (3 seeds)", "10.0"]


def test_results_of_several_precisions_are_no_row_and_no_mean_of_one(tmp_path):
    chains = [
        Chain(precision=p).tags(v, split=s).cams("gem", v, split=s)
        for p, s, v in (("auto (bf16)", "easy", 0.8), ("auto (bf16, fp32)", "easy", 0.6))
    ]
    rows = cells(write_leaderboard(runs_of(tmp_path, *chains)))
    assert [row[2:] for row in rows] == [
        ["precision", "mAP", "F1", "mIoU CAMs"],
        ["auto (bf16)", "**80.0**", "**40.0**", "**80.0**"],
        ["auto (bf16, fp32)", "60.0", "30.0", "60.0"],
    ]
    chains.append(
        Chain(precision="auto (bf16)").tags(0.4, split="hard").cams("gem", 0.4, split="hard")
    )
    (row,) = cells(write_leaderboard(runs_of(tmp_path, *chains), ["easy", "hard"]))[1:]
    assert row[-1] == "60.0 ± 28.3"


def test_a_mean_joins_a_correction_with_what_the_same_run_gives_elsewhere(tmp_path):
    """Corrections belong to a split, and are in its keys; another split's keys are without."""
    raw, corrected = (
        Chain(image_set="easy").tags(v, alpha=a, split="easy").cams("gem", v, split="easy")
        for a, v in ((0.5, 0.8), (0.6, 0.9))
    )
    other = Chain(image_set="hard").tags(0.4, split="hard")
    run = {"easy": corrected.names, "hard": other.names}
    for chain in (corrected, other):
        for entry in chain.entries:
            entry["counterparts"] = [run]
    raw.entries[-1]["counterparts"] = [{"easy": raw.names, "hard": ["tags/another"]}]
    runs = runs_of(tmp_path, raw, corrected, other)
    assert [row[-2] for row in cells(write_leaderboard(runs, ["easy"]))] == [
        "F1",
        "**45.0**",
        "40.0",
    ]
    with pytest.raises(UserError, match="no combination"):  # the CAMs of one split are no mean
        write_leaderboard(runs, ["easy", "hard"])
    other.cams("gem", 0.5, split="hard")
    run |= {"hard": other.names}
    other.entries[-1]["counterparts"] = [run]
    (row,) = cells(write_leaderboard(runs_of(tmp_path, raw, corrected, other), ["easy", "hard"]))[
        1:
    ]
    assert row[-3:] == ["65.0 ± 35.4", "32.5 ± 17.7", "70.0 ± 28.3"]


def test_means_over_splits_are_of_what_each_of_them_has(tmp_path):
    def of(split: str, value: float, seeds: int = 1, tagger: str = "tagclip") -> list[Chain]:
        chains = []
        for seed in range(seeds):
            chain = Chain(tagger, image_set=split[::-1]).tags(value, split=split)
            chain = chain.cams("sclip", value, split=split).masks("pamr", 0.5, split=split)
            figures = {"split": split, "miou": value - seed / 10}
            chains.append(chain.then("predictions", {"name": "demo", "seed": seed}, **figures))
        return chains

    both = [*of("report", 0.8, seeds=2), *of("report_2", 0.6, seeds=2)]
    runs = runs_of(tmp_path, *both, *of("report", 0.9, tagger="clip"), *of("choose", 0.1))
    text = write_leaderboard(runs, ["report", "report_2"])
    assert "## crowded report, report_2, 1,000 images\n" in text
    assert "1,000 images (troper 2_troper), 2 classes" in text
    (row,) = cells(text)[1:]
    # Tags are of two splits, and predictions of two splits and two seeds.
    spread = statistics.stdev([0.8, 0.7, 0.6, 0.5])
    assert row[-5:-1] == ["70.0 ± 14.1", "35.0 ± 7.1", "70.0 ± 14.1", "50.0 ± 0.0"]
    assert row[-1] == f"65.0 ± {100 * spread:.1f} (2 seeds)"
    # Where a split has two sets of images, there is a table for each.
    fewer = Chain(image_set="few").tags(0.4, split="report_2", images=9)
    text = write_leaderboard([*runs, *runs_of(tmp_path, fewer)], ["report_2"])
    assert [*re.findall("## .*", text)] == [
        "## crowded report_2, 500 images",
        "## crowded report_2, 9 images",
    ]
    with pytest.raises(UserError, match="splits report, val: run .*dataset"):
        write_leaderboard(runs, ["report", "val"])


def test_image_labels_that_are_given_are_no_measurement_and_win_nothing(tmp_path):
    told = Chain("ground_truth").tags(1.0).cams("sclip", 0.9)
    chains = [told, *(Chain(t).tags(v).cams("sclip", v) for t, v in (("clip", 0.5), ("piaa", 0.6)))]
    text = write_leaderboard(runs_of(tmp_path, *chains))
    assert cells(text)[1:] == [
        ["ground_truth†", "SCLIP", "", "", "90.0"],
        ["PIAA", "SCLIP", "**60.0**", "**30.0**", "**60.0**"],
        ["CLIP, class token", "SCLIP", "50.0", "25.0", "50.0"],
    ]
    assert "\n† its tags are the ground truth's" in text


def test_a_supervised_network_is_counted_and_is_not_a_row(tmp_path):
    plain = Chain().tags(0.8).masks("crf", 0.5).then("predictions", {"seed": 0}, miou=0.6)
    other = Chain("").then("predictions", {"seed": 0}, miou=0.9, supervised=True)
    text = write_leaderboard(runs_of(tmp_path, plain, other))
    assert " 60.0 |" in text and "90.0" not in text
    assert "Left out are 1 result of networks that were trained on the ground truth." in text
    with pytest.raises(UserError, match="but networks that were trained on"):
        write_leaderboard(runs_of(tmp_path, other))


def test_notes_say_what_the_ground_truth_chose(tmp_path):
    chosen = {"background_beta": 2.0, "chosen_by_ground_truth": {"1": 0.1, "2": 0.5}}
    text = write_leaderboard(runs_of(tmp_path, Chain().tags(0.8).cams("sclip", 0.5, **chosen)))
    assert " 50.0† |" in text and "† background chosen by ground truth (β=2)" in text


def test_rows_that_nothing_named_tells_apart_have_their_keys(tmp_path):
    one, other = Chain().tags(0.8), Chain().tags(0.7)
    other.entries[0] |= {"key": "k2", "configuration": {**one.settings, "clip": {"weights": "f1"}}}
    rows = cells(write_leaderboard(runs_of(tmp_path, one, other)))
    assert rows[0] == ["tags", "key", "mAP", "F1"] and rows[2][1] == "k2"


def test_the_page_shows_several_combinations_and_marks_its_own(build):
    inputs = build(["a", "b"], CLASSES)
    chains = [Chain().tags(v, alpha=v) for v in (0.5, 0.7)]
    chains[0].entries[0] |= {"key": inputs.results["tags"].key, "split": "val"}
    chains[1].entries[0]["split"] = "val"
    chains[1].entries[0]["about"]["tags"] = "<b>mine</b>"
    write_runs(inputs.root / "metrics.json", chains[0].entries[0], chains[1].entries[0])
    page = page_of(inputs)
    section = page.html.partition('<section id="leaderboard"')[2].partition("</section>")[0]
    rows = re.findall(r"<tr>.*?</tr>", section)
    assert "<bdi>TagCLIP</bdi>" in rows[2] and "on this page" in rows[2]
    assert "<strong>70.0</strong>" in rows[1] and "on this page" not in rows[1]
    assert "&lt;b&gt;mine" in rows[1] and 'href="#leaderboard"' in page.html
    write_runs(inputs.root / "metrics.json", chains[0].entries[0])
    alone = page_of(inputs)
    assert 'id="leaderboard"' not in alone.html and 'href="#leaderboard"' not in alone.html


def test_masks_without_tags_name_the_method_that_they_read_out(tmp_path):
    dense = Chain("").masks("dense", 0.7)
    dense.entries[-1]["configuration"] |= {"cams": {"method": "naclip"}}
    usual = Chain().tags(0.8).cams("sclip", 0.5).masks("crf", 0.6, crf={})
    text = write_leaderboard(runs_of(tmp_path, dense, usual))
    assert "\n† label maps with the image size, templates and windows of their authors" in text
    assert cells(text)[1:] == [
        ["", "NACLIP", "", "dense†", "", "", "", "**70.0**"],
        ["TagCLIP", "SCLIP", "no", "CRF", "80.0", "40.0", "50.0", "60.0"],
    ]


def test_figures_against_other_ground_truth_never_stand_in_one_table(tmp_path):
    chains = [
        Chain()
        .tags(0.8)
        .cams(cams, value, ground_truth=truth)
        .masks("par", 0.5, ground_truth=truth)
        for cams, value, truth in (("sclip", 0.4, "0ld"), ("gem", 0.6, "new"))
    ]
    boards = collect_boards(runs_of(tmp_path, *chains))
    assert sorted(row[1] for board in boards for row in board.rows) == ["GEM", "SCLIP"]
    # Their tags were measured against the same labels.
    assert len(boards) == 2 and all(board.rows[0][3] == "80.0" for board in boards)
    found = sorted(re.search(r"ground truth labels and (\w+),", b.caption)[1] for b in boards)
    assert found == ["0ld", "new"]
    # The same CAMs, measured again after the masks were corrected, are not those of the old masks.
    again = Chain().tags(0.8).cams("sclip", 0.1, ground_truth="new")
    boards = collect_boards(runs_of(tmp_path, chains[0], again, shuffled=False))
    assert [[cell for cell in board.rows[0] if "." in cell] for board in boards] == [
        ["80.0", "40.0", "40.0", "50.0"],
        ["80.0", "40.0", "10.0"],
    ]


def test_figures_are_joined_only_if_one_result_was_made_from_the_other(tmp_path):
    def measure(tags: float, learned: str, cams: str, from_tags: str) -> Chain:
        chain = Chain("piaa").tags(tags, results=learned)
        return chain.cams(cams, 0.4, results=cams, read={"tags": from_tags})

    # The prototypes were learned again between the two, under the same settings.
    before = measure(0.8, "first", "sclip", "first").masks("par", 0.5, read={"cams": "sclip"})
    after = measure(0.9, "second", "gem", "second").masks("par", 0.6, read={"cams": "gem"})
    assert cells(write_leaderboard(runs_of(tmp_path, before, after, shuffled=False)))[1:] == [
        ["PIAA", "GEM", "PAR", "90.0", "45.0", "40.0", "**60.0**"],
        ["PIAA", "SCLIP", "PAR", "", "", "40.0", "50.0"],
    ]


def test_a_split_with_more_seeds_does_not_count_more(tmp_path):
    def trained(split: str, seed: int, value: float, network: str) -> Chain:
        chain = Chain(image_set=split).tags(0.8, split=split).cams("gem", 0.4, split=split)
        chain, settings = chain.masks("par", 0.5, split=split), {"name": network, "seed": seed}
        return chain.then("predictions", settings, {"segmenter": network}, split=split, miou=value)

    chains = [trained("easy", k, 0.8, "a") for k in range(3)] + [trained("hard", 0, 0.4, "a")]
    chains += [trained("easy", 0, 0.82, "b"), trained("hard", 0, 0.42, "b")]
    # The splits do not share a seed of this network, so it is left out.
    chains += [trained("easy", 1, 0.9, "c"), trained("hard", 2, 0.9, "c")]
    rows = cells(write_leaderboard(runs_of(tmp_path, *chains), ["easy", "hard"]))[1:]
    assert [row[-1] for row in rows] == ["**62.0 ± 28.3**", "60.0 ± 28.3"]


def test_a_later_round_has_the_words_of_its_own_results(tmp_path):
    def relabelled(seed: int, first_tags: str) -> list[Chain]:
        first = {"tags": {"method": first_tags}, "method": "gem", "affinity": True}
        masks = {"method": "crf", "crf": {}, "cams": first}
        before = {"name": "demo", "seed": seed, "data": "the same", "masks": masks}
        later = {"method": "segmenter", "segmenter": before}
        about = {"cams": "gem", "masks": "crf", "round": "2", "segmenter": "demo"}
        tags = Chain("segmenter", **about).then("tags", later, map=0.7, f1=0.9)
        trained = {"name": "demo", "seed": seed, "data": f"of seed {seed}", "masks": later}
        predicted = Chain(first_tags, **{**about, "masks": "segmenter"})
        return [tags, predicted.then("predictions", trained, miou=0.5 + seed / 10)]

    chains = [chain for seed in (0, 1) for chain in relabelled(seed, "tagclip")]
    header, *rows = cells(write_leaderboard(runs_of(tmp_path, *chains)))
    found = [dict(zip(header, row)) for row in rows]
    assert [row["mIoU segmenter"] for row in found] == ["55.0 ± 7.1 (2 seeds)", ""]
    assert (found[1]["tags"], found[1]["cams"], found[1]["masks"]) == ("segmenter", "", "")
    header, *rows = cells(write_leaderboard(runs_of(tmp_path, *relabelled(0, "ground_truth"))))
    assert [dict(zip(header, row))["tags"] for row in rows] == ["ground_truth†", "segmenter†"]
    assert "mAP" not in header and not any("**" in cell for row in rows for cell in row)
