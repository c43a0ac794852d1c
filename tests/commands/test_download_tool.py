"""Data sets from a server on the loopback, as tools/download.py lays them out for our readers."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import yaml
from huggingface_hub import constants
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT
from torchvision.models import get_model_weights

from pipeline.clip.image_text import Release
from pipeline.clip.origins.origin import find_origin
from pipeline.clip.second import SECONDS
from pipeline.commands.download import run
from pipeline.datasets import sources
from pipeline.datasets.sources import read_downloads
from pipeline.errors import UserError
from pipeline.report.tables.published import load_published
from pipeline.stages.config import compose
from pipeline.stages.weights import missing_weights
from tests import REPOSITORY
from tests.datasets import miniature_coco, miniatures
from tests.files.server import Answer, serving

SBD, CONTEXT = "benchmark.tgz", "VOCtrainval_03-May-2010.tar"
EXPERIMENTS = sorted(
    path.stem for path in (REPOSITORY / "configs" / "experiment").glob("[!_]*.yaml")
)


def zipped(path: Path, root: Path, *folders: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for folder in folders:
            for file in sorted(p for p in (root / folder).rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(root))


def tarred(path: Path, root: Path, name: str, holds=lambda member: True) -> None:
    mode = "w:gz" if path.suffix == ".tgz" else "w"
    with tarfile.open(path, mode) as archive:
        archive.add(root / name, name, filter=lambda member: member if holds(member) else None)


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, bytes]:
    """Archives of every data set, with the formats and paths of the real ones, by name."""
    made, base = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("miniatures")
    voc = miniatures.build_voc2007(base).parent
    miniatures.build_voc2012(base)

    def of_2007(*lists):
        def holds(member):
            path = Path(member.name)
            return path.parent.name != "Main" or path.name.split("_")[-1] in lists

        return holds

    test = of_2007("test.txt")
    rest = of_2007("train.txt", "val.txt", "trainval.txt")
    tarred(made / "VOCtest_06-Nov-2007.tar", voc, "VOCdevkit/VOC2007", test)
    tarred(made / "VOCtrainval_06-Nov-2007.tar", voc, "VOCdevkit/VOC2007", rest)
    tarred(made / "VOCtrainval_11-May-2012.tar", voc, "VOCdevkit/VOC2012")
    tarred(
        made / CONTEXT, miniatures.build_context(base).parents[1], "VOCdevkit/VOC2010/JPEGImages"
    )
    (made / "trainval_merged.json").write_text(json.dumps(miniatures.context_json()))
    tarred(made / SBD, miniatures.build_sbd(base).parent, "benchmark_RELEASE")
    zipped(made / "ADEChallengeData2016.zip", miniatures.build_ade20k(base), "ADEChallengeData2016")
    for year in ("2014", "2017"):
        for split in ("train", "val"):
            root = miniature_coco.build_coco(base / year, f"{split}{year}")
            zipped(made / f"{split}{year}.zip", root, f"{split}{year}")
        zipped(made / f"annotations_trainval{year}.zip", root, "annotations")
    stuff = base / "stuff"
    for split in ("train2017", "val2017"):
        root = miniature_coco.build_cocostuff(stuff, split) / "stuffthingmaps"
    zipped(made / "stuffthingmaps_trainval2017.zip", root, "train2017", "val2017")
    return {path.name: path.read_bytes() for path in made.iterdir()}


@pytest.fixture
def web(archives, monkeypatch, tmp_path):
    """A server with these archives; sources.yaml names it, with their sizes and checksums."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.commands.download.missing_weights", lambda *_, **__: {})
    content = yaml.safe_load(sources.SOURCES.read_text())
    with serving() as server:
        for entry in content.values():
            for file in entry.get("files", ()):
                name = file["urls"][0].rpartition("/")[2]
                file["urls"] = [server.url(name)]
                server.files[name] = data = archives.get(name, b"")
                if "size" in file:
                    file["size"] = len(data)
                for algorithm in {"md5", "sha1", "sha256"} & {*file}:
                    file[algorithm] = hashlib.new(algorithm, data).hexdigest()
        content["lists"]["base"] = server.url("imageset/")
        for name in content["lists"]["names"]:
            server.files[f"imageset/{name}"] = b"000000000139 0 3\n"
        path = tmp_path / "sources.yaml"
        path.write_text(yaml.safe_dump(content))
        monkeypatch.setattr(sources, "SOURCES", path)
        yield server


def read_everything(dataset) -> int:
    """Reads the photograph and the mask of every sample of every split; returns their number."""
    count = 0
    for split in dataset.splits:
        for sample in dataset.splits[split]:
            assert sample.image.is_file()
            assert sample.mask is None or sample.mask.read().ndim == 2
            count += 1
    return count


@pytest.mark.parametrize("name", ["voc2007", "voc2012", "coco2014", "coco2017", "ade20k"])
def test_what_was_downloaded_is_read(name, web, tmp_path, capsys):
    run([f"dataset={name}", "dataset.root=data"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"next: python tools/run_stage.py dataset={name} dataset.root=data"
    )
    dataset = miniatures.load(name, Path("data"))
    assert {"train", "val"} <= {*dataset.splits}
    assert read_everything(dataset)
    [left] = {path for path in Path("data").rglob(".download") if path.is_dir()}
    assert {path.suffix for path in left.iterdir()} <= {".done", ""}  # and the lock


def test_sbd_gives_train_aug(web, tmp_path):
    run(["dataset=voc2012", "dataset.root=data", "dataset.sbd_root=data/benchmark_RELEASE"])
    changes = {"sbd_root": "data"}
    dataset = miniatures.load("voc2012", Path("data"), **changes)
    assert [s.id for s in dataset.splits["train_aug"]] == miniatures.TRAIN_AUG
    assert read_everything(dataset)
    assert not Path("data/benchmark_RELEASE/benchmark_RELEASE").exists()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_pascal_context_is_read_from_the_json_that_was_downloaded(elsewhere, web, capsys):
    path = "ann/x.json" if elsewhere else "data/VOC2010/trainval_merged.json"
    words = ["dataset=context60", "dataset.root=data"]
    words += [f"dataset.annotations={path}"] if elsewhere else []
    web.files["trainval_merged.json"] += b" "
    with pytest.raises(UserError, match=r"trainval_merged.json.*its sha1 is"):
        run(words)
    assert not Path(path).exists() and Path("data/VOC2010/JPEGImages").is_dir()
    web.files["trainval_merged.json"] = web.files["trainval_merged.json"][:-1]
    run(words)
    assert [name for name, _ in web.requests].count(CONTEXT) == 1, "it was unpacked before"
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[3:] == words
    changes = {"annotations": path} if elsewhere else {}
    assert read_everything(miniatures.load("context60", Path("data"), **changes)) == 3
    asked = len(web.requests)
    run(words)
    assert len(web.requests) == asked
    Path(path).unlink()
    shutil.rmtree(Path("data/VOC2010/.download"))  # as if the images were laid out by hand
    web.plan["trainval_merged.json"] = [Answer(404)]
    with pytest.raises(UserError, match=re.escape(str(Path(path).absolute()))):
        run(words)
    assert [name for name, _ in web.requests].count(CONTEXT) == 1


def printed_for_context() -> list[str]:
    """Returns the arguments that pages and tables print for Pascal Context."""
    lines = (REPOSITORY / "docs" / "data-sets.md").read_text(encoding="utf-8").splitlines()
    of_page = [line.partition("run_stage.py ")[2] for line in lines if "=context" in line]
    columns = (column.command for table in load_published() for column in table.columns)
    return [*filter(None, of_page), *(c for c in columns if "_context" in c)]


@pytest.mark.large
@pytest.mark.parametrize("printed", printed_for_context())
def test_printed_commands_of_pascal_context_lead_from_the_download_to_the_table(
    printed, web, run_tool, tmp_path
):
    words = [word.replace("DIR", str(tmp_path / "data")) for word in printed.split()]
    run(words)
    given = [*words, "clip=demo", f"output_dir={tmp_path / 'out'}", "stage=[masks,evaluate]"]
    given += ["masks=dense", "cams=sclip"] if "experiment" not in printed else []
    finished = run_tool("run_stage.py", *given)
    assert finished.code == 0, finished.errors
    if "experiment" in printed:
        assert "partial: 2 images" in run_tool("make_tables.py", tmp_path / "out").output


def test_the_printed_commands_of_pascal_context_are_found():
    printed = " ".join(printed_for_context())
    assert all(name in printed for name in ("dataset=context60", "context60 ", "sclip_context59"))


def test_masks_of_pascal_context_that_were_laid_out_by_hand_need_no_json(web, tmp_path):
    root = miniatures.build_context(tmp_path)
    (root / ".download").mkdir()
    (root / ".download" / f"{CONTEXT}.done").touch()  # from an earlier download of the images
    run(["dataset=context59", "dataset.root=VOCdevkit"])
    assert not web.requests


def test_a_dead_address_does_not_stop_another_download(web):
    web.plan["trainval_merged.json"] = [Answer(404)]
    with pytest.raises(UserError, match="trainval_merged.json could not be downloaded"):
        run(
            [
                "dataset=context60",
                "dataset.root=data",
                "dataset.image_list=imageset/voc2012/val.txt",
            ]
        )
    assert Path("imageset/voc2012/val.txt").is_file()


@pytest.fixture
def second_backbone(web, monkeypatch, tmp_path) -> Release:
    """SAM's encoder, whose file the server holds, and which goes to a cache of its own."""
    monkeypatch.setattr("pipeline.commands.download.missing_weights", missing_weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    web.files["sam.pth"] = b"weights"
    changed = replace(SECONDS["sam_vit_b"], files={"weights": (web.url("sam.pth"),)})
    monkeypatch.setitem(SECONDS, "sam_vit_b", changed)
    return changed


def test_what_is_given_on_request_stops_no_other_download(second_backbone, tmp_path):
    with pytest.raises(UserError, match="clip.model=dinotxt3_l16 is given on request") as refused:
        run(["experiment=dinotxt3_ade20k", "dataset.root=data"])
    assert Path("data/ADEChallengeData2016/images").is_dir()
    assert str(refused.value).count("on request") == 1
    given = ["dataset=demo", "clip=demo", "cams=trident", "cams.second.model=dinov3_vitb16"]
    with pytest.raises(UserError, match="cams.second.model=dinov3_vitb16 is given on request"):
        run([*given, "stage=[tags,cams]"])
    [kept] = (tmp_path / "cache").rglob("sam.pth")
    assert kept.read_bytes() == b"weights"


def test_cityscapes_is_said_to_be_for_registered_users(web, capsys):
    run(["dataset=cityscapes", "dataset.root=data"])
    told = capsys.readouterr().err
    assert "registered users" in told and "docs/data-sets.md" in told and not web.requests


def test_cocostuff_lies_beside_coco_whose_images_are_downloaded_once(web, tmp_path):
    run(["dataset=coco2017", "dataset.root=coco", "dataset.split=val"])
    asked = len(web.requests)
    words = "dataset=cocostuff dataset.root=coco dataset.image_list=imageset/cocostuff/val.txt"
    run([*words.split(), "dataset.split=[val]"])
    assert [path for path, _ in web.requests[asked:]] == [
        "stuffthingmaps_trainval2017.zip",
        "imageset/cocostuff/val.txt",
    ]
    changes = {"split": "val", "image_list": "imageset/cocostuff/val.txt"}
    dataset = miniatures.load("cocostuff", Path("coco"), **changes)
    assert [sample.id for sample in dataset.splits["val"]] == ["000000000139"]


@pytest.mark.parametrize(
    "name, split, files",
    [
        ("voc2007", "test", ["VOCtest_06-Nov-2007.tar"]),
        ("voc2012", "test", ["VOC2012test.tar"]),
        ("coco2014", "[val]", ["annotations_trainval2014.zip", "val2014.zip"]),
        ("voc2012", "[train,val]", ["VOCtrainval_11-May-2012.tar"]),
    ],
)
def test_a_split_needs_only_some_files(name, split, files, web, capsys):
    run([f"dataset={name}", "dataset.root=data", f"dataset.split={split}", "--dry-run"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if not line.startswith(" ")] == files


@pytest.mark.parametrize("root", ["VOCdevkit/VOC2012", "VOCdevkit", "elsewhere/VOC2012"])
def test_the_root_may_be_the_data_sets_own_folder(root, web):
    run(["dataset=voc2012", f"dataset.root={root}"])
    assert [*Path().rglob("JPEGImages")] == [
        Path(root.removesuffix("/VOC2012"), "VOC2012/JPEGImages")
    ]


def test_a_dry_run_asks_nobody_and_writes_nothing(web, tmp_path, capsys):
    before = {*tmp_path.rglob("*")}
    run(["dataset=voc2012", "dataset.root=data", "dataset.sbd_root=sbd", "--dry-run"])
    assert "VOCtrainval_11-May-2012.tar  " in (printed := capsys.readouterr().out)
    assert "missing; md5" in printed and f"→ {tmp_path}/data/VOC2012" in printed
    assert "licence: photographs of Flickr" in printed
    assert not web.requests and {*tmp_path.rglob("*")} == before


def test_tags_that_learn_are_planned_without_images(tmp_path):
    run(["experiment=z", f"dataset.root={tmp_path}", "--dry-run"])
    assert not any(tmp_path.iterdir())


def test_a_second_run_asks_nobody(web, capsys):
    words = ["dataset=ade20k", "dataset.root=ADEChallengeData2016"]
    run(words)
    asked = len(web.requests)
    run([*words, "--dry-run"])
    assert "already there" in capsys.readouterr().out
    run(words)
    assert "was unpacked before: to repeat it, delete" in capsys.readouterr().out
    assert len(web.requests) == asked


def test_the_same_command_goes_on_after_a_break(web, tmp_path):
    name = "VOCtrainval_11-May-2012.tar"
    web.plan[name] = [Answer(stop_after=1000), Answer(503)]
    words = ["dataset=voc2012", "dataset.root=data"]
    with pytest.raises(UserError, match="continue after 1.0 kB"):
        run(words)
    assert not [*Path("data").rglob("JPEGImages")]
    run(words)
    assert web.requests[-1] == (name, "bytes=1000-")
    assert miniatures.load("voc2012", Path("data")).splits["train"]


def test_an_archive_that_somebody_brings_is_unpacked(web, archives):
    name = "ADEChallengeData2016.zip"
    folder = Path("data/ADEChallengeData2016/.download")
    folder.mkdir(parents=True)
    (folder / name).write_bytes(archives[name])
    run(["dataset=ade20k", "dataset.root=data"])
    assert not web.requests and Path("data/ADEChallengeData2016/images").is_dir()


def test_a_data_set_that_was_laid_out_by_hand_stays(web, tmp_path, capsys):
    miniatures.build_voc2012(tmp_path)
    words = ["dataset=voc2012", "dataset.root=VOCdevkit", "tags.min_score=0.1"]
    run([*words, "dataset.split=val", "dataset.labels=imageset/voc2012/val.txt"])
    assert [path for path, _ in web.requests] == ["imageset/voc2012/val.txt"]
    web.requests.clear()
    run([*words, "dataset.split=[val,train_aug]", "dataset.sbd_root=sbd"])
    assert [path for path, _ in web.requests] == [SBD]
    run([*words, "dataset.split=test", "--dry-run"])
    assert "VOC2012test.tar  " in capsys.readouterr().out, "which is not there"


def test_a_bad_archive_without_a_checksum_is_deleted(web):
    name = "stuffthingmaps_trainval2017.zip"
    web.files[name] = b"<html>moved</html>"
    with pytest.raises(UserError, match=f"{name} is damaged"):
        run(["dataset=cocostuff", "dataset.root=coco", "dataset.split=val"])
    assert not list(Path("coco").rglob(f"{name}*"))


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "nothing to download is named: give dataset=NAME"),
        ("datset=voc2012", "did you mean dataset"),
        ("dataset=voc2012", "dataset.root is missing: give it"),
        ("dataset=coco2017 dataset.root=d dataset.split=vall", "did you mean val"),
        ("dataset=ade20k dataset.root=d dataset.split=training", "did you mean train"),
        ("dataset=coco2017 dataset.root=d dataset.sbd_root=s", "dataset.sbd_root is not a setting"),
        ("dataset=voc2012 dataset.root=d runtime.wait=long", "is not a number"),
        ("dataset.image_list=imageset/cocostuf/val.txt", "did you mean cocostuff/val.txt"),
        *(
            (f"https://127.0.0.1/{end}", "names no file")
            for end in ("", "a/..", "a/.lock", "a/.download", "a/.holder.json", "a\x1b[2J")
        ),
        ("https://127.0.0.1?a/b", "names no file"),
        ("http://[::1/x", "names no file"),
        ("--lst", "--help shows the options"),
    ],
)
def test_wrong_words_are_one_sentence(words, message, web):
    with pytest.raises(UserError, match=message) as caught:
        run(words.split())
    assert str(caught.value).isprintable()
    assert not web.requests and not Path("d").exists()


# Weights


def files_in(folder: str) -> list[str]:
    """Returns the names of what was downloaded, and of its unfinished files."""
    return [path.name for path in Path(folder).iterdir() if path.name != ".download"]


def test_openais_weights_become_a_file_for_clip_checkpoint(web, monkeypatch, capsys):
    digest = hashlib.sha256(b"weights").hexdigest()
    path = f"openaipublic/{digest}/ViT-B-16.pt"
    web.files[path] = b"weights"
    entry = {"url": web.url(path), "hf_hub": "timm/copy/"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-B-16-quickgelu"], "openai", entry)
    monkeypatch.setattr("pipeline.commands.download.missing_weights", missing_weights)
    run(["clip=vit_b16", "--output", "weights", "--dry-run"])
    assert "ViT-B-16.pt  350.8 MB, missing; sha256" in capsys.readouterr().out
    run(["clip=vit_b16", "--output", "weights"])
    file = Path("weights/ViT-B-16.pt").absolute()
    assert file.read_bytes() == b"weights"
    [command] = re.findall(r"next: (.*)", capsys.readouterr().out)
    assert shlex.split(command)[2:] == ["clip=vit_b16", f"clip.checkpoint={file}"]
    file.unlink()
    web.files[path] = b"others"
    with pytest.raises(UserError, match="its sha256 is"):
        run(["clip=vit_b16", "--output", "weights"])
    assert not files_in("weights")


def test_weights_of_the_hub_are_verified_with_what_it_states(web, monkeypatch):
    entry = {"hf_hub": "laion/CLIP/"}
    weights = open_clip.pretrained._PRETRAINED["ViT-B-16"]
    monkeypatch.setitem(weights, "laion2b_s34b_b88k", entry)
    monkeypatch.setattr(constants, "ENDPOINT", web.url()[:-1])
    template = web.url("{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    path = "laion/CLIP/main/open_clip_model.safetensors"
    web.files[path] = b"weights"
    monkeypatch.setattr("pipeline.commands.download.missing_weights", missing_weights)
    digest = hashlib.sha256(b"others").hexdigest()
    web.plan[path] = [Answer(headers={"X-Linked-ETag": digest, "X-Linked-Size": "7"})]
    with pytest.raises(UserError, match=f"its sha256 is .* instead of {digest}"):
        run(["clip=vit_b16_laion2b", "--output", "weights"])
    assert not files_in("weights")
    run(["clip=vit_b16_laion2b", "--output", "weights"])
    assert files_in("weights") == ["ViT-B-16-laion2b_s34b_b88k.safetensors"]


def test_a_repository_may_lack_what_its_model_does_not_require(web, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", web.url()[:-1])  # as HF_ENDPOINT sets it
    monkeypatch.setattr("pipeline.commands.download.missing_weights", missing_weights)
    place, names = "me/pets/resolve/main", ("config.json", "pytorch_model.bin")
    web.files |= {f"{place}/{name}": b"{}" for name in names}
    for name in ("model.safetensors", "preprocessor_config.json", "tokenizer.json"):
        web.plan[f"{place}/{name}"] = [Answer(404, headers={"X-Error-Code": "EntryNotFound"})]
    run(["clip=hugging_face", "clip.model=hf:me/pets", "--output", "weights"])
    assert sorted(files_in("weights/hf_me_pets")) == [*names]
    origin = find_origin("hf:me/pets", None, str(Path("weights/hf_me_pets").absolute()))
    assert [path.name for path in origin.files().values()] == [*names]
    assert "tokenizer.json is not published, and not required" in capsys.readouterr().out


@pytest.mark.parametrize("query", ["", "?download=true"])
def test_a_single_file_is_downloaded(query, web):
    web.files[f"resnet50.pth{query}"] = b"weights"
    run([web.url(f"resnet50.pth{query}"), "--output", "weights", "runtime.wait=1"])
    assert Path("weights/resnet50.pth").read_bytes() == b"weights"


# What sources.yaml says


def test_the_list_shows_everything_with_sizes_and_licences(capsys):
    run(["--list"])
    printed = capsys.readouterr().out
    for name, download in read_downloads().items():
        assert name == "sbd" or f"dataset={name} dataset.root=DIR" in printed
        assert download.licence in printed and download.page in printed
        for archive in download.archives:
            assert archive.source.name in printed and archive.published in printed
    for path in (REPOSITORY / "configs" / "clip").glob("*.yaml"):
        assert f"    {path.stem}  " in printed or path.stem in ("demo", "file", "hugging_face")
    assert "vit_b16  ViT-B-16-quickgelu  about 350.8 MB  licence: MIT" in printed
    assert "vit_b16_laion2b  ViT-B-16  about 599.0 MB  licence: MIT" in printed
    assert printed.count("unknown size") == 1  # Pascal Context's JSON
    assert "dataset=context60 dataset.root=DIR  1.3 GB and more" in printed


def test_a_data_set_may_be_read_from_the_files_of_another(tmp_path, capsys):
    for name, other in (("voc20", "voc2012"), ("coco_object", "cocostuff")):
        printed = []
        for each in (name, other):
            given = [f"dataset={each}", f"dataset.root={tmp_path}", "dataset.split=val"]
            run([*given, "stage=tags", "--dry-run"])
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1] != ""


def test_the_checksums_are_those_of_torchvision():
    # By names, since releases of torchvision give different mirrors.
    published = {Path(entry["url"]).name: entry["md5"] for entry in DATASET_YEAR_DICT.values()}
    published[Path(SBDataset.url).name] = SBDataset.md5
    of_torchvision = [
        archive.source
        for download in read_downloads().values()
        for archive in download.archives
        if "torchvision" in archive.published
    ]
    assert len(of_torchvision) == 5
    for source in of_torchvision:
        assert (source.algorithm, source.digest) == ("md5", published[Path(source.urls[0]).name])


@pytest.mark.parametrize("name", ["resnet18", "resnet101"])
def test_the_sizes_of_networks_are_those_of_torchvision(name):
    weights = get_model_weights(name).DEFAULT
    stated = pytest.approx(weights.meta["_file_size"] * 2**20, rel=0.001)
    assert sources.find_size("", "", weights.url) == stated
    assert (
        sources.find_size("", "", "https://download.pytorch.org/models/alexnet-7be5be79.pth")
        is None
    )


def test_every_checksum_is_complete_and_says_where_it_is_published():
    for download in read_downloads().values():
        for archive in download.archives:
            source = archive.source
            length = {"md5": 32, "sha1": 40, "sha256": 64, "": 0}[source.algorithm]
            assert re.fullmatch(rf"[0-9a-f]{{{length}}}", source.digest), source
            assert archive.published and all(url.startswith("http") for url in source.urls)
            assert source.digest or all(url.endswith(".zip") for url in source.urls), source.name


def test_every_split_with_a_guide_can_be_downloaded(tmp_path, capsys):
    for path in sorted((REPOSITORY / "configs" / "dataset").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text())["dataset"]
        for split in settings["splits"] if "guide" in settings else ():
            sbd = ["dataset.sbd_root=sbd"] * (split == "train_aug")
            words = f"dataset={path.stem} dataset.split={split} dataset.root={tmp_path} --dry-run"
            run([*words.split(), *sbd, "stage=tags", "clip=demo"])
            told = capsys.readouterr()
            assert f"→ {tmp_path}" in told.out or "registered users" in told.err, words


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_preset_shows_what_an_empty_root_lacks(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("pipeline.commands.composition.product", zip)  # a study's first job
    given = [f"clip.checkpoint={tmp_path}"] * name.startswith("dinotxt3")  # on request
    run([f"experiment={name}", f"dataset.root={tmp_path}", "dry_run=true", *given])
    is_drawn = compose([f"experiment={name}"]).dataset.name.startswith("demo")
    told = capsys.readouterr()
    assert (f"→ {tmp_path}" in told.out or "registered users" in told.err) != is_drawn
