"""Files on Hugging Face."""

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.utils import get_session

from pipeline.errors import UserError
from pipeline.files.download import Source, fetch, source_at

_HOST = "https://huggingface.co"
_FILE = re.compile(rf"{re.escape(_HOST)}/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_TIMEOUT = 20.0  # seconds without an answer from the network


def with_checksum(source: Source) -> Source | None:
    """Returns a source with the size and the SHA-256 that Hugging Face states of its file.

    Of several addresses, the first that exists is kept, with its suffix, or its name if the source
    is called as its first address. A source elsewhere is returned unchanged, and an optional file
    that does not exist as None. Raises a UserError if Hugging Face is out of reach, or lacks it.
    """
    if not source.urls[0].startswith(constants.ENDPOINT):
        return source
    failure = None
    for url in source.urls:
        try:
            facts = get_hf_file_metadata(url)
        except Exception as error:  # the client raises many types
            failure = error
            if isinstance(error, EntryNotFoundError):
                continue
            break
        # Files in Git itself have another kind of checksum.
        digest = facts.etag if re.fullmatch("[0-9a-f]{64}", facts.etag or "") else ""
        published = PurePosixPath(url)
        name = str(PurePosixPath(source.name).with_suffix(published.suffix))
        if source.name == PurePosixPath(source.urls[0]).name:
            name = published.name
        return Source(name, (url,), facts.size, "sha256" if digest else "", digest)
    if source.is_optional and isinstance(failure, RemoteEntryNotFoundError):
        return None
    raise UserError(
        f"{source.name} could not be downloaded: {url} cannot be reached"
        f" ({type(failure).__name__}): run the same command to try again, or download it elsewhere"
    ) from failure


def on_mirror(url: str) -> str:
    """Returns an address on Hugging Face as one of its mirror, if HF_ENDPOINT names one."""
    return url.replace(_HOST, constants.ENDPOINT, 1) if _FILE.fullmatch(url) else url


def find_cached(url: str) -> Path | None:
    """Returns the file of an address in the cache of its client, or of torch elsewhere."""
    if found := _FILE.fullmatch(url):
        path = try_to_load_from_cache(found[1], found[3], revision=found[2])
        return Path(path) if isinstance(path, str) else None
    path = _torch_cache() / PurePosixPath(url).name
    return path if path.is_file() else None


def fetch_to_cache(url: str) -> Path | None:
    """Downloads a file to where :func:`find_cached` looks; raises many types of errors.

    None tells that the repository has no such file.
    """
    if found := _FILE.fullmatch(url):
        # Fails at once without a network; the client would try six times, for half a minute.
        place = {"repo_id": found[1], "filename": found[3], "revision": found[2]}
        get_session().head(hf_hub_url(**place), timeout=_TIMEOUT)
        with suppress(RemoteEntryNotFoundError):
            return Path(hf_hub_download(**place))
        return None
    path = _torch_cache() / PurePosixPath(url).name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # several processes of a training ask for it at once
        fetch(source_at(url), path)
    return path


def _torch_cache() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{caches}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"
