"""Each method's averages over a full product of the others."""

from __future__ import annotations

import statistics

from pipeline.configuration.registry import label_of
from pipeline.report.tables.leaderboard import collect_boards, write_leaderboard
from tests.report.chains import Chain, runs_of


def product_of(figures: dict[tuple[str, str, str], float]) -> list[Chain]:
    return [
        Chain(tags).tags(0.8 if tags == "tagclip" else 0.6).cams(cams, value).masks(masks, value)
        for (tags, cams, masks), value in figures.items()
    ]


def test_a_full_product_has_the_mean_of_every_method_over_all_others(tmp_path):
    figures = {
        (tags, cams, masks): 0.1 * len(cams) + {"clip": 0.01, "tagclip": 0.03}[tags] + refined
        for tags in ("clip", "tagclip")
        for cams in ("gem", "sclip")
        for masks, refined in (("par", 0.02), ("pamr", 0.0), ("regions", 0.001))
    }
    (board,) = collect_boards(runs_of(tmp_path, *product_of(figures)))
    assert len(board.rows) == 12
    assert board.averages.header == [
        *("part", "method", "mAP", "F1", "mIoU CAMs", "mIoU masks", "best mIoU masks")
    ]
    values = list(figures)

    def expected(part: int, method: str) -> tuple[str, str]:
        found = [figures[key] for key in values if key[part] == method]
        return f"{100 * statistics.mean(found):.1f}", f"{100 * max(found):.1f}"

    # A figure is left out where it does not depend on the part.
    for part, (name, row) in enumerate([("tags", "tagclip"), ("cams", "sclip"), ("masks", "pamr")]):
        (found,) = [r for r in board.averages.rows if r[:2] == [name, label_of(name, row)]]
        assert (found[-2], found[-1]) == expected(part, row)
        assert [cell == "" for cell in found[2:6]] == [i < (0, 2, 3)[part] for i in range(4)]
    assert [row[:2] for row in board.averages.rows] == [
        *(["tags", "TagCLIP"], ["tags", "CLIP, class token"]),
        *(["cams", "SCLIP"], ["cams", "GEM"]),
        *(["masks", "PAR"], ["masks", "regions"], ["masks", "PAMR"]),
    ]
    text = write_leaderboard(runs_of(tmp_path, *product_of(figures)))
    assert "### Each method, averaged over all others" in text
    figures.popitem()
    (board,) = collect_boards(runs_of(tmp_path, *product_of(figures)))
    assert board.averages is None
    assert "averaged" not in write_leaderboard(runs_of(tmp_path, *product_of(figures)))


def test_one_method_that_varies_has_no_averages_beside_its_rows(tmp_path):
    runs = product_of({("clip", cams, "crf"): 0.1 for cams in ("gem", "sclip", "naclip")})
    (board,) = collect_boards(runs_of(tmp_path, *runs))
    assert len(board.rows) == 3 and board.averages is None


def test_more_than_the_four_parts_may_not_vary_in_averages(tmp_path):
    figures = {("clip", c, m): 0.1 for c in ("gem", "sclip") for m in ("par", "pamr")}
    chains = product_of(figures)
    (board,) = collect_boards(runs_of(tmp_path, *chains))
    assert len(board.averages.rows) == 4
    # sclip has another threshold before it.
    other = [
        Chain("clip").tags(0.6, alpha=0.2 if c == "sclip" else 0.5).cams(c, v).masks(m, v)
        for (_, c, m), v in figures.items()
    ]
    (board,) = collect_boards(runs_of(tmp_path, *other))
    assert len(board.rows) == 4 and board.averages is None


def test_given_labels_are_no_part_of_averages(tmp_path):
    figures = {("clip", c, m): 0.1 * len(c) for c in ("gem", "sclip") for m in ("par", "pamr")}
    (alone,) = collect_boards(runs_of(tmp_path, *product_of(figures)))
    given = {("ground_truth", c, m): 0.9 for _, c, m in figures}
    (board,) = collect_boards(runs_of(tmp_path, *product_of(figures | given)))
    assert len(board.rows) == 8 and board.averages == alone.averages
