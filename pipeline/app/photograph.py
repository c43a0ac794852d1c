"""Names on one photograph: its tags, a CAM of each, and its mask."""

import base64
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import gradio as gr
import numpy as np
import skimage.data

from pipeline.api.labeller import load_image
from pipeline.api.labelling import Labelling
from pipeline.app.labellers import SLIDER, WORLD, Labellers
from pipeline.cams.cams import Cams
from pipeline.configuration.registry import methods
from pipeline.datasets.scenes import load_world, render_scene
from pipeline.errors import ImageError, UserError
from pipeline.files.images import encode_png, limit_longest_side
from pipeline.files.label_images import BACKGROUND
from pipeline.report.page import painting
from pipeline.report.page.page import load_template
from pipeline.report.page.painting import embed
from pipeline.report.page.sheets import cam_tiles

GROUPS = {"tags": "Tagger", "cams": "CAMs", "masks": "Refiner"}
STEPS = ("tags", "CAMs", "mask")
_LONGEST_SIDE = 800  # pixels, of a picture
_QUALITY = 80
_EXAMPLE_NAMES = "coffee cup, cup\nspoon\ntable"
_START = "Add a photograph, or try the example."
_PAGE = load_template("photograph.html", folder=Path(__file__).parent).module


def choices_of(group: str, chosen: str) -> list[tuple[str, str]]:
    """Returns label and name of the methods of a group that a single photograph suffices for.

    What the command line has ``chosen`` may be a preset instead.
    """
    found = [m for m in methods(group) if m.stage is None or m.stage.takes_any_image]
    is_tags = group == "tags"  # what CAMs learn from is their choice
    names = sorted((m.label or m.name, m.name) for m in found if not (is_tags and m.learns))
    if group == "masks":
        names.append(("argmax", "argmax"))  # a preset without the CRF
    return names if chosen in dict(names).values() else [*names, (chosen, chosen)]


class Photograph:
    """The part of the page with one photograph."""

    def __init__(self, labellers: Labellers):
        self._labellers = labellers

    def segment(
        self,
        image: str | None,
        names: str,
        backgrounds: str,
        min_score: float,
        tagger: str,
        cams: str,
        masks: str,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        """Yields what the page shows after each step; ends when the same browser asks anew."""
        part, seconds = f"photograph {request.session_hash}", []
        number = self._labellers.begin(part)
        settings = [f"{group}={name}" for group, name in zip(GROUPS, (tagger, cams, masks))]
        settings.append(f"tags.min_score={float(min_score)}")
        try:
            if image is None:
                raise UserError("no photograph is given: add one, or try the example")
            pixels, *shown = _read(image)
            with self._labellers.lock:
                labeller = self._labellers.labeller(names, backgrounds, *settings)
            steps = labeller.step_by_step(pixels)
            for _ in STEPS:
                with self._labellers.lock:
                    if not self._labellers.is_newest(part, number):
                        break
                    began = perf_counter()
                    found = next(steps)
                    seconds.append(perf_counter() - began)
                if self._labellers.is_newest(part, number):
                    yield as_shown(found, seconds, *shown, min_score)
        except ImageError as error:
            yield [f"{Path(image).name} {error}", "", "", ""]
        except UserError as error:
            yield [str(error), "", "", ""]
        if not self._labellers.is_newest(part, number):
            yield [gr.skip()] * 4  # Gradio sends what came last once more

    def example(self, names: str) -> tuple[np.ndarray, str]:
        """Returns an example photograph, H×W×3 uint8, and names for it if none are given."""
        if self._labellers.clip == WORLD:
            return render_scene(load_world(WORLD), "val", 15).image, names
        return skimage.data.coffee(), names.strip() and names or _EXAMPLE_NAMES

    def build(self, tab: gr.Tab, names: gr.Textbox, backgrounds: gr.Textbox) -> list[Any]:
        """Adds the part to the page that is being built; returns what a person sets by hand."""
        tab.select(None, js="() => catchUp('segment')")
        with gr.Row():
            with gr.Column(scale=2):
                kind = {"sources": ["upload", "webcam", "clipboard"], "type": "filepath"}
                image = gr.Image(label="Photograph", image_mode=None, **kind)
                # Gradio would decode the file, and fail without a sentence.
                image.preprocess = lambda given: given and given.path
                example = gr.Button("Try an example", elem_id="example")
                set_by_hand: list[Any] = [gr.Slider(**SLIDER, value=self._labellers.min_score)]
                for group, label in GROUPS.items():
                    value = self._labellers.chosen[group]
                    offered = choices_of(group, value)
                    set_by_hand.append(gr.Dropdown(offered, value=value, label=label))
                button = gr.Button("Segment", variant="primary", elem_id="segment")
            with gr.Column(scale=3):
                status = gr.Markdown(_START, elem_id="status")
                mask = gr.HTML(elem_id="mask")
                bars = gr.HTML(elem_id="scores")
                cams = gr.HTML(elem_id="cams")
        given = [image, names, backgrounds, *set_by_hand]
        example.click(self.example, names, [image, names], concurrency_limit=None)
        shown = [status, bars, cams, mask]
        # A request ends the one before it, for which it may not wait.
        button.click(self.segment, given, shown, concurrency_limit=None, trigger_mode="multiple")
        gr.on([names.change, backgrounds.change], None, js="() => press('segment', TYPED)")
        changes = [each.change for each in (image, *set_by_hand)]
        gr.on(changes, None, js="() => press('segment', CHOSEN)")
        return set_by_hand


@lru_cache(maxsize=2)
def _read(path: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns a photograph, a smaller one, and its ``data:`` address, for the next name, too."""
    pixels = load_image(path)
    small = limit_longest_side(pixels, _LONGEST_SIDE)
    return pixels, small, embed(small, _QUALITY)


def as_shown(
    found: Labelling, seconds: Sequence[float], small: np.ndarray, address: str, least: float
) -> list[Any]:
    """Returns the seconds of the steps, scores, CAMs and mask over ``small``, h×w×3 uint8."""
    steps = ", ".join(f"{step} {second:.2f} s" for step, second in zip(STEPS, seconds))
    cams, mask, palette = "", "", painting.drawing_colours(found.palette)
    if found.cams is not None:
        keys = Cams(np.array(found.tags, np.int64), found.cams, small.shape[:2])
        tiles = cam_tiles(small, keys, found.classes)
        cams = _PAGE.cams([(embed(each.picture, _QUALITY), each.caption) for each in tiles])
    if found.mask is not None and not (found.tags or found.mask.any()):
        steps += "; no name was found: lower the minimum score, or write other names"
    elif found.mask is not None:
        labels = painting.resize_labels(found.mask, *small.shape[:2])
        layer = embed(painting.paint_labels(labels, found.palette, line=1))
        png = base64.b64encode(encode_png(found.mask, found.palette)).decode()
        names, shares = (BACKGROUND, *found.classes), painting.label_shares(found.mask)
        mask = _PAGE.mask(address, small, layer, shares, names, palette, png)
    return [steps, _PAGE.scores(found, least, palette), cams, mask]
