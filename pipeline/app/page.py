"""The page: its parts, and how Gradio serves them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from gradio import processing_utils
from markdown_it import MarkdownIt

from pipeline.app.finished import Finished
from pipeline.app.folder import Folder
from pipeline.app.labellers import WORLD, Labellers
from pipeline.app.photograph import GROUPS, Photograph
from pipeline.app.server import MAX_UPLOAD
from pipeline.configuration.hydra import take_plugins
from pipeline.datasets.scenes import load_world
from pipeline.datasets.vocabulary import as_names, build_vocabulary
from pipeline.errors import UserError, did_you_mean, shown
from pipeline.report.page.page import load_template, script_of
from pipeline.stages.config import CONFIG, Config, compose, read_config
from pipeline.tags.remedies import remedies_table

_CLIP = "vit_b16"
_NAMES = ("classes", "backgrounds")
_NAMED_HERE = ("dataset", "dataset.root", *(f"dataset.{each}" for each in _NAMES))
_TRIED = (
    *("clip", "tags", "cams", "masks", "compat", "images", "runtime", "experiment", *_NAMES),
    *("dataset.tag_names", "dataset.cam_names"),
)
"""Settings that change what is tried; those of a folder are also in the command of its run."""
_TITLE = "afseg"
_HERE = Path(__file__).parent
_DOCS = _HERE.parents[1] / "docs"  # which a checkout has
_ABOUT = "Type the names of what your photographs show, and see tags, CAMs and masks."
_ABOUT_GUIDE = " [The guide](docs/photographs.md) has more."
_EXAMPLE = "cat\nsofa, couch\ncup"
_SYMPTOMS = "What to do about missed and wrong classes"


def build_app(
    settings: Mapping[str, str], folders: Sequence[str], limit: int, words: Sequence[str]
) -> FastAPI:
    """Returns the app of settings of the command line, and of a folder, whose ``words`` they are.

    The folder holds photographs, or the results of a run.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if folders and Path(folders[0], CONFIG).is_file():
        given = [word for word in words if "=" in word]
        app.include_router(Finished(Path(folders[0]), given).routes)
        app.get("/")(lambda: RedirectResponse("/report"))
        return app
    for key, value in settings.items():
        group, _, _ = (name := key.lstrip("+")).partition(".")
        is_used = name not in _NAMED_HERE if folders else not {group, name}.isdisjoint(_TRIED)
        is_known = group in Config.__dataclass_fields__ or name in _NAMES
        if not is_known and (hint := did_you_mean(name, _NAMES)):
            raise UserError(f"there is no setting {shown(key)}: {hint.strip()}")
        if not is_used and is_known:  # others are misspelt, see below
            raise UserError(
                f"{shown(f'{key}={value}')} changes nothing on this page: leave it out; photographs"
                " are given as FOLDER, names as classes=[…] and backgrounds=[…]"
            )
    usual = {"clip": _CLIP, "classes": "[]"} | settings
    named = [f"dataset.{k}={v}" if k in _NAMES else f"{k}={v}" for k, v in usual.items()]
    # Whatever is wrong with the command line is said before the page opens.
    config = read_config(compose(["dataset=folder", "dataset.root=unused", *named]))
    methods = {group: getattr(config, group).method.name for group in GROUPS}
    chosen = {group: settings.get(group, name) for group, name in methods.items()}
    known = {"clip", *GROUPS, *_NAMES}
    others = [f"{key}={value}" for key, value in settings.items() if key not in known]
    modules, _ = take_plugins(words)
    plugins = [f"plugins=[{','.join(modules)}]"] if modules else []
    labellers = Labellers(
        usual["clip"], chosen, others, getattr(config.tags, "min_score", 0.0), plugins
    )
    folder = Folder(labellers, folders[0], limit, Path(config.output_dir)) if folders else None
    words_of_classes, background_names = [], ()
    if usual["clip"] == WORLD:
        world = load_world(WORLD)
        words_of_classes, background_names = world["classes"], world["grounds"]
    if "backgrounds" in settings:
        background_names = as_names(config.dataset.backgrounds, "backgrounds")
    if "classes" in settings:
        vocabulary = build_vocabulary(config.dataset)
        each = zip(vocabulary.classes, vocabulary.tag_names)
        words_of_classes = [", ".join(dict.fromkeys([name, *more])) for name, more in each]
        usual_backgrounds = as_names(config.dataset.backgrounds, "backgrounds")
        if {*vocabulary.backgrounds, *vocabulary.dropped} != {*usual_backgrounds}:
            background_names = vocabulary.backgrounds  # of the file
    app.get("/docs/{name}")(_page_of_docs)
    processing_utils.async_ssrf_protected_download = _refuse_download
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(f"# {_TITLE}")
        gr.Markdown(_ABOUT + _ABOUT_GUIDE * _DOCS.is_dir(), elem_id="about")
        with gr.Row():
            label = "Class names, one per line; synonyms after commas"
            shape = {"lines": 5, "min_width": 320}
            written = "\n".join(words_of_classes)
            given = [gr.Textbox(value=written, label=label, placeholder=_EXAMPLE, **shape)]
            label = "Backgrounds, one per line; if empty, the defaults"
            written = "\n".join(background_names)
            given.append(gr.Textbox(value=written, label=label, placeholder="floor\nwall", **shape))
        kept = [*given]
        if folder:
            app.include_router(folder.finished.routes)
            with gr.Tab("The folder") as tab:
                kept += folder.build(blocks, tab, *given)
        with gr.Tab("A photograph") as tab:
            kept += Photograph(labellers).build(tab, *given)
        with gr.Accordion(_SYMPTOMS, open=False):
            gr.Markdown(remedies_table(), elem_id="remedies")
        blocks.load(None, kept, kept, js="(...given) => restore(...given)")
        gr.on([each.change for each in kept], None, kept, js="(...values) => keep(...values)")
    Thread(target=labellers.warm_up, daemon=True).start()
    style = script_of("theme.css") + (_HERE / "app.css").read_text(encoding="utf-8")
    kept_as = json.dumps(json.dumps(["afseg", *words])).replace("<", r"\u003c")
    script = f"const keptAs = {kept_as};" + (_HERE / "page.js").read_text(encoding="utf-8")
    options: dict[str, Any] = {
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "pwa": False,
        "mcp_server": False,
        "i18n": gr.I18n(en={"common.complete": "Done"}),  # which Gradio lacks, and reads out
        "max_file_size": MAX_UPLOAD,
        "theme": gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        "head": f"<style>{style}</style><script>{script}</script>",
        "app_kwargs": {"docs_url": None, "redoc_url": None, "openapi_url": None},
    }
    app = gr.mount_gradio_app(app, blocks, "/", **options)
    blocks.has_launched = True  # else Gradio takes any path of this machine as an upload
    return app


def _page_of_docs(name: str) -> Response:
    """Returns a page of docs/ as HTML, or one of its pictures."""
    if not (path := _DOCS / name).is_file():
        raise HTTPException(404)
    if path.suffix != ".md":
        return FileResponse(path)
    text = re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", path.read_text(encoding="utf-8"))
    text = MarkdownIt("commonmark").enable("table").render(text)  # without links out of docs/
    page = load_template("docs.html", folder=_HERE).render(text=text, style=script_of("theme.css"))
    return HTMLResponse(page)


async def _refuse_download(url: str, cache_dir: str) -> str:
    raise gr.Error("This page fetches nothing: give a photograph.")
