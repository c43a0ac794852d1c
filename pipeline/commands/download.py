"""The command line of ``tools/download.py``."""

import re
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from pipeline.commands.command_line import Parser
from pipeline.datasets.obtain import DownloadTask, obtain
from pipeline.datasets.sources import (
    find_licence,
    find_size,
    read_downloads,
    read_lists,
    whose_files,
)
from pipeline.errors import UserError, check_choice, command, did_you_mean, shown, tell
from pipeline.files.download import STATE, Source, size_text
from pipeline.files.shipped import CONFIGS
from pipeline.files.text import given_path

_EXAMPLES = """examples:
  python tools/download.py --list
  python tools/download.py dataset=voc2012 dataset.root=DIR --dry-run
  python tools/download.py dataset=voc2012 dataset.root=DIR dataset.sbd_root=DIR
      with SBD, the masks of train_aug
  python tools/download.py dataset=coco2017 dataset.root=coco dataset.split=val
      the validation images alone
  python tools/download.py dataset=cocostuff dataset.root=coco dataset.image_list=imageset/cocostuff/val.txt
      with one of TagCLIP's image lists
  python tools/download.py clip=vit_b16 --output weights
      for a machine without a network: clip.checkpoint=weights/ViT-B-16.pt
  python tools/download.py URL
      a single file, such as weights for segmenter.pretrained

The settings are those of tools/run_stage.py. If a checksum is published, the same command resumes a
download that broke off; other files start over.
"""  # noqa: E501

_ROOT, _SBD, _SPLIT = "dataset.root", "dataset.sbd_root", "dataset.split"
_LISTS = ("dataset.image_list", "dataset.labels")
_CLIP = ("clip", "clip.model", "clip.pretrained")
_KEYS = ("dataset", _ROOT, _SBD, _SPLIT, *_LISTS, *_CLIP, "runtime.wait")

_HASH = re.compile(r"https://download\.pytorch\.org/.*-([0-9a-f]{8,64})\.\w+")
"""URLs of torchvision's weights, which hold the beginning of their SHA-256."""


def run(arguments: Sequence[str]) -> None:
    """Downloads what the settings name.

    Raises:
        UserError: the settings cannot be used, or a file cannot be had.
    """
    options = _parse(arguments)
    if options.list:
        _print_list()
        return
    given, urls = _read_settings(options.settings)
    output = given_path(options.output, "--output").absolute()
    items = [*_datasets(given), *_lists(given), *_files(urls, output), *_weights(given, output)]
    if not items:
        raise UserError(
            "nothing to download is named: give dataset=NAME dataset.root=DIR, clip=NAME, or"
            " --list, which shows what there is"
        )
    if options.dry_run:
        for item in items:
            print(item.describe())
        return
    wait = _seconds(given)
    stored = [obtain(item, wait) for item in items]
    if "dataset" in given or "clip" in given:
        print(f"next: {_next_command(given, stored[-1])}")


def _parse(arguments: Sequence[str]) -> Namespace:
    title = "Downloads data sets, image lists and weights; verifies and unpacks them."
    parser = Parser("download.py", title, _EXAMPLES)
    add = parser.add_argument
    add("settings", nargs="*", metavar="KEY=VALUE", help=f"{', '.join(_KEYS)}; or a URL")
    add("--output", default=".", metavar="DIR", help="where weights are stored; default: here")
    add("--list", action="store_true", help="show what there is, with sizes and licences")
    add("--dry-run", action="store_true", help="show what would be downloaded, and where to")
    return parser.parse_intermixed_args(arguments)  # settings may follow --output


def _read_settings(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Returns the settings by key, and the URLs."""
    given, urls = {}, []
    for word in words:
        key, _, value = word.partition("=")
        if word.startswith(("http://", "https://")):
            urls.append(word)
        elif key in _KEYS and value:
            given[key] = value
        else:
            raise UserError(
                f"{shown(word)} is not a setting of a download: {did_you_mean(key, _KEYS)}give"
                f" KEY=VALUE with one of {', '.join(_KEYS)}, or a URL"
            )
    return given, urls


def _seconds(given: Mapping[str, str]) -> float:
    try:
        return float(given.get("runtime.wait", 0))
    except ValueError as error:
        wait = given["runtime.wait"]
        raise UserError(f"runtime.wait={shown(wait)} is not a number: give seconds") from error


def _datasets(given: Mapping[str, str]) -> Iterator[DownloadTask]:
    """Yields the archives of the data set that is named, and of SBD."""
    downloads = read_downloads()
    names = [name for name, each in downloads.items() if each.key == _ROOT]
    name = given.get("dataset")
    if name is None:
        for key in (_ROOT, _SBD, _SPLIT):
            if key in given:
                raise UserError(f"{key} needs the data set: give it, dataset=NAME")
        return
    name = whose_files(name)
    check_choice(f"there is nothing to download for dataset={shown(name)}", name, names)
    if _SBD in given and not name.startswith("voc"):
        raise UserError(f"{_SBD} is for dataset=voc2012, not {name}: leave it out")
    if _ROOT not in given and _SBD not in given:
        raise UserError(f"dataset={name} needs a folder: give it, {_ROOT}=DIR")
    splits = [s.strip(" '\"") for s in given.get(_SPLIT, "").strip("[]").split(",") if s.strip()]
    if "train_aug" in splits and _SBD not in given:
        tell(f"note: the masks of train_aug are in SBD: {_SBD}=DIR downloads it")
    for which, needed_splits in ((name, splits), ("sbd", [])):
        download = downloads[which]
        if download.key in given:
            root = given_path(given[download.key], download.key).absolute()
            for archive in download.needed(needed_splits):
                target = archive.place(root)
                path = target / STATE / archive.source.name
                yield DownloadTask(archive.source, path, download.licence, archive, target)


def _lists(given: Mapping[str, str]) -> Iterator[DownloadTask]:
    """Yields the image lists that are named, whose paths end as in TagCLIP's repository."""
    lists, licence = read_lists()
    paths = {given_path(given[key], key).absolute(): key for key in _LISTS if key in given}
    for path, key in paths.items():
        name = "/".join(path.parts[-2:])
        check_choice(f"{key}={shown(given[key])} is not one of TagCLIP's lists", name, list(lists))
        yield DownloadTask(lists[name], path, licence)


def _weights(given: Mapping[str, str], folder: Path) -> Iterator[DownloadTask]:
    """Yields the weights of CLIP that are named."""
    if not any(key in given for key in _CLIP):
        return
    from pipeline.clip.published import published_weights  # imports PyTorch

    name, presets = given.get("clip"), _clip_presets()
    if name is not None:
        check_choice(f"weights of clip={shown(name)} cannot be downloaded", name, presets)
    preset = presets.get(name, {})
    model = given.get("clip.model", preset.get("model"))
    pretrained = given.get("clip.pretrained", preset.get("pretrained"))
    if model is None:
        raise UserError("clip.pretrained needs the model: give it, clip.model=NAME")
    source = published_weights(model, pretrained)
    yield DownloadTask(source, folder / source.name, find_licence(pretrained))


def _files(urls: Sequence[str], folder: Path) -> Iterator[DownloadTask]:
    """Yields single files."""
    for url in urls:
        name = re.sub(r"^\w+://[^/?#]*|[?#].*", "", url).rpartition("/")[2]
        if name[:1] in ("", ".") or not url.isprintable():
            raise UserError(f"{shown(url)} names no file: give the address of one")
        digest = found[1] if (found := _HASH.match(url)) else ""
        source = Source(name, (url,), None, "sha256" if digest else "", digest)
        yield DownloadTask(source, folder / name, "see its page")


def _clip_presets() -> dict[str, dict[str, str]]:
    """Returns the presets of ``configs/clip`` whose weights are published, by name."""
    paths = sorted((CONFIGS / "clip").glob("*.yaml"))
    presets = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}
    return {name: preset for name, preset in presets.items() if preset["model"]}


def _print_list() -> None:
    for name, download in read_downloads().items():
        sizes = [archive.source.size for archive in download.needed([])]
        more = " and more" if None in sizes else ""
        total = size_text(sum(filter(None, sizes)) or None) + more
        title = f"dataset={name} {_ROOT}=DIR" if download.key == _ROOT else f"{download.key}=DIR"
        print(f"{title}  {total}\n  licence: {download.licence}; {download.page}")
        for archive in download.archives:
            source, splits = archive.source, ", ".join(archive.splits) or "every split"
            checked = f"{source.algorithm or 'no checksum'}: {archive.published}"
            print(f"    {source.name}  {size_text(source.size)}  {splits}  ({checked})")
    lists, licence = read_lists()
    print(f"dataset.image_list=imageset/NAME  licence: {licence}; no checksum is published")
    print(f"    {', '.join(lists)}")
    print("clip=NAME  a download is held against the size and SHA-256 that its host states")
    for name, preset in _clip_presets().items():
        size = size_text(find_size(preset["model"], preset["pretrained"]))
        licence = find_licence(preset["pretrained"])
        print(f"    {name}  {preset['model']}  about {size}  licence: {licence}")


def _next_command(given: Mapping[str, str], last: Path) -> str:
    """Returns the command line that uses what was downloaded; weights were the last file."""
    words = [f"{key}={value}" for key, value in given.items() if key != "runtime.wait"]
    if any(key in given for key in _CLIP):
        words.append(f"clip.checkpoint={last}")
    return f"{command()} {shlex.join(words)}"
