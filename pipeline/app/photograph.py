"""Names on one photograph: its tags, a CAM of each, and its mask."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from time import perf_counter
from typing import Any

import gradio as gr
import numpy as np

from pipeline.api.labeller import load_image
from pipeline.api.labelling import Labelling
from pipeline.app.names import LEAST, Names, catch_up, press
from pipeline.cams.cams import Cams
from pipeline.configuration.registry import methods
from pipeline.errors import ImageError, UserError
from pipeline.files.images import limit_longest_side, to_image
from pipeline.files.label_images import BACKGROUND
from pipeline.report.page.painting import embed, overlay
from pipeline.report.page.sheets import cam_tiles

GROUPS = {"tags": "Tagger", "cams": "CAMs", "masks": "Refiner"}
STEPS = ("tags", "CAMs", "mask")
_LONGEST_SIDE = 1024  # pixels, of a picture
_QUALITY = 80


def choices_of(group: str, chosen: str) -> list[tuple[str, str]]:
    """Returns label and name of the methods of a group that a single photograph suffices for.

    What the command line has ``chosen`` may be a preset instead.
    """
    found = [m for m in methods(group) if m.stage is None or m.stage.takes_any_image]
    names = sorted((m.label or m.name, m.name) for m in found if m.learns is None)
    if group == "masks":
        names.append(("argmax", "argmax"))  # a preset without the CRF
    return names if chosen in dict(names).values() else [*names, (chosen, chosen)]


class Photograph:
    """The part of the page with one photograph."""

    def __init__(self, names: Names):
        self._names = names

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
        number = self._names.begin(part)
        settings = [f"{group}={name}" for group, name in zip(GROUPS, (tagger, cams, masks))]
        settings.append(f"tags.min_score={float(min_score)}")
        try:
            if image is None:
                raise UserError("no photograph is given: add one")
            pixels = load_image(image)
            with self._names.lock:
                labeller = self._names.labeller(names, backgrounds, *settings)
            steps = labeller.step_by_step(pixels)
            for _ in STEPS:
                with self._names.lock:
                    if not self._names.is_newest(part, number):
                        break
                    began = perf_counter()
                    found = next(steps)
                    seconds.append(perf_counter() - began)
                if self._names.is_newest(part, number):
                    yield as_shown(found, seconds)
        except ImageError as error:
            yield [f"{Path(image).name} {error}", "", "", None]
        except UserError as error:
            yield [str(error), "", "", None]
        if not self._names.is_newest(part, number):
            yield [gr.skip()] * 4  # Gradio sends what came last once more

    def build(self, tab: gr.Tab, names: gr.Textbox, backgrounds: gr.Textbox) -> None:
        """Adds the part to the page that is being built."""
        tab.select(None, js=catch_up("segment"))
        with gr.Row():
            with gr.Column(scale=2):
                image = gr.Image(
                    label="Photograph",
                    sources=["upload", "webcam", "clipboard"],
                    type="filepath",
                    image_mode=None,
                )
                # Gradio would decode the file, and fail without a sentence.
                image.preprocess = lambda given: given and given.path
                least = gr.Slider(0, 1, self._names.min_score, label="Minimum score", info=LEAST)
                set_by_hand: list[Any] = [least]
                for group, label in GROUPS.items():
                    chosen = self._names.chosen[group]
                    choices = choices_of(group, chosen)
                    set_by_hand.append(gr.Dropdown(choices, value=chosen, label=label))
                button = gr.Button("Segment", variant="primary", elem_id="segment")
            with gr.Column(scale=3):
                status = gr.Markdown(elem_id="status")
                mask = gr.Image(label="Mask", interactive=False, format="png", buttons=["download"])
                bars = gr.HTML(elem_id="scores")
                cams = gr.HTML(elem_id="cams")
        given = [image, names, backgrounds, *set_by_hand]
        # A request ends the one before it, for which it may not wait.
        button.click(
            self.segment,
            given,
            [status, bars, cams, mask],
            concurrency_limit=None,
            trigger_mode="multiple",
        )
        gr.on([names.change, backgrounds.change], None, js=press("segment", typed=True))
        gr.on([each.change for each in (image, *set_by_hand)], None, js=press("segment"))


def as_shown(found: Labelling, seconds: Sequence[float]) -> list[Any]:
    """Returns the seconds of the steps, scores, CAMs and mask as the page shows them."""
    image = limit_longest_side(to_image(found.image), _LONGEST_SIDE)
    steps = ", ".join(f"{step} {second:.2f} s" for step, second in zip(STEPS, seconds))
    cams, mask = "", None
    if found.cams is not None:
        keys = Cams(np.array(found.tags, np.int64), found.cams, image.shape[:2])
        tiles = cam_tiles(image, keys, found.classes)
        pictures = ((embed(each.picture, _QUALITY), escape(each.caption)) for each in tiles)
        items = (f'<li><img src="{picture}" alt="">{words}</li>' for picture, words in pictures)
        cams = f"<ul>{''.join(items)}</ul>"
    if found.mask is not None and not (found.tags or found.mask.any()):
        steps += "; no name was found: lower the minimum score, or write other names"
    elif found.mask is not None:
        mask = overlay(image, found.mask, (BACKGROUND, *found.classes), found.palette)
    return [steps, score_bars(found), cams, mask]


def score_bars(found: Labelling) -> str:
    """Returns a table of the scores as HTML, the highest first."""
    rows = []
    for k in np.argsort(-found.scores, kind="stable").tolist():
        name, score = escape(found.classes[k]), found.scores[k]
        bar = f'<meter value="{score:.3f}" aria-label="{name}">{score:.3f}</meter>'
        mark = ' class="tag"' if k in found.tags else ""
        rows.append(f"<tr{mark}><th scope=row>{name}</th><td>{bar}</td><td>{score:.3f}</td></tr>")
    caption = f"Scores; tags, in bold, are above {found.threshold:.3f}"
    return f"<table><caption>{caption}</caption>{''.join(rows)}</table>"
