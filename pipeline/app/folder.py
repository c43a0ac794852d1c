"""Names on the photographs of a folder: which have which, before anything runs."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import gradio as gr
import numpy as np
from hydra.core.override_parser.types import Quote, QuotedString

from pipeline.api.labeller import load_image
from pipeline.api.labelling import Labelling
from pipeline.app.finished import Finished
from pipeline.app.labellers import SLIDER, Labellers, classes_of, lines
from pipeline.datasets.folder import find_images
from pipeline.errors import ImageError, UserError, command
from pipeline.files.images import limit_longest_side
from pipeline.report.page.page import load_template
from pipeline.report.page.painting import embed

_SIDE = 448
"""Pixels of the longer side of a photograph; the features of 200 take less than a gigabyte."""

_PICTURE, _QUALITY = 320, 70
_ABOUT_COMMAND = (
    "*Run* starts this command, which goes on if you close the page. Before all else it downloads"
    " weights that are missing."
)
_SHOWN = 6  # photographs of a name with the highest scores, and as many others
_ENDS = ("Masks", "Masks and a network")  # of the run


class Folder:
    """The part of the page with photographs of a folder, of all sub-folders if there are many."""

    def __init__(self, labellers: Labellers, root: str, limit: int, output: Path):
        self._labellers, self._root = labellers, root
        self.finished = Finished(output, labellers.plugins)
        found, _, _ = find_images(Path(root).absolute())
        if not found:
            raise UserError(f"{root} contains no photographs: give another folder")
        self._paths, self._limit = dict(found), min(limit, len(found))
        self._ids = _spread([*self._paths])
        self._photographs: dict[str, tuple[np.ndarray, str]] = {}  # and a small picture of each
        self._unread: dict[str, str] = {}

    def choose(
        self,
        names: str,
        backgrounds: str,
        min_score: float,
        limit: float | None,
        end: str,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        """Yields status, cards and command; ends when the same browser asks anew.

        Cards come after half a second, after one, two, four, …, and at the end.
        """
        part, found, began, due = f"folder {request.session_hash}", {}, monotonic(), 0.5
        number = self._labellers.begin(part)
        ids = self._ids[: self._limit if limit is None else max(int(limit), 1)]
        # CAMs are not computed; without affinity, none of the attention is kept for them.
        settings = [f"tags.min_score={float(min_score)}", "cams.affinity=false"]
        yield [self._about(ids), "", ""]  # what is shown are not these names' results
        try:
            with self._labellers.lock:
                labeller = self._labellers.labeller(
                    names, backgrounds, *self._labellers.choices, *settings
                )
            yield [gr.skip(), gr.skip(), self.told(names, backgrounds, min_score, end)]
            for place, image_id in enumerate(ids, 1):
                with self._labellers.lock:
                    if not self._labellers.is_newest(part, number):
                        break
                    if (image := self._read(image_id)) is not None:
                        found[image_id] = next(labeller.step_by_step(image))
                if not self._labellers.is_newest(part, number):  # or its status would stay
                    break
                if (seconds := monotonic() - began) > due and found:
                    due, page = 2 * seconds, self._page(found, labeller.near_synonyms())
                else:
                    page = gr.skip()
                left = seconds / place * (len(ids) - place)
                left = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
                about = f"{self._about(ids)}: {place:,} done, about {left} left"
                yield [about, page, gr.skip()]
            if not self._labellers.is_newest(part, number):
                yield [gr.skip()] * 3  # Gradio sends what came last once more
                return
            unread = {i: self._unread[i] for i in ids if i in self._unread}
            if not found:
                raise UserError(f"no photograph can be read ({next(iter(unread.values()))})")
            about = "".join(f"; {self._paths[i].name} {why}" for i, why in unread.items())
            page = self._page(found, labeller.near_synonyms())
            yield [self._about(found) + about, page, gr.skip()]
        except UserError as error:
            yield [str(error), "", ""]

    def _about(self, ids: Collection[str]) -> str:
        of = "" if len(ids) == len(self._paths) else f" of {len(self._paths):,}"
        noun = "photograph" if len(self._paths) == 1 else "photographs"
        return f"{len(ids):,}{of} {noun} of {self._root}"

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
            best = sorted(found, key=lambda i, k=k: -found[i].scores[k])[:_SHOWN]
            others = sorted({*found} - {*best}, key=lambda i, k=k: (abs(_margin(found[i], k)), i))
            nearest = sorted(others[:_SHOWN], key=lambda i, k=k: -_margin(found[i], k))
            tagged = sum(k in each.tags for each in found.values())
            classes.append((name, tagged, best, nearest, k))
        pairs = []
        for pair in alike:
            differing = [i for i, each in found.items() if len({*pair} & {*each.names}) == 1]
            pairs.append((pair, differing[: 2 * _SHOWN], index[pair[0]]))
        # With the folders in between, as several may have files of one name.
        files = {i: (i + self._paths[i].suffix, self._photographs[i][1]) for i in found}
        template = load_template("folder.html", folder=Path(__file__).parent)
        return template.render(classes=classes, alike=pairs, found=found, files=files)

    def _settings(self, names: str, backgrounds: str, min_score: float, end: str) -> list[str]:
        """Returns the settings of the run with these names, up to one of ``_ENDS``."""
        plain = re.fullmatch(r"[\w.~-]*(/[\w.~-]*)+", self._root)
        root, clip = self._root if plain else _written(self._root), self._labellers.clip
        words = [*self._labellers.plugins, "dataset=folder", f"dataset.root={root}", f"clip={clip}"]
        words.append(f"dataset.classes={_written(classes_of(names))}")
        if given := lines(backgrounds):
            words.append(f"dataset.backgrounds={_written(given)}")
        words += [*self._labellers.choices, *self._labellers.overrides]
        if min_score != self._labellers.min_score:
            words.append(f"tags.min_score={min_score:g}")
        return [*words, "stage=[tags,cams,masks,report]"] if end == _ENDS[0] else words

    def told(self, names: str, backgrounds: str, min_score: float, end: str) -> str:
        """Returns the command of the run with these names, or nothing where they are wrong."""
        try:
            words = self._settings(names, backgrounds, min_score, end)
        except UserError:
            return ""
        return f"{command()} {shlex.join(words)}"

    def run(
        self, names: str, backgrounds: str, min_score: float, end: str, request: gr.Request
    ) -> str:
        """Starts the run of the command, and ends the look at photographs; returns the status."""
        try:
            words = self._settings(names, backgrounds, min_score, end)
            self._labellers.begin(f"folder {request.session_hash}")  # the run needs the processor
            self.finished.start(words, Path.cwd())
        except (UserError, OSError) as error:
            return str(error)
        return "The run has begun, and looking at photographs has ended."

    def build(
        self, blocks: gr.Blocks, tab: gr.Tab, names: gr.Textbox, backgrounds: gr.Textbox
    ) -> list[Any]:
        """Adds the part to the page that is being built; returns what a person sets by hand.

        Names that are given are tried at once.
        """
        tab.select(None, js="() => catchUp('look')")
        with gr.Row():
            value = self._labellers.min_score
            min_score = gr.Slider(
                **SLIDER, value=value, elem_id="folder_min_score", scale=3, min_width=320
            )
            info = f"Of {len(self._ids):,}, spread over all sub-folders."
            limit = gr.Number(
                value=self._limit,
                info=info,
                label="Photographs to look at",
                precision=0,
                elem_id="folder_limit",
            )
        button = gr.Button("Look at the photographs", variant="primary", elem_id="look")
        status = gr.Markdown(self._about(self._ids[: self._limit]), elem_id="folder_status")
        with gr.Row(equal_height=True):
            told = gr.Textbox(
                label="The run with these names",
                buttons=["copy"],
                elem_id="command",
                scale=8,
                min_width=320,
                interactive=False,
            )
            is_fixed = any(word.startswith("stage=") for word in self._labellers.overrides)
            end = gr.Radio(
                _ENDS,
                value=_ENDS[-1],
                label="It computes",
                elem_id="end",
                scale=3,
                visible=not is_fixed,
            )
            run = gr.Button("Run", min_width=90, elem_id="run", interactive=False)
        gr.Markdown(_ABOUT_COMMAND)
        gr.HTML('<p class="ours" id="run_status" role="status"></p>')
        page = gr.HTML(elem_id="folder")
        gr.on(
            [button.click, blocks.load] if names.value else [button.click],
            self.choose,
            [*(given := [names, backgrounds, min_score]), limit, end],
            [status, page, told],
            concurrency_limit=None,
            trigger_mode="multiple",
        )
        typed = [each.change for each in (names, backgrounds, limit)]
        gr.on(typed, None, js="() => press('look', TYPED)")
        gr.on([min_score.change], None, js="() => press('look', CHOSEN)")
        end.change(self.told, [*given, end], told, concurrency_limit=None)
        told.change(None, js="allowRun")
        run.click(self.run, [*given, end], status, concurrency_limit=None).then(None, js="watchRun")
        blocks.load(None, js="watchRun")
        return [min_score, limit, end]


def _spread(ids: Sequence[str]) -> list[str]:
    """Returns ids in an order whose every beginning is spread evenly (van der Corput)."""
    digits = len(ids).bit_length()
    places = sorted(range(len(ids)), key=lambda place: f"{place:0{digits}b}"[::-1])
    return [ids[place] for place in places]


def _margin(found: Labelling, k: int) -> float:
    return found.scores[k] - found.threshold


def _written(entry: Any) -> str:  # noqa: ANN401
    """Returns names, or a class with several, as the command line takes them."""
    if isinstance(entry, dict):
        return f"{{name:{_written(entry['name'])},names:{_written(entry['names'])}}}"
    if isinstance(entry, list):
        return f"[{','.join(map(_written, entry))}]"
    return QuotedString(entry, Quote.double).with_quotes()
