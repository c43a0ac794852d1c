"""Files on Hugging Face."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import get_session

from pipeline.errors import UserError, shown
from pipeline.files.download import Source, fetch, source_at

_HOST = "https://huggingface.co"
_ONNX_FILE = re.compile(r"hf:(?!.*\.\.)([\w.-]+/[\w.-]+)(/.+\.onnx)?")
_FILE = re.compile(rf"{re.escape(_HOST)}/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_TIMEOUT = 20.0  # seconds without an answer from the network
_SHA256 = re.compile(r"[0-9a-f]{64}")


def with_checksum(source: Source) -> Source | None:
    """Returns a source with the size and the SHA-256 that Hugging Face states of its file.

    Of several addresses, the first that exists is kept, with its suffix, or its name if the source
    is called as its first address. A source elsewhere is returned unchanged. Returns None if an
    optional file does not exist. Raises a UserError if Hugging Face cannot be reached, or lacks the
    file.
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
        digest = facts.etag if facts.etag and _SHA256.fullmatch(facts.etag) else ""
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


def fetch_onnx(name: str) -> Path:
    """Returns an ONNX file on Hugging Face, through the cache of its client.

    ``hf:org/name`` is ``model.onnx`` of that repository, ``hf:org/name/FILE.onnx`` another file.
    Without a network, it is the file that was downloaded last. Raises a UserError if the name is of
    another kind of file, there is no such file or network, or it was damaged on its way.
    """
    if (found := _ONNX_FILE.fullmatch(name)) is None:
        raise UserError(
            f"{shown(name)} names no ONNX file on Hugging Face, from where no other format is read:"
            " give hf:org/name, which has a model.onnx, or hf:org/name/FILE.onnx"
        )
    repository, file = found[1], (found[2] or "/model.onnx")[1:]
    is_offline = False
    try:
        try:
            # Fails at once without a network; the client would try six times, for half a minute.
            get_session().head(hf_hub_url(repository, file), timeout=_TIMEOUT)
        except Exception:
            is_offline = True
        path = Path(hf_hub_download(repository, file, local_files_only=is_offline))
    except Exception as error:  # the client raises many types
        why = f"cannot be reached ({type(error).__name__}): try again where there is a network"
        if isinstance(error, RepositoryNotFoundError):
            why = "is not there, or is not public: correct the name, or run hf auth login"
        elif isinstance(error, EntryNotFoundError) and not isinstance(
            error, LocalEntryNotFoundError
        ):
            why = f"has no file {file}: give hf:{repository}/FILE.onnx"
        raise UserError(f"hf:{repository} {why}") from error
    kept = path.resolve()  # in the cache, a large file is called by its SHA-256
    with kept.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if _SHA256.fullmatch(kept.name) and kept.name != digest:
        kept.unlink()
        raise UserError(f"{name} was damaged while it was downloaded: run the same command again")
    return path


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
    fetch(source_at(url), path)
    return path


def _torch_cache() -> Path:
    home = os.environ.get("TORCH_HOME") or "~/.cache/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"
