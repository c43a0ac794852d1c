"""Where data sets are downloaded from: ``sources.yaml`` beside this module."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import yaml

from pipeline.errors import check_choice, shown
from pipeline.files.download import Source

SOURCES = Path(__file__).with_suffix(".yaml")


@cache
def _content(path: Path) -> dict[str, dict]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Archive:
    """An archive of a data set."""

    source: Source
    published: str  # where its size and checksum are published
    into: str  # its folder below the root, unless the root already has this name; "" for the root
    inside: str  # the folder in the archive that is unpacked there; "" for all of it
    splits: tuple[str, ...]  # the splits that need it; empty if all do
    optional: bool  # whether it is skipped unless a split needs it


@dataclass(frozen=True)
class Download:
    """The downloads of a data set."""

    key: str  # the setting that names its folder
    licence: str  # its licence, in a few words
    page: str  # where its terms are
    archives: tuple[Archive, ...]

    def needed(self, splits: Sequence[str]) -> list[Archive]:
        """Returns the archives that splits need; without splits, those that are not optional.

        Raises a UserError if the data set does not have one of the splits, where archives name any.
        """
        known = dict.fromkeys(split for each in self.archives for split in each.splits)
        for split in splits if known else ():
            check_choice(f"there is no split {shown(split)}", split, list(known))
        if not splits:
            return [each for each in self.archives if not each.optional]
        return [each for each in self.archives if not each.splits or {*splits} & {*each.splits}]


def read_downloads() -> dict[str, Download]:
    """Returns name of a data set → what is downloaded for it."""
    found = {}
    for name, entry in _content(SOURCES).items():
        if "files" in entry:
            archives = tuple(_archive(file, entry) for file in entry["files"])
            found[name] = Download(entry["key"], entry["licence"], entry["page"], archives)
    return found


def whose_files(name: str) -> str:
    """Returns the data set from whose files a data set is read, which is mostly itself."""
    return _content(SOURCES)["same_files"].get(name, name)


def _archive(file: dict, entry: dict) -> Archive:
    algorithm = next((name for name in ("sha256", "sha1", "md5") if name in file), "")
    name, urls = PurePosixPath(file["urls"][0]).name, tuple(file["urls"])
    checked = file.get("size"), algorithm, file.get(algorithm, "")
    return Archive(
        Source(name, urls, *checked, about=file.get("about")),
        file["published"],
        file.get("into", entry.get("into", "")),
        entry.get("inside", ""),
        tuple(file.get("splits", ())),
        file.get("optional", False),
    )


def read_lists() -> tuple[dict[str, Source], str]:
    """Returns TagCLIP's image lists by folder and name, and their licence."""
    entry = _content(SOURCES)["lists"]
    lists = {name: Source(Path(name).name, (entry["base"] + name,)) for name in entry["names"]}
    return lists, entry["licence"]


def find_licence(pretrained: str) -> str:
    """Returns the licence of published weights of CLIP, in a few words."""
    licences = _content(SOURCES)["weights"]["licences"]
    found = [text for start, text in licences.items() if pretrained.startswith(start)]
    return found[0] if found else "see their repository"


def find_size(model: str, pretrained: str, address: str = "") -> int | None:
    """Returns the size of published weights in bytes, rounded if they are not OpenAI's.

    They are of a CLIP, or else those at an address; none tells that their size is unknown.
    """
    sizes = _content(SOURCES)["weights"]
    found = sizes["openai" if pretrained == "openai" else "others"]
    at = (size for part, size in sizes["addresses"].items() if part in address)
    return found.get(model.removesuffix("-quickgelu")) or next(at, None)
