"""Names on the photographs of a folder: which have which, before anything runs."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import FastAPI

from pipeline.api.labeller import load_image
from pipeline.api.labelling import Labelling
from pipeline.app.finished import Finished
from pipeline.app.names import SLIDER, Names, classes_of, lines
from pipeline.datasets.folder import find_images
from pipeline.engine.sample import evenly
from pipeline.errors import ImageError, UserError, command
from pipeline.files.images import limit_longest_side
from pipeline.report.page.page import load_template
from pipeline.report.page.painting import embed

_SIDE = 448
"""Pixels of the longer side of a photograph; the features of 200 take less than a gigabyte."""

_PICTURE, _QUALITY = 320, 70
_ABOUT_COMMAND = (
    "*Run* starts this command, which goes on if you close the page. It trains a network and may"
    " download weights. To stop at the masks, copy the command to a terminal, in the folder in"
    " which you started this page, and add `'stage=[tags,cams,masks,report]'`."
)
_SHOWN = 12  # photographs of a name


class Folder:
    """The part of the page with photographs of a folder, at even distances if there are many."""

    def __init__(self, names: Names, root: str, limit: int, app: FastAPI, output: Path):
        self._names, self._root, self._app, self._output = names, root, app, output
        self._run: Finished | None = None  # what this page has started
        found, _, _ = find_images(Path(root).absolute())
        if not found:
            raise UserError(f"{root} contains no photographs: give another folder")
        self._paths = dict(evenly(found, limit))  # of all sub-folders
        self._of = f" of {len(found):,}" if len(found) > limit else ""
        self._about = f"{len(self._paths)}{self._of} photographs of {root}"
        self._photographs: dict[str, tuple[np.ndarray, str]] = {}  # and a small picture of each
        self._unread: dict[str, str] = {}

    def choose(
        self, names: str, backgrounds: str, min_score: float, request: gr.Request
    ) -> Iterator[list[Any]]:
        """Yields what is shown after each photograph; ends when the same browser asks anew."""
        part, found = f"folder {request.session_hash}", {}
        number = self._names.begin(part)
        # CAMs are not computed; without affinity, none of the attention is kept for them.
        settings = [f"tags.min_score={float(min_score)}", "cams.affinity=false"]
        yield [self._about, "", ""]  # what is shown are not these names' results
        try:
            with self._names.lock:
                labeller = self._names.labeller(names, backgrounds, *self._names.choices, *settings)
            for place, image_id in enumerate(self._paths, 1):
                with self._names.lock:
                    if not self._names.is_newest(part, number):
                        break
                    if (image := self._read(image_id)) is not None:
                        found[image_id] = next(labeller.step_by_step(image))
                yield [f"{self._about}: {place} done", gr.skip(), gr.skip()]
            if not self._names.is_newest(part, number):
                yield [gr.skip()] * 3  # Gradio sends what came last once more
                return
            if not found:
                raise UserError(f"no photograph can be read ({next(iter(self._unread.values()))})")
            unread = "".join(f"; {self._paths[i].name} {why}" for i, why in self._unread.items())
            page = self._page(found, labeller.near_synonyms())
            told = f"{command()} {shlex.join(self._settings(names, backgrounds, min_score))}"
            yield [f"{len(found)}{self._of} photographs{unread}", page, told]
        except UserError as error:
            yield [str(error), "", ""]

    def _read(self, image_id: str) -> np.ndarray | None:
        """Reads a photograph when it is first needed."""
        if image_id not in self._photographs and image_id not in self._unread:
            try:
                image = limit_longest_side(load_image(self._paths[image_id]), _SIDE)
                small = embed(limit_longest_side(image, _PICTURE), _QUALITY)
                self._photographs[image_id] = image, small
            except ImageError as error:
                self._unread[image_id] = str(error)
        return self._photographs.get(image_id, (None,))[0]

    def _page(self, found: Mapping[str, Labelling], alike: Sequence[Sequence[str]]) -> str:
        """Returns the photographs of each name, and of names that are alike, as HTML."""
        first = next(iter(found.values()))
        classes, index = [], {name: k for k, name in enumerate(first.classes)}
        for name, k in index.items():
            best = sorted(found, key=lambda i, k=k: -found[i].scores[k])
            nearest = sorted(found, key=lambda i, k=k: abs(_margin(found[i], k)))
            # Half of them are the best, and half the nearest; each is listed once.
            listed = [*dict.fromkeys(chain(*zip(best, nearest)))][:_SHOWN]
            listed.sort(key=lambda i, k=k: -_margin(found[i], k))
            classes.append((name, sum(k in each.tags for each in found.values()), listed, k))
        pairs = []
        for pair in alike:
            differing = [i for i, each in found.items() if len({*pair} & {*each.names}) == 1]
            pairs.append((pair, differing[:_SHOWN], index[pair[0]]))
        # With the folders in between, as several may have files of one name.
        files = {i: (i + self._paths[i].suffix, self._photographs[i][1]) for i in found}
        template = load_template("folder.html", folder=Path(__file__).parent)
        return template.render(classes=classes, alike=pairs, found=found, files=files)

    def _settings(self, names: str, backgrounds: str, min_score: float) -> list[str]:
        """Returns the settings of the run with these names."""
        words = [*self._names.plugins, "dataset=folder", f"dataset.root={self._root}"]
        words.append(f"clip={self._names.clip}")
        words.append(f"dataset.classes={_written(classes_of(names))}")
        if given := lines(backgrounds):
            words.append(f"dataset.backgrounds={_written(given)}")
        words += [*self._names.choices, *self._names.overrides]
        if min_score != self._names.min_score:
            words.append(f"tags.min_score={min_score:g}")
        return words

    def run(self, names: str, backgrounds: str, min_score: float) -> str:
        """Starts the run of the command; returns why it cannot, or nothing."""
        try:
            words = self._settings(names, backgrounds, min_score)
            if self._run is None:
                self._output.mkdir(parents=True, exist_ok=True)
                self._run = Finished(self._output, self._names.plugins)
                self._app.router.routes[:0] = self._run.routes.routes  # Gradio takes the others
            self._run.start(["-P", "-m", "pipeline", *words], Path.cwd())
        except (UserError, OSError) as error:
            return str(error)
        return ""

    def build(
        self, blocks: gr.Blocks, tab: gr.Tab, names: gr.Textbox, backgrounds: gr.Textbox
    ) -> list[Any]:
        """Adds the part to the page that is being built; returns what a person sets by hand.

        Names that are given are tried at once.
        """
        tab.select(None, js="() => catchUp('look')")
        min_score = gr.Slider(**SLIDER, value=self._names.min_score, elem_id="folder_min_score")
        button = gr.Button("Look at the photographs", variant="primary", elem_id="look")
        status = gr.Markdown(self._about, elem_id="folder_status")
        with gr.Row(equal_height=True):
            told = gr.Textbox(
                label="The run with these names",
                buttons=["copy"],
                interactive=False,
                elem_id="command",
                scale=8,
            )
            run = gr.Button("Run", min_width=90, elem_id="run")
        gr.Markdown(_ABOUT_COMMAND)
        refused = gr.Markdown()
        gr.HTML('<p class="ours" id="run_status" role="status"></p>')
        page = gr.HTML(elem_id="folder")
        gr.on(
            [button.click, blocks.load] if names.value else [button.click],
            self.choose,
            given := [names, backgrounds, min_score],
            [status, page, told],
            concurrency_limit=None,
            trigger_mode="multiple",
        )
        gr.on([names.change, backgrounds.change], None, js="() => press('look', TYPED)")
        gr.on([min_score.change], None, js="() => press('look', CHOSEN)")
        run.click(self.run, given, refused, concurrency_limit=None).then(None, js="watchRun")
        blocks.load(None, js="watchRun")
        return [min_score]


def _margin(found: Labelling, k: int) -> float:
    return found.scores[k] - found.threshold


def _written(entry: Any) -> str:  # noqa: ANN401
    """Returns names, or a class with several, as the command line takes them."""
    if isinstance(entry, dict):
        return f"{{name:{_written(entry['name'])},names:{_written(entry['names'])}}}"
    if isinstance(entry, list):
        return f"[{','.join(map(_written, entry))}]"
    return json.dumps(entry, ensure_ascii=False)
