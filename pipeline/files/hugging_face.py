"""Metadata of files on Hugging Face."""

import re
from pathlib import PurePosixPath

from huggingface_hub import constants, get_hf_file_metadata
from huggingface_hub.errors import EntryNotFoundError

from pipeline.errors import UserError
from pipeline.files.download import Source

_SHA256 = re.compile(r"[0-9a-f]{64}")


def with_checksum(source: Source) -> Source:
    """Returns a source with the size and the SHA-256 that Hugging Face states of its file.

    Of several addresses, the first that exists is kept, with its suffix. A source elsewhere is
    returned unchanged. Raises a UserError if Hugging Face cannot be reached, or has no such file.
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
        name = str(PurePosixPath(source.name).with_suffix(PurePosixPath(url).suffix))
        return Source(name, (url,), facts.size, "sha256" if digest else "", digest)
    raise UserError(
        f"{source.name} could not be downloaded: {url} cannot be reached"
        f" ({type(failure).__name__}): run the same command to try again, or download it elsewhere"
    ) from failure
