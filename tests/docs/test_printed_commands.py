"""What messages, help texts and tables tell a person to type can be typed, and does what they say.

The forms are read from the source (``printed.py``), so that a new message with a command fails here
until a test types it. Settings within messages have to exist, and their values have to be allowed.
"""

from __future__ import annotations

import html
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from pipeline import Labeller
from pipeline.clip.origins.origin import find_origin
from pipeline.clip.second import FrozenSecond
from pipeline.commands import console
from pipeline.errors import NotDownloaded, UserError
from pipeline.stages.config import compose
from tests import REPOSITORY
from tests.datasets.miniature_coco import coco_names
from tests.docs.printed import Form, commands
from tests.extras import library
from tests.presets import Miniatures
from tests.segmenter.foreign_backbones import load
from tests.small_runs import TINY_SEGMENTER, Finished, draw_photograph, latest
from tests.stages import test_bank as bank
from tests.tiers import large_except

TYPED: dict[str, str] = {}
"""Words that are in one form alone → the test that types it."""


def types(*words: str) -> Callable:
    """Says which forms a test types."""

    def register(function: Callable) -> Callable:
        TYPED.update(dict.fromkeys(words, function.__name__))
        function.types = words
        return function

    return register


def forms_with(words: str) -> list[Form]:
    """Returns the forms that are these words, or else those that have them."""
    same = [form for form in commands() if form.text.strip() == words]
    return same or [form for form in commands() if words in form.text]


def form_with(words: str) -> Form:
    [form] = forms_with(words)
    return form


def command_in(said: str) -> str:
    """Returns the command line in what was printed, up to the words that go on after it."""
    line = re.search(r"python \S*tools/\w+\.py[^\n`]*", said)[0]
    return re.split(r" where there is a network| shows them all", line)[0]


@pytest.fixture
def type_line(run_stage, run_tool) -> Callable[[str], Finished]:
    """Types a command line in an empty folder."""

    def type_it(line: str) -> Finished:
        python, program, *words = shlex.split(line)
        assert python == "python" and (REPOSITORY / "tools" / Path(program).name).is_file(), line
        name = Path(program).name
        done = run_stage(*words) if name == "run_stage.py" else run_tool(name, *words)
        assert done.code == 0, f"{line}\n{done.errors}"
        return done

    return type_it


# What is advised after something went wrong


@dataclass
class World:
    """Photographs and a folder of results, and what a person types there."""

    given: list[str]
    out: Path
    photographs: Path
    stage: Callable[..., Finished]
    tool: Callable[..., Finished]
    finish: Callable[..., Path]

    @property
    def folder(self) -> Path:
        return self.out.parent

    @property
    def images(self) -> list[Path]:
        return sorted(path for path in self.photographs.rglob("*.*") if path.is_file())

    def label(self) -> None:
        """Says which classes the photographs show, so that tags can be measured."""
        path = self.folder.parent / "labels.csv"  # of all tests, which share what was measured
        path.write_text("".join(f"{p.relative_to(self.photographs)},cat\n" for p in self.images))
        self.given.append(f"dataset.labels={path}")

    def measure(self) -> Path:
        """Computes and measures tags, and returns the file of figures."""
        self.label()
        return self.finish(self.given[-1], "stage=[tags,evaluate]") / "metrics.json"

    def make_masks(self) -> Path:
        return latest(self.finish("stage=[tags,cams,masks]"), "masks")

    def train(self) -> Path:
        """Trains a network, and returns its checkpoint."""
        self.given += TINY_SEGMENTER
        out = self.finish(*TINY_SEGMENTER, "stage=[tags,cams,masks,train]")
        return out / "segmenter/latest/iter_2.pth"

    def run(self, *more: str) -> Finished:
        return self.stage(*self.given, *more)

    def do(self, *more: str) -> None:
        assert (done := self.run(*more)).code == 0, done.errors

    def report(self) -> Finished:
        """Writes the report, and returns its words with what the run said."""
        done = self.run("stage=report")
        page = html.unescape(re.sub("<[^<>]*>", "", (self.out / "report.html").read_text("utf-8")))
        return replace(done, output=done.output + page)

    def tables(self, *options: str) -> Finished:
        """Writes tables of the results, and returns what they and the tool say."""
        path = self.folder / "tables.md"
        done = self.tool("make_tables.py", *options, self.out, "--output", path)
        return replace(
            done, output=done.output + (path.read_text("utf-8") if path.is_file() else "")
        )

    def export(self) -> Finished:
        given = ["--format", "coco", "--images", self.photographs]
        masks = latest(self.out, "masks")
        return self.tool("export.py", masks, *given, "--output", self.folder / "a.json")

    def segment(self, checkpoint: Path) -> Finished:
        given = ["--checkpoint", checkpoint, "--output", self.folder / "masks", "--device", "cpu"]
        return self.tool("predict.py", *given, self.images[0])


@pytest.fixture
def world(arguments, photographs, run_stage, run_tool, finish, tmp_path) -> World:
    return World([*arguments], tmp_path / "out", photographs, run_stage, run_tool, finish)


@pytest.fixture
def follow(request, world, type_line) -> Iterator[Callable[..., None]]:
    """Types what is advised until nothing is any more, which is soon.

    Each of some outputs has to show the next one of the forms that the test types. Their advice is
    typed in that order, so that the first alone is known to help.
    """
    words = iter(request.function.types)

    def advice(done: Finished, pattern: str | re.Pattern = r"[^\n]*\brun stage=") -> str:
        """Returns a command line that is advised, or ""."""
        said = done.output + done.errors
        if (found := re.search(pattern, said)) is None:
            return ""
        said = said[found.start() :].partition("\n")[0]
        stage = re.search(r"\brun stage=([\w,[\]]+)", said)[1]
        line = shlex.join(["python", "tools/run_stage.py", f"stage={stage}", *world.given])
        if "python " in said:
            line = command_in(said)
            assert re.search(rf"stage=\S*\b{stage}\b", line), f"{stage} is not run by {line}"
        return line

    def follow(*shows: Callable[[], Finished]) -> None:
        advised, typed = [], []
        for show in shows:
            form, done = form_with(next(words)), show()
            advised.append(advice(done, form.pattern))
            said = f"{done.output[-999:]}\n{done.errors[-999:]}"
            assert advised[-1], f"{form.place} was not printed:\n{said}"
        for show, line in zip(shows, advised):
            line = line if line not in typed else advice(done := show())
            while line:
                assert len(typed) < 5, f"the advice goes round: {typed}"
                type_line(line)
                typed.append(line)
                line = advice(done := show())
            assert done.code == 0, f"after {typed}: {done.errors}"

    yield follow
    assert not [*words], "forms that were not shown"


@types("{wrong}: run stage={stage.command} first")
def test_nothing_was_computed(world, follow):
    follow(partial(world.run, "stage=cams"))


@types("there is nothing to evaluate")
def test_nothing_was_computed_to_be_measured(world, follow):
    world.label()
    follow(partial(world.run, "stage=evaluate"))


@types("Nothing was computed yet")
def test_nothing_was_computed_to_be_shown(world, follow):
    follow(world.report)


@types("(edited, damaged or removed)")
def test_a_result_was_edited(world, follow):
    shutil.rmtree(world.make_masks().parent)
    next(latest(world.out, "cams").rglob("*.npz")).write_bytes(b"")
    follow(partial(world.run, "stage=masks"))


@types("made from something else than there is now", "its photograph has changed")
def test_a_photograph_was_replaced(world, follow):
    world.make_masks()
    Image.fromarray(draw_photograph(7, 90, 70)).save(world.photographs / "a.jpg")
    follow(world.report, world.export)


@types("names no classes: run")
def test_a_manifest_lost_its_classes(world, follow):
    manifest = world.make_masks() / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"classes"', '"others"'))
    follow(world.export)


@types("holds no image: run")
def test_a_folder_lost_its_entries(world, follow):
    (world.make_masks() / "entries.jsonl").write_text("")
    follow(world.export)


@types("its CAMs are damaged")
def test_cams_are_damaged_after_they_were_checked(world, follow, monkeypatch):
    world.make_masks()
    next(latest(world.out, "cams").rglob("*.npz")).write_bytes(b"damaged")
    checks = iter([lambda *_: True])
    given = ("--images", world.photographs, "--output", world.folder / "drawn")

    def draw() -> Finished:
        with monkeypatch.context() as patch:
            for check in checks:
                patch.setattr("pipeline.engine.results.holds", check)
            return world.tool("overlay.py", latest(world.out, "cams"), *given)

    follow(draw)


@types("{change}: run stage=evaluate")
def test_measures_are_of_results_that_changed(world, follow):
    world.measure()
    world.images[0].write_bytes(world.images[2].read_bytes())
    world.do("stage=tags")
    follow(world.report)


@types("than those of this run: run")
def test_measures_are_of_another_run(world, follow):
    world.label()
    world.do("stage=[tags,evaluate]", "tags.votes=3")
    world.do("stage=tags")
    follow(world.report)


@types("{damage}, which is skipped: run")
def test_measures_are_damaged(world, follow):
    world.measure().write_text("[1, 2")
    follow(world.report)


@pytest.mark.large
@types("{metrics.damage}, which is skipped: run")
def test_measures_in_tables_are_damaged(world, follow):
    world.measure().write_text("[1, 2")
    follow(world.tables)


@types("nothing was measured{others}")
def test_nothing_was_measured(world, follow):
    world.measure().write_text('{"latest": {}, "runs": []}')
    follow(partial(world.tables, "--leaderboard"))


@types(
    "checkpoint {path} does not exist",
    "{wrong}: run stage=train first",
    "{what} in {folder} {wrong}: run",
)
def test_a_network_is_not_there(world, follow):
    world.make_masks()
    world.given += TINY_SEGMENTER
    predict, path = partial(world.run, "stage=predict"), world.out / "segmenter/latest/iter_2.pth"
    follow(partial(world.segment, path), predict)
    path.unlink()
    follow(predict)


@pytest.mark.large
@types("holds no checkpoint of a segmenter")
def test_a_folder_lost_its_network(world, follow):
    world.train().unlink()
    follow(partial(world.segment, world.out))


@pytest.mark.large
@types("is damaged: choose another file, or run")
def test_a_checkpoint_is_damaged(world, follow):
    path = world.train()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    follow(partial(world.segment, path))


@types("there is no image to train on")
def test_what_failed_is_corrected_and_masks_are_made(world, type_line):
    world.given += [*TINY_SEGMENTER, "runtime.max_failures=5"]
    whole = {path: path.read_bytes() for path in world.images}
    for path in world.images:
        path.write_bytes(b"")
    world.do("stage=[tags,cams,masks]")
    done = world.run("stage=train")
    assert done.code == 2 and form_with("no image to train on").pattern.search(done.errors)
    for path, content in whole.items():
        path.write_bytes(content)
    world.do("stage=[tags,cams]")
    stage = re.search(r"run stage=(\w+)", done.errors)[1]
    world.do(f"stage=[{stage},train]")


@types("learn from the images of a split: run")
def test_a_tagger_that_learns_is_for_runs(world, tiny_checkpoint):
    chosen = ["tags=piaa", "tags.min_score=0"]
    world.given = [each for each in world.given if not each.startswith("tags.")]
    with pytest.raises(UserError, match="learn from the images of a split") as caught:
        Labeller(["cat", "cup"], checkpoint=tiny_checkpoint, overrides=chosen)
    world.do(re.search(r"run (stage=\w+)", str(caught.value))[1], *chosen)


@pytest.mark.large
@types("is learned from pictures: run")
def test_a_bank_is_for_runs(world, tiny_checkpoint):
    own = [*bank.GIVEN, f"cams.bank.root={world.photographs}"]
    with pytest.raises(UserError, match="learned from pictures") as caught:
        Labeller(["cat", "cup"], checkpoint=tiny_checkpoint, overrides=own)
    world.do(re.search(r"run (stage=\w+)", str(caught.value))[1], *own, *TINY_SEGMENTER)


# What comes next


@types("next: {next_command(given)}", "next: {next_command(given, following[0])}")
@types("next_command(kept, stages)", "next: {command()} {shlex.join([*settings, *more])}")
def test_one_command_after_the_other_leads_from_the_download_to_corrected_tags(
    world, run_tool, type_line, working_folder
):
    world.label()
    world.given += [*TINY_SEGMENTER, "dataset.limit=3"]
    done, seen = run_tool("download.py", *world.given, "stage=tags", "dry_run=false"), []
    assert done.code == 0, done.errors
    done = world.run("stage=tags", "dry_run=true")
    while "next: python" in (last := done.output.splitlines()[-1]):
        seen.append(re.search(r"stage=(\w+)", last)[1])
        done = type_line(command_in(last))
    assert seen == ["tags", "cams", "masks", "train", "predict", "evaluate", "report"]
    assert last == f"next: open {world.out / 'report.html'} in a browser"
    page = (world.out / "report.html").read_text("utf-8")
    shown = html.unescape(re.search(r'<code id="command">(.*?)</code>', page, re.DOTALL)[1])
    (working_folder / "corrections.csv").write_text("id,classes\na,cat;cup\n")
    type_line(shown)
    (working_folder / "corrections.csv").unlink()
    assert "a 0 3\n" in (latest(world.out, "tags") / "tags.txt").read_text()


@types("next_command(given, next(given_in, 'tags'))")
def test_an_empty_folder_says_what_fills_it(world, type_line):
    type_line(command_in(world.run("stage=status").output))
    assert (latest(world.out, "tags") / "tags.txt").is_file()


@types("{command()} --cfg job shows them all", "{command()} help KEY")
def test_settings_are_shown(run_stage, type_line):
    wrong = run_stage("tags.alfa=1")
    assert "\n  alpha: " in type_line(command_in(wrong.errors)).output
    helped = run_stage("help", "clip=vit_b16").output
    line = re.search(r"what a setting means: (.*)", helped)[1]
    assert type_line(line.replace("KEY", "tags.alpha")).output.startswith("tags.alpha=")


@types("{word} is a stage: run", "or run stages with {command()} stage=…")
def test_a_stage_as_a_word(world, monkeypatch, capsys):
    def type_it(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/afseg", *words])
        with pytest.raises(SystemExit) as ended:
            console.main()
        return ended.value.code, capsys.readouterr().err

    for word, said in {"tags": "run afseg stage=tags\n", "tagz": "with afseg stage=…\n"}.items():
        code, errors = type_it(word)
        assert code == 2 and errors.endswith(said)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/afseg", "stage=tags", *world.given])
    console.main()
    assert "5 computed now" in capsys.readouterr().out


# Downloads for a machine without a network

SECOND = ("cams.second.model", "cams.second.checkpoint")
ORIGINS = {
    "open_clip": partial(find_origin, "ViT-B-16", "openai"),
    **{
        name: partial(find_origin, name, None)
        for name in ("tipsv2_b14", "c_radio_v3_b16", "talk2dino_b14", "hf:org/name")
    },
    "second": lambda file: (
        FrozenSecond(SECOND, "dino_vitb8", "dino_vitb8", file, "cpu", "fp32").origin
    ),
}


@types("--output . where there is a network", "--output DIR where there is a network")
@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS)
def test_weights_are_fetched_elsewhere(origin, type_line, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise OSError("no network")

    for name in ("find_cached", "try_to_load_from_cache"):
        monkeypatch.setattr(f"pipeline.files.hugging_face.{name}", lambda *_, **__: None)
    for place in (
        "huggingface_hub.utils.get_session",
        "pipeline.files.hugging_face.fetch_to_cache",
    ):
        monkeypatch.setattr(place, unreachable)
    with pytest.raises(NotDownloaded) as caught:
        origin(None).files()
    folder = tmp_path / "weights"
    line = command_in(str(caught.value)).replace(" DIR", f" {folder}").replace(" .", f" {folder}")
    places = re.findall(r"→ (.*)", type_line(f"{line} --dry-run").output)
    assert places
    for place in map(Path, places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
    given = folder if len(places) > 1 else Path(places[0])
    assert {*map(str, origin(given).files().values())} == {*places}


@types("segmenter.pretrained=imagenet: {url} could not be")
def test_a_network_is_fetched_elsewhere(type_line, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("pipeline.segmenter.weight_sources.find_cached", lambda _: None)
    monkeypatch.setattr("pipeline.segmenter.weight_sources.fetch_to_cache", unreachable)
    with pytest.raises(NotDownloaded) as caught:
        load("imagenet", type="ResNet", depth=18)
    line = f"{command_in(str(caught.value))} --output {tmp_path} --dry-run"
    assert f"→ {tmp_path}/resnet18-f37072fd.pth" in type_line(line).output


# Tables


@types("`{command()} {settings}`")
@pytest.mark.parametrize("chosen", large_except(["one of a kind"], ["one of a kind", "all"]))
def test_what_was_not_measured_is_planned_by_the_command_of_its_table(
    chosen, world, type_line, tiny_checkpoint
):
    sets = Miniatures(world.folder)
    world.out.mkdir()
    lines = re.findall(r"`(python \S+ experiment=.*)`", world.tables().output)
    assert len({*lines}) > 15
    settings = {re.sub(r"experiment=\S+", "", line): line for line in sorted(lines)}
    for line in settings.values() if chosen != "all" else sorted({*lines}):
        name = re.search(r"experiment=(\S+)", line)[1]
        root = sets.roots[compose([f"experiment={name}", "dataset.root=x"]).dataset.name]
        given = line.replace("sbd_root=DIR", f"sbd_root={sets.sbd}").replace("=DIR", f"={root}")
        for place in re.findall(r"image_list=(\S+)", given):
            fetched = type_line(f"{given.replace('run_stage', 'download')} clip=demo --dry-run")
            assert f"/{place}\n" in fetched.output
            Path(place).parent.mkdir(parents=True)
            Path(place).write_text(f"{coco_names('val2017')[0]}.jpg\n")
        type_line(f"{given} clip=file clip.checkpoint={tiny_checkpoint} dry_run=true")


@pytest.mark.extras
@types("{command()} {shlex.join(words)}")
def test_the_app_shows_a_command(world, tiny_checkpoint, type_line):
    library("gradio")
    from pipeline.app.folder import Folder
    from pipeline.app.labellers import Labellers

    own = world.given[5:]
    chosen = Labellers("file", {}, [f"clip.checkpoint={tiny_checkpoint}", *own], 0.3)
    folder = Folder(chosen, str(world.photographs), 5, world.out)
    type_line(folder.told("cat\nperson\nrocket\ncup", "wall", 0.3, "Masks"))


# All of them


ELSEWHERE = {
    "','.join(parse_stages([*commands]))": "commands/test_wrong_use.py",
    "{command('download')} {SAME_SETTINGS}": "stages/test_weights.py",
    "next_command(given)": "stages/test_weights.py",
    "{command()}": "stages/test_weights.py",
    "run python tools/benchmark.py in a checkout": "docs/test_printed_words.py",
}
"""Words of forms that the tests of a file type."""
UNSEEN = {
    "{wrong}: run stage={self.command} first": "what learns runs with the stage that uses it",
    "has no tags: run stage=tags first": "the scan has found tags",
}
"""Words of forms that no command line of ours leads to, and why."""


def test_every_form_is_typed():
    """A new message with a command needs a test that types it: a scene above, or one of its own."""
    seen = {**TYPED, **ELSEWHERE, **UNSEEN}
    untyped = {*commands()} - {form for words in seen for form in forms_with(words)}
    assert not untyped, "nobody types\n" + "\n".join(sorted(form.place for form in untyped))
    for words, test in seen.items():
        found = [form.place for form in forms_with(words)]
        assert len(found) == 1, f"{words!r}, of {test}, is in {found}"
    assert all((REPOSITORY / "tests" / file).is_file() for file in ELSEWHERE.values())
