"""The page: what it holds, what it escapes, and what it does without."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import Cams, encode_cams
from pipeline.engine.sample import Sample
from pipeline.engine.store import Store
from pipeline.engine.writer import Writer
from pipeline.errors import UserError
from pipeline.evaluation.about import About
from pipeline.evaluation.record import MetricsFile
from pipeline.files.images import encode_png
from pipeline.report.page.gallery import build_cards, choose_images
from pipeline.report.page.images import measure_images
from pipeline.report.page.page import write_page, write_report
from pipeline.report.page.settings import ReportSettings
from pipeline.tags.scores import tags_output
from tests.report.html_page import Page, page_of
from tests.report.measured import KNOWN, write_runs
from tests.report.small_run import CLASSES, HOSTILE_CLASSES, HOSTILE_IDS, PALETTE
from tests.results import open_writer

IDS = [f"holiday/{k}" for k in range(6)]


def test_one_file_holds_every_image_with_all_that_was_computed(build):
    page = page_of(build(IDS, CLASSES))
    assert len(page.find("li", **{"class": "card"})) == len(IDS)
    layers = [a["data-layer"] for a in page.find("figure") if "data-layer" in a]
    for layer in ("photograph", "argmax", "mask", "prediction", "truth"):
        assert layers.count(layer) == len(IDS), layer
    for layer in ("mask-truth", "prediction-truth", "mask-prediction"):
        assert layers.count(layer) == len(IDS), layer
    assert layers.count("cam") == 7, "one for every tag: two of six images have two, one has none"
    assert "no tag" in page.text
    for verdict in ("✓ right", "✗ wrong", "○ missed"):
        assert verdict in page.text


def test_nothing_is_fetched_and_no_other_script_may_run(build):
    page = page_of(build(IDS[:2], CLASSES))
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            if name in attributes:
                assert re.match(r"(data:|#)", attributes[name]), (tag, attributes[name][:80])
    assert "url(http" not in page.html and "@import" not in page.html
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy["content"]


def test_names_and_reasons_are_escaped(build):
    failures = {"<i>x</i>": "cannot be read: <script>hacked=1</script>"}
    page = page_of(build(HOSTILE_IDS, HOSTILE_CLASSES, failures=failures))
    assert len(page.find("script")) == 1, "ours"
    assert len(page.find("style")) >= 1 and not page.find("b") and not page.find("i")
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    for name in (*HOSTILE_CLASSES, *HOSTILE_IDS[:3], *failures, *failures.values()):
        assert name in page.text
    assert "d\\udcff" in page.text, "a file name that is not Unicode"


def test_control_characters_of_names_are_visible(build):
    page = page_of(
        build(["e\x01f\x1b[31mg", "a\nb\x85c"], CLASSES, failures={"\x07": "cut\x7f off"})
    )
    text = page.html.replace("\n", "").replace("\t", "")
    assert not [c for c in text if unicodedata.category(c) == "Cc"]
    for name in (r"e\x01f\x1b[31mg", r"a\x0ab\x85c", r"\x07", r"cut\x7f off"):
        assert name in page.text


def test_an_image_that_several_stages_left_out_is_listed_once(build):
    inputs = build(IDS, CLASSES, failures={"broken": "cannot be decoded", "x": "is gone"})
    inputs.results["predictions"].failures |= {"broken": "cannot be decoded", "x": "is too small"}
    rows = re.findall(r"<tr>.*</tr>", page_of(inputs).html.partition('class="failures"')[2])
    assert [re.sub(r"(<[^>]+>)+", "|", row).strip("|") for row in rows[1:]] == [
        "broken|tags, predictions|val|cannot be decoded",
        "x|tags|val|is gone",
        "x|predictions|val|is too small",
    ]


def test_a_grey_label_is_drawn_in_a_colour_that_its_legend_shows(build):
    page = page_of(build(IDS, [*CLASSES, "hat", "box", "jar", "mug"]))
    swatches = [a["style"] for a in page.find("span", **{"class": "swatch"}) if "style" in a]
    assert "background:#ff80ff" in swatches and "background:#808080" not in swatches


def test_a_folder_without_labels_has_no_word_of_ground_truth(build):
    page = page_of(build(IDS, CLASSES, truth=False))
    layers = {a.get("data-layer") for a in page.find("figure")}
    assert {"mask", "prediction", "mask-prediction"} <= layers
    assert not {"truth", "mask-truth", "prediction-truth"} & layers
    assert "Nothing was measured" in page.text
    assert "✗ wrong" not in page.text and "mask IoU" not in page.text
    assert not page.find("section", id="confusions")


def test_before_the_segmenter_only_what_exists_is_shown(build):
    page = page_of(build(IDS, CLASSES, trained=False))
    layers = {a.get("data-layer") for a in page.find("figure")}
    assert {"cam", "argmax", "mask", "mask-truth"} <= layers
    assert not {"prediction", "mask-prediction"} & layers
    assert "prediction IoU" not in page.text


def test_without_a_crf_there_is_one_mask(build):
    page = page_of(build(IDS, CLASSES, argmax_title=None, mask_title="mask"))
    layers = {a.get("data-layer") for a in page.find("figure")}
    assert "mask" in layers and "argmax" not in layers


def test_what_is_damaged_is_listed_and_the_others_are_shown(build):
    inputs = build(IDS, CLASSES)
    (inputs.results["cams"].path / f"{IDS[0]}.npz").write_bytes(b"damaged")
    (inputs.results["masks"].path / f"{IDS[1]}.png").unlink()
    (inputs.results["predictions"].path / f"{IDS[2]}.png").write_bytes(b"damaged")
    inputs.samples[3].image.write_bytes(b"damaged")
    page = page_of(inputs)
    assert len(page.find("li", **{"class": "card"})) == len(IDS) - 4
    assert "its CAMs are damaged: run stage=cams again" in page.text
    assert page.text.count("run the stage that writes it again") == 1
    for image_id in IDS[:4]:
        assert image_id in page.text.partition("Images that a stage, or this page, left out")[2]


def test_headings_do_not_skip_and_every_picture_has_a_text(build):
    page = page_of(build(IDS, CLASSES))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    assert all("alt" in attributes for attributes in page.find("img"))
    over = [a for a in page.find("img", **{"class": "over"}) if "src" in a]
    assert over and all(a["alt"] for a in over)
    texts = [a["alt"].replace("\N{NO-BREAK SPACE}", " ") for a in over]
    assert "ground truth: cat 25.0 %, background 75.0 %" in texts
    assert "prediction against ground truth: no difference" in texts
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag in ("main", "nav", "header"):
        assert page.find(tag)
    assert all("scope" in a for a in page.find("th"))
    assert page.find("p", id="count", **{"aria-live": "polite"})
    fields = {a["id"] for tag in ("input", "select") for a in page.find(tag)}
    assert {"query", "class", "sort", "layer", "mark"} <= fields


def test_stages_are_told_from_their_manifests(build):
    inputs = build(IDS, CLASSES)
    page = page_of(inputs)
    for folder in inputs.stages:
        assert folder.key in page.text
    assert "val" in page.text and "numpy" in page.text
    assert inputs.results["tags"].manifest["versions"]["numpy"] in page.text
    assert page.find("code", title=f"val/tags/{inputs.results['tags'].key}")
    words = " ".join(page.text.split())
    assert "unfinished" not in words
    for stage in ("tags", "cams", "masks", "predictions"):
        assert f"{stage}6 images · " in words
        assert f"{stage} val6 6 6 / 0 6 –" in words, "6 computed, none from the cache, no failure"


def test_counts_say_images_of_what_and_a_segmenter_is_named_if_there_is_one(build):
    inputs = build(IDS, CLASSES, about=About(dataset="test", segmenter="tiny"))
    assert "tiny" not in page_of(inputs).text, "none was trained"
    store, networks = Store(inputs.root), []
    for seed in (0, 1):
        networks.append(open_writer(store, "", "segmenter", {"seed": seed}))
        with networks[-1] as folder:
            folder.write_manifest(complete=True, images=400, seconds=60.0)
    again = open_writer(store, "val", "masks", {"round": 2})
    with again as folder:
        folder.write_manifest(complete=True, images=6)
    stages = [*inputs.stages, *(writer.results for writer in (again, *networks))]
    page = page_of(replace(inputs, stages=stages, splits=("train", "val")))
    words = " ".join(page.text.split())
    assert "segmenter400 images, twice trained · 2 min" in words
    assert "masks6 images of val, twice computed · " in words
    assert "tags6 images of val · " in words
    assert "tiny" in words
    assert "1 of 6 images got no tag." in words


def test_figures_of_the_shown_folders_stand_beside_split_and_images(build):
    inputs = build(IDS, CLASSES)
    figures = {
        "images": 6, "map": 0.9, "f1": 0.8, "precision": 0.7, "recall": 0.6,
        "per_class": {"cat": {"ap": 0.912, "positives": 2}, "dog": {"ap": 0.0, "positives": 0}},
    }  # fmt: skip
    named = {"stage": "tags", "split": "val", "about": {}, "configuration": {}, **KNOWN}
    runs = [
        {**named, "key": inputs.results["tags"].key, **figures},
        {**named, "key": "another", **figures, "map": 0.111, "image_set": "b2"},
    ]
    write_runs(inputs.root / "metrics.json", *runs, tags=figures)
    page = page_of(inputs)
    words = " ".join(page.text.split())
    assert "tags 90.0 % mAP, val, 6 images" in words and "11.1" not in words
    assert "cat 2 2 91.2" in words
    assert "dog 2 0–" in words, "a class without positives has no AP"
    parts = re.findall(r'<\w+ id="(summary|gallery|figures)"', page.html)
    assert parts == ["summary", "gallery", "figures"], "images come before tables"


@pytest.mark.large
def test_an_image_has_all_its_layers_at_the_longest_side_that_was_asked_for(build):
    rng = np.random.default_rng(0)
    many = [f"class {k}" for k in range(30)]
    inputs = build(IDS[:1], many)
    noise = rng.integers(0, 256, (700, 900, 3), dtype=np.uint8)
    sample = inputs.samples[0]
    Image.fromarray(noise).save(sample.image)
    cams = Cams(np.arange(30), rng.random((30, 44, 57)).astype(np.float16), (700, 900))
    (inputs.results["cams"].path / f"{sample.id}.npz").write_bytes(encode_cams(cams))
    labels = rng.integers(0, 30, (700, 900), dtype=np.uint8)
    for folder in (inputs.results["masks"], inputs.results["predictions"]):
        (folder.path / f"{sample.id}.png").write_bytes(encode_png(labels, [(9, 9, 9)] * 31))
    sample.mask.path.write_bytes(encode_png(labels[::-1], [(9, 9, 9)] * 31))
    selection = choose_images(measure_images(inputs).images, 200)
    (card,) = build_cards(selection, inputs, {})
    assert (card.width, card.height) == (480, 373)
    pictures = len(card.photograph) + sum(len(panel.picture) for panel in card.panels)
    page = page_of(inputs)
    assert len(page.html) - pictures < 1.6e6, "what is around them, with 31 labels"
    assert len(card.panels) == 1 + 30 + 4 + 3


def test_images_are_rendered_as_they_are_written(build):
    inputs = build([str(k) for k in range(12)], CLASSES)
    read = []

    def reader(sample: Sample):
        read.append(sample.id)
        return np.zeros((48, 64, 3), np.uint8), (48, 64)

    object.__setattr__(inputs, "read", reader)
    selection = choose_images(measure_images(inputs).images, None)
    cards = build_cards(selection, inputs, {})
    assert read == []
    next(cards)
    next(cards)
    assert 2 <= len(read) <= 2 + 4, "few are in memory at a time"
    assert len(list(cards)) == 10 and len(read) == 12


def test_the_page_is_the_last_of_the_stage_and_never_half_there(build, monkeypatch):
    inputs = build(IDS, CLASSES)
    files = write_report(inputs)
    assert [path.name for path in files] == ["examples.png", "tables.md", "report.html"]
    before = files[-1].read_bytes()
    object.__setattr__(inputs, "read", lambda sample: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(files[-1], inputs, MetricsFile(inputs.root / "metrics.json"))
    assert files[-1].read_bytes() == before
    assert not list(inputs.root.glob(".partial-*"))


def test_a_folder_that_cannot_be_written_to_is_named(build, tmp_path):
    inputs = build(IDS[:1], CLASSES)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="report.html: .*run the same command"):
        write_page(tmp_path / "file" / "report.html", inputs, MetricsFile(tmp_path / "m.json"))


def test_stages_that_were_interrupted_say_so(build):
    inputs = build(IDS, CLASSES)
    with Writer(inputs.results["masks"], {}, Store(inputs.root)) as writer:
        writer.begin(9)
    page = page_of(inputs)
    assert page.text.count("unfinished") == 1
    assert len(page.find("li", **{"class": "card"})) == len(IDS), "what is there is shown"


def test_landmarks_and_headers_of_tables_have_names_of_their_own(build):
    failures = {"x": "cannot be read"}
    inputs = build(IDS, CLASSES, failures=failures)
    run = {"images": 6, "miou": 0.5, "miou_union": 0.4, "per_class": {}}
    write_runs(inputs.root / "metrics.json", masks=run)
    page = page_of(inputs)
    texts = dict(re.findall(r'<h2 id="([\w-]+)"[^>]*>([^<]*)</h2>', page.html))
    landmarks = [
        (
            tag if tag in ("nav", "main") else "region",
            texts.get(a.get("aria-labelledby"), a.get("aria-label")),
        )
        for tag, a in page.elements
        if tag in ("nav", "main", "section") or a.get("role") in ("region", "search")
    ]
    assert len(landmarks) > 6 and len(set(landmarks)) == len(landmarks)
    assert not re.search(r"<th[^>]*>\s*</th>", page.html), "a header without a name"


def test_the_size_is_that_of_the_photograph(build):
    inputs = build(IDS[:1], CLASSES, settings=ReportSettings(longest_side=32))
    assert "64 × 48 pixels" in page_of(inputs).text


def _tags(inputs, image_id):
    inputs.results["tags"].entries[image_id]["tags"] = [7]


def _scores(inputs, image_id):
    inputs.results["tags"].entries[image_id] |= tags_output([], {"scores": np.zeros(9)}).values


def _entry(inputs, image_id):
    del inputs.results["tags"].entries[image_id]["scores"]


def _cams(inputs, image_id):
    cams = Cams(np.array([9]), np.ones((1, 6, 8), np.float16), (48, 64))
    (inputs.results["cams"].path / f"{image_id}.npz").write_bytes(encode_cams(cams))


def _mask(inputs, image_id):
    labels = np.full((48, 64), 99, np.uint8)
    (inputs.results["masks"].path / f"{image_id}.png").write_bytes(encode_png(labels, PALETTE))


@pytest.mark.parametrize("truth", [True, False])
def test_odd_artefacts_cost_their_image_alone(build, truth):
    inputs = build(IDS, CLASSES, truth=truth)
    odd = dict(zip(IDS, (_tags, _scores, _entry, _cams, _mask), strict=False))
    for image_id, tamper in odd.items():
        tamper(inputs, image_id)
    *_, path = write_report(inputs)
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.find("li", **{"class": "card"})) == len(IDS) - len(odd) == 1
    failures = page.text.partition("Images that a stage, or this page, left out")[2]
    assert [image_id for image_id in IDS if image_id in failures] == [*odd]
