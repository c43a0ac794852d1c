"""The command line of ``tools/download.py``."""

import re
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import yaml

from pipeline.commands.command_line import Parser
from pipeline.commands.composition import compose_jobs
from pipeline.configuration.hydra import take_plugins
from pipeline.configuration.plugins import import_plugins
from pipeline.configuration.settings import REQUIRED
from pipeline.datasets import load_dataset, sources
from pipeline.datasets.layout import how_to_get
from pipeline.datasets.obtain import DownloadTask, obtain
from pipeline.datasets.pascal_context import find_annotations
from pipeline.datasets.settings import DatasetSettings, split_names, splits_of_run
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import UserError, check_choice, command, shown, tell
from pipeline.files.download import STATE, Source, size_text, source_at
from pipeline.files.shipped import CONFIGS
from pipeline.files.text import given_path
from pipeline.stages.builder import Builder
from pipeline.stages.config import Config, read_config
from pipeline.stages.pipeline import requested_stages
from pipeline.stages.weights import missing_weights

_ROOT, _SBD = "dataset.root", "dataset.sbd_root"


def run(arguments: Sequence[str]) -> None:
    """Downloads what the settings of a run need, and what URLs name."""
    options = _parse(arguments)
    if options.list:
        _print_list()
        return
    if not options.words:
        raise UserError(
            "nothing to download is named: give dataset=NAME dataset.root=DIR, clip=NAME, or"
            " --list, which shows all of them"
        )
    urls = [word for word in options.words if word.startswith(("http://", "https://"))]
    settings = [word for word in options.words if word not in urls]
    plugins, overrides = take_plugins(settings)
    import_plugins(plugins)
    jobs = compose_jobs(overrides, options.config_dir, options.multirun) if settings else []
    configs = [read_config(composed) for composed, _ in jobs]
    as_files = options.output is not None
    output = given_path(options.output or ".", "--output").absolute()
    tasks = [DownloadTask(s, output / s.name, "see its page") for s in map(source_at, urls)]
    lacking, named, failures = [], {}, []
    for config in configs:
        tasks += [*_archives(config.dataset), *_lists(config.dataset)]
        config.runtime.device = "cpu"  # a GPU may be elsewhere
        run_of_job = Builder(config, build_vocabulary(config.dataset)), requested_stages(config)
        missing = missing_weights(*run_of_job, everything=as_files, failures=failures)
        for key, path, task in _weights(config, missing, output):
            if as_files:
                tasks.append(task)
                named.setdefault(key, set()).add(path)
            else:
                print(f"{task.source.name}  {size_text(task.source.stated)}, missing")
                print(f"    licence: {task.licence}\n    {task.source.urls[0]}")
                lacking.append(run_of_job)
    if options.dry_run or any(config.dry_run for config in configs):
        for task in dict.fromkeys(tasks):
            print(task.describe())
        tasks, lacking, named, settings = [], [], {}, []
    wait = configs[-1].runtime.wait if configs else 0.0
    steps = [partial(obtain, task, wait) for task in dict.fromkeys(tasks)]
    fetch = partial(missing_weights, download=True, failures=failures)
    steps += [partial(fetch, *run_of_job) for run_of_job in lacking]
    for step in steps:
        try:
            step()
        except UserError as error:  # the address of one does not stop the others
            failures.append(str(error))
    if failures:
        raise UserError("; ".join(dict.fromkeys(failures)))
    if any(len(paths) > 1 for paths in named.values()):
        print("the jobs read different files: give each its own, as in clip.checkpoint=PATH")
    elif settings:
        more = ["-m"] if options.multirun else []
        more += [f"--config-dir={options.config_dir}"] if options.config_dir else []
        more += [f"{key}={path}" for key, [path] in named.items()]
        print(f"next: {command()} {shlex.join([*settings, *more])}")


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = Parser("download.py", "Downloads and verifies data sets, image lists and weights.")
    add = parser.add_argument
    add("words", nargs="*", metavar="KEY=VALUE", help="settings of the run; or a URL")
    folder = "a folder with experiment/NAME.yaml, as for run_stage.py"
    add("--config-dir", "-cd", type=Path, metavar="DIR", help=folder)
    add("--multirun", "-m", action="store_true", help="for every combination of several values")
    output = "store weights as files in DIR, for another machine; for a URL, default: this folder"
    add("--output", metavar="DIR", help=output)
    add("--list", action="store_true", help="list data sets and weights, with sizes and licences")
    add("--dry-run", action="store_true", help="show what would be downloaded, and to where")
    return parser.parse_intermixed_args(arguments)  # settings may follow --output


def _weights(
    config: Config, missing: Mapping[str, Source], folder: Path
) -> Iterator[tuple[str, Path, DownloadTask]]:
    """Yields weights as files in a folder, each after the setting that then names it, and how."""
    clip = config.clip
    weights = clip.pretrained or clip.model
    for key, source in missing.items():
        of = weights if key.startswith("clip.") else PurePosixPath(source.name).stem
        model = clip.model if key == "clip.checkpoint" else ""  # else of one of its files
        size = sources.find_size(model, clip.pretrained or "", source.urls[0])
        path = file = folder / source.name
        if key.startswith("clip.checkpoint."):  # of a folder that holds them all
            key, path = "clip.checkpoint", folder / re.sub(r"[^\w-]+", "_", weights)
            file = path / source.name
        yield key, path, DownloadTask(replace(source, about=size), file, sources.find_licence(of))


def _archives(settings: DatasetSettings) -> Iterator[DownloadTask]:
    """Yields the archives of a data set, and of SBD, unless the data set was laid out by hand."""
    downloads, name = sources.read_downloads(), sources.whose_files(settings.name)
    if name not in downloads:
        if guide := getattr(settings, "guide", ""):
            tell(f"note: {name} is for registered users: {how_to_get(guide)}")
        return
    splits = split_names(settings.split)
    roots = {name: settings.root, "sbd": getattr(settings, "sbd_root", None)}
    if "train_aug" in splits and not roots["sbd"]:
        tell(f"note: the masks of train_aug are in SBD: {_SBD}=DIR downloads it")
    is_there = False
    with suppress(UserError):  # without SBD's split, and without files that are not part of it
        own = [split for split in splits if split != "train_aug"] or None
        lists = {"image_list", "labels", "masks", "sbd_root"} & vars(settings).keys()
        plain = replace(settings, split=own, **dict.fromkeys(lists))
        is_there = bool(splits_of_run(plain, load_dataset(plain).splits))
    for which in filter(roots.get, roots):
        root = given_path(roots[which], downloads[which].key).absolute()
        for archive in downloads[which].needed(splits if which == name else []):
            target = root if root.name == archive.into else root / archive.into
            path, unpacked = target / STATE / archive.source.name, (archive, target)
            is_needed = (target / STATE).exists() or which == "sbd" or not is_there
            if path.suffix == ".json":  # which is read as it is, in place of masks
                path, unpacked = target / path.name, ()
                with suppress(UserError):  # of images that are not there yet
                    path = find_annotations(settings)
                is_needed = path is not None and not path.exists()
            if is_needed:
                source = replace(archive.source, name=path.name)
                yield DownloadTask(source, path, downloads[which].licence, *unpacked)


def _lists(settings: DatasetSettings) -> Iterator[DownloadTask]:
    """Yields the image lists that are missing, whose paths end as in TagCLIP's repository."""
    lists, licence = sources.read_lists()
    given = {"dataset.image_list": settings.image_list, "dataset.labels": settings.labels}
    for key, value in given.items():
        if value and not (path := given_path(value, key).absolute()).exists():
            name = "/".join(path.parts[-2:])
            check_choice(f"{key}={shown(value)} is not one of TagCLIP's lists", name, list(lists))
            yield DownloadTask(lists[name], path, licence)


def _print_list() -> None:
    for name, download in sources.read_downloads().items():
        sizes = [each.source.stated for each in download.needed([])]
        more = " and more" if None in sizes and any(sizes) else ""
        total = size_text(sum(filter(None, sizes)) or None) + more
        title = f"dataset={name} {_ROOT}=DIR" if download.key == _ROOT else f"{download.key}=DIR"
        print(f"{title}  {total}\n  licence: {download.licence}; {download.page}")
        for archive in download.archives:
            source, splits = archive.source, ", ".join(archive.splits) or "every split"
            checked = f"{source.algorithm or 'no checksum'}: {archive.published}"
            print(f"    {source.name}  {size_text(source.stated)}  {splits}  ({checked})")
    lists, licence = sources.read_lists()
    print(f"dataset.image_list=imageset/NAME  licence: {licence}; no checksum is published")
    print(f"    {', '.join(lists)}")
    print("clip=NAME  a download is checked against the size and SHA-256 that its host states")
    for path in sorted((CONFIGS / "clip").glob("*.yaml")):
        name, preset = path.stem, yaml.safe_load(path.read_text(encoding="utf-8"))
        if preset["model"] in (None, REQUIRED):
            continue
        weights = preset["pretrained"] or preset["model"]
        size = size_text(sources.find_size(preset["model"], weights))
        licence = sources.find_licence(weights)
        print(f"    {name}  {preset['model']}  about {size}  licence: {licence}")
