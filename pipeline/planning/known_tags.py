"""What tags are made from where they are read and not computed."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.datasets.lists import read_class_list
from pipeline.datasets.sample import Sample
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint, join_keys
from pipeline.files.text import given_path
from pipeline.project import Project
from pipeline.tags.stage import input_key


def known_tags_key(project: Project) -> Callable[[Sample], str]:
    """Returns what names the input of an image's tags, with ``tags=ground_truth`` or ``file``.

    Raises:
        UserError: the file is missing, or names a class that the vocabulary does not have. What is
            returned raises ImageError for an image that it has no tags of.
    """
    tags, classes = project.config["tags"], project.vocabulary.classes
    if tags["method"] == "ground_truth":
        return lambda s: join_keys(input_key(s), fingerprint(s.ground_truth_labels))
    path = given_path(tags["path"], "tags.path")
    listed = read_class_list(path, "tags.path", {str(k): k for k in range(len(classes))})

    def key(sample: Sample) -> str:
        if sample.id not in listed:
            raise ImageError(f"has no line in {path}")
        return join_keys(input_key(sample), fingerprint(listed[sample.id]))

    return key
