"""The generated tables of docs/ follow from the configurations and the published figures."""

from __future__ import annotations

import pytest

from docs.tables import PAGES, TABLES, fill, markdown, outdated, published_presets


def test_every_table_is_up_to_date():
    assert [page.name for page, _ in outdated()] == [], "type python -m docs.tables"


def test_every_table_is_on_a_page():
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in TABLES if f"<!-- generated: {name} -->" not in texts] == []


def test_a_changed_cell_is_found():
    text = PAGES[0].read_text(encoding="utf-8")
    assert fill(text.replace("| 59.63 |", "| 60.63 |").replace("`tagclip`", "`clip`")) == fill(text)
    assert fill(text) == text


def test_every_published_preset_is_listed():
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [preset.name for preset in published_presets() if f"`{preset.name}`" not in texts] == []


@pytest.mark.parametrize(
    "measured",
    ["| `cls_seg_voc2012` | TagCLIP CLS-SEG + CRF | mIoU of masks, VOC 2012 val | 68.7 (68.6) |"]
    + ["precision / recall / F1 of tags, VOC 2012 val | 92.5 / 77.1 / 84.1 |"]
    + ["precision / recall / F1 of tags, COCO 2017 val | 78.6 / 41.3 / 54.1 |"],
)
def test_the_page_of_published_results_prints_what_a_reader_may_expect(measured):
    assert measured in (PAGES[1]).read_text(encoding="utf-8")


def test_numbers_are_right_aligned_and_empty_cells_are_dashes():
    assert markdown(("a", "b, %"), [("", "1.0")]) == "| a | b, % |\n| --- | ---: |\n| – | 1.0 |\n"
