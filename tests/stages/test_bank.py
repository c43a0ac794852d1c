"""Runs with a memory bank: what is learned once, what is stale when pictures change, refusals."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline import Labeller
from pipeline.dense.corrclip.bank import Bank
from pipeline.dense.corrclip.learning import LearnedBank, RegionEncoder
from pipeline.engine.store import encode_arrays
from pipeline.files.fingerprints import fingerprint_cached
from tests.files_opened import files_opened
from tests.small_runs import Finished, draw_photograph, latest
from tests.tiny_second import dino_file

SECOND = ["cams.second.model=null", f"cams.second.checkpoint={dino_file()}"]
GIVEN = ["cams=corrclip", *SECOND, "cams.slic.segments=6", "cams.bank.neighbours=3"]
GIVEN += ["cams.bank.short_side=64", "cams.bank.window=64", "cams.bank.stride=32"]
DENSE = ["masks=dense", "masks.short_side=64", "masks.names=classes", "stage=masks"]
CRF = ["stage=[tags,cams,masks]"]
SPLIT = "cams.bank.root"

pytestmark = pytest.mark.large


def draw(path: Path, seed: int) -> None:
    Image.fromarray(draw_photograph(seed, 60, 80)).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four pictures that are no photographs of the run."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        draw(folder / f"picture_{number}.png", 100 + number)
    return folder


@pytest.fixture
def run(run_stage, arguments, pictures) -> Callable[..., Finished]:
    given = [*arguments, *GIVEN, f"cams.bank.root={pictures}"]
    return lambda *more: run_stage(*given, *(more or CRF))


def images_of(finished: Finished) -> dict[str, int]:
    """Returns stage → images computed now; of masks, which may follow from equal CAMs, all or 0."""
    found = {stage: now for stage, now in finished.computed.items() if now}
    return found | ({"masks": 5} if "masks" in found else {})


@pytest.mark.parametrize("masks", [CRF, DENSE], ids=["crf", "dense"])
@pytest.mark.parametrize("own", [False, True])
def test_a_split_is_a_bank_whose_own_regions_are_left_out(
    run_stage, arguments, photographs, tmp_path, monkeypatch, masks, own
):
    without, support = [], Bank.support
    monkeypatch.setattr(
        Bank, "support", lambda *given: without.append(given[-1]) or support(*given)
    )
    given = [*arguments, *GIVEN, "cams.bank.split=all", f"cams.bank.own={own}", *masks]
    done = images_of(run_stage(*given))
    assert done["region_vectors"] == done["bank"] == done["masks"] == 5
    contents = {fingerprint_cached(path) for path in photographs.rglob("*.*")}
    with np.load(latest(tmp_path / "out", "bank") / "bank.npz") as bank:
        assert {*bank["contents"]} == contents
        assert len(bank["keys"]) == len(bank["values"]) == len(bank["pictures"]) > 10
    assert {*without} == ({""} if own else contents)
    assert not images_of(run_stage(*given))
    plain = run_stage(*arguments, *GIVEN, *masks)
    assert "bank" not in plain.counts and plain.counts["masks"][0] == 5


def test_what_pictures_change_and_nothing_else(run, pictures, tmp_path):
    everything = {"tags": 5, "region_vectors": 4, "bank": 4, "cams": 5, "masks": 5}
    assert images_of(run()) == everything and not images_of(run())
    again, after = (*CRF, "cams.bank.refit=true"), {"cams": 5, "masks": 5}
    draw(pictures / "picture_4.png", 104)
    assert not images_of(run())  # a bank is not learned anew for one picture
    assert images_of(run(*again)) == {"region_vectors": 1, "bank": 5, **after}
    draw(pictures / "picture_0.png", 105)
    noted = run()
    assert not images_of(noted) and "cams.bank.refit=true learns anew" in noted.errors
    assert images_of(run(*again)) == {"region_vectors": 1, "bank": 5, **after}
    (pictures / "picture_1.png").unlink()
    assert images_of(run(*again)) == {"bank": 4, **after}
    assert not images_of(run(*again))
    for number in range(2, 5):
        draw(pictures / f"picture_{number}.png", 110 + number)
    assert images_of(run()) == {"region_vectors": 3, "bank": 4, **after}  # most of them are new
    # What follows the search costs no look at pictures.
    assert images_of(run(*CRF, "cams.bank.share=0.3")) == after
    fewer_pixels = images_of(run(*CRF, "cams.bank.short_side=48"))
    assert fewer_pixels == {"region_vectors": 4, "bank": 4, **after}


def test_a_limit_leaves_the_bank_whole(run):
    assert images_of(run(*CRF, "dataset.limit=2"))["bank"] == 4


def test_label_maps_have_a_bank_of_their_own(run):
    assert images_of(run(*DENSE)) == {"region_vectors": 4, "bank": 4, "masks": 5}
    # It looks at pictures with the positions of released code.
    assert images_of(run(*DENSE, "compat.position_scale=true"))["region_vectors"] == 4


def test_cams_and_label_maps_of_one_run_have_both_banks(run):
    done = run(*CRF, *DENSE[:-1], "compat.position_scale=true")
    assert done.code == 0 and done.output.count("for cams") == done.output.count("for masks") == 2
    assert images_of(done) == {"tags": 5, "region_vectors": 4, "bank": 4, "cams": 5, "masks": 5}


def test_a_picture_that_cannot_be_read_is_named_and_left_out(run, pictures, tmp_path):
    (pictures / "picture_2.png").write_bytes(b"no picture")
    done = run()
    assert done.code == 0 and "picture_2: cannot be decoded" in done.output + done.errors
    assert images_of(done) == {"tags": 5, "region_vectors": 3, "bank": 3, "cams": 5, "masks": 5}
    draw(pictures / "picture_2.png", 102)
    again = run(*CRF, "cams.bank.refit=true")
    assert images_of(again) == {"region_vectors": 1, "bank": 4, "cams": 5, "masks": 5}


def test_a_killed_learning_resumes(run, monkeypatch):
    look, count = RegionEncoder.__call__, []

    def dies(*given: object) -> object:
        count.append(given)
        if len(count) == 3:
            raise KeyboardInterrupt
        return look(*given)

    with monkeypatch.context() as patched:
        patched.setattr(RegionEncoder, "__call__", dies)
        assert run().code != 0
    done = images_of(run())
    assert done.pop("region_vectors") in (2, 3)  # the second may not have been written
    assert done == {"bank": 4, "cams": 5, "masks": 5}


def write_regions(folder: Path, *names: str, values: tuple[int, int] = (3, 5)) -> None:
    """Writes two regions of each picture, left and right; 0 is none."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = np.uint8([values]).repeat(40, 1).repeat(60, 0)
    for name in names:
        Image.fromarray(halves).save(folder / f"{name}.png")


def test_files_of_regions_are_those_of_the_pictures(run, tmp_path):
    folder = tmp_path / "regions"
    write_regions(folder, "picture_0", "picture_2", values=(0, 3))
    write_regions(folder, "picture_1", values=(0, 0))
    done = run(*CRF, f"cams.bank.regions={folder}")
    assert "picture_3: has no regions" in done.output + done.errors
    with np.load(latest(tmp_path / "out", "bank", SPLIT) / "bank.npz") as bank:
        assert bank["pictures"].tolist() == [0, 1]  # one region of each picture that has any


def test_a_bank_is_not_older_than_the_regions_of_its_pictures(run, pictures, tmp_path):
    names, folder = [path.stem for path in sorted(pictures.iterdir())], tmp_path / "regions"
    write_regions(folder, *names)
    of_folder, after = (*CRF, f"cams.bank.regions={folder}"), {"cams": 5, "masks": 5}
    assert images_of(run(*of_folder))["bank"] == 4 and not images_of(run(*of_folder))
    write_regions(folder, names[0], values=(0, 5))
    noted, again = run(*of_folder), (*of_folder, "cams.bank.refit=true")
    assert not images_of(noted) and "changed: 1" in noted.output + noted.errors
    assert images_of(run(*again)) == {"region_vectors": 1, "bank": 4, **after}
    write_regions(folder, *names[1:], values=(0, 5))  # those of most pictures
    assert images_of(run(*of_folder)) == {"region_vectors": 3, "bank": 4, **after}
    with np.load(latest(tmp_path / "out", "bank", SPLIT) / "bank.npz") as bank:
        assert len(bank["keys"]) == 4


def test_folders_of_equal_last_names_are_two_banks(run_stage, arguments, pictures, tmp_path):
    def images_by(name: str) -> dict[str, int]:
        root = f"cams.bank.root={tmp_path / name / 'pictures' / 'jpg'}"
        return images_of(run_stage(*arguments, *GIVEN, *CRF, root))

    for name, left_out in (("a", ["picture_3.png"]), ("b", []), ("moved", [])):
        shutil.copytree(
            pictures, tmp_path / name / "pictures" / "jpg", ignore=lambda *_, out=left_out: out
        )
    assert images_by("a")["bank"] == 3
    assert images_by("b") == {"region_vectors": 1, "bank": 4, "cams": 5, "masks": 5}
    # From equal contents follow equal results, which are taken over.
    assert images_by("moved") == {"bank": 4}
    assert not images_by("b") and not images_by("a/../b"), "one folder by two names"


def test_a_missing_folder_of_a_bank_stops_what_reads_it_alone(run, pictures):
    assert run().code == 0
    shutil.rmtree(pictures)
    assert run("stage=tags").code == run("stage=masks").code == 0
    done = run("stage=cams")
    assert done.code == 2 and "is not a folder" in done.errors


def test_a_bank_that_was_learned_is_not_read_again(run, tmp_path):
    assert run().code == 0
    path = latest(tmp_path / "out", "bank", SPLIT).resolve() / "bank.npz"
    os.utime(path, (1, 1))  # what has just been written is read once more
    is_read = []
    for more in (CRF, CRF, [*CRF, "dry_run=true"]):
        with files_opened() as paths:
            assert run(*more).code == 0
        is_read.append(path in paths)
    assert is_read == [True, False, False]


def test_learning_takes_hardly_more_memory_than_the_bank(tmp_path):
    entries = {}
    for name in map(str, range(20)):
        arrays = {each: np.zeros((2560, 512), np.float16) for each in ("keys", "values")}
        (tmp_path / f"{name}.npz").write_bytes(encode_arrays(**arrays))
        entries[name] = {"id": name, "regions": 2560, "inputs": {"photograph": name}}
    results = SimpleNamespace(path=tmp_path, entries=entries)
    tracemalloc.start()
    with (tmp_path / "bank.npz").open("wb") as file:
        LearnedBank.learn(SimpleNamespace(split="all"), [*entries], results, file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * (tmp_path / "bank.npz").stat().st_size


def test_whole_pictures_need_no_bank(run_stage, arguments, tiny_checkpoint):
    whole = [*GIVEN, "cams.whole_picture=true", "cams.merge=0"]
    for masks in (CRF, DENSE):
        done = run_stage(*arguments, *whole, *masks)
        assert done.counts["masks"][0] == 5, done.errors
    labeller = Labeller(["cat", "cup"], checkpoint=tiny_checkpoint, overrides=whole)
    image = draw_photograph(1, 64, 80)
    cams = labeller.cams(image, ["cup"])
    plain = Labeller(["cat", "cup"], checkpoint=tiny_checkpoint, overrides=GIVEN)
    assert not np.array_equal(cams, plain.cams(image, ["cup"]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["cams.bank.split=other"], "there is no split other"),
        (["cams.bank.root=nowhere"], "cams.bank.root=nowhere is not a folder"),
        (["cams.bank.root=empty"], "cams.bank.root=empty holds no image"),
        (["cams.bank.split=all", "cams.bank.root=empty"], "are two banks: give one of them"),
        (["cams.bank.stride=100"], "cams.bank.stride=100 leaves gaps"),
        (["cams.bank.split=all", "cams.bank.regions=nowhere"], "cams.bank.regions=nowhere is not"),
        (["cams.bank.split=all", "cams.regions=nowhere"], "cams.regions=nowhere is not"),
        (
            ["cams.bank.split=all", *DENSE, "masks.window_softmax=true"],
            "give masks.window_softmax=false",
        ),
    ],
)
def test_what_cannot_be_a_bank_is_refused(run_stage, arguments, working_folder, more, message):
    (working_folder / "empty").mkdir(exist_ok=True)
    done = run_stage(*arguments, *GIVEN, *CRF, *more)
    assert done.code == 2 and message in done.errors, done.errors
    assert not done.counts, "nothing was computed before"


def test_a_picture_without_any_other_has_no_support(run, pictures, photographs, tmp_path):
    for path in [*pictures.iterdir()]:
        path.unlink()
    shutil.copy(photographs / "a.jpg", pictures / "copy.jpg")
    assert run().code == 0  # of the photograph's own regions none counts


def test_regions_of_few_pictures_are_refused(run, tmp_path):
    (tmp_path / "few").mkdir()
    done = run(*CRF, f"cams.bank.regions={tmp_path / 'few'}")
    assert done.code == 2 and "0 of 4 images of split cams.bank.root" in done.errors
    assert "image_list" not in done.errors  # which no folder has


def test_settings_without_a_bank_are_noted(run_stage, arguments):
    done = run_stage(*arguments, *GIVEN, *CRF)
    assert done.code == 0 and "cams.bank has no effect without cams.bank.root" in done.errors


def test_another_backbone_may_look_at_windows_of_the_bank(run):
    other = f"cams.bank.second.checkpoint={dino_file(16)}"
    assert images_of(run())["region_vectors"] == images_of(run(*CRF, other))["region_vectors"] == 4
