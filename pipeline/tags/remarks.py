"""What is remarkable about the tags of a split, and what to do about it.

The limits were chosen on the demo, the crowded world and runs that were spoiled on purpose
(tests/stages/test_remarks.py): none of the sound runs gives a remark.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.engine.records import PHOTOGRAPH
from pipeline.engine.results import Results
from pipeline.tags.remedies import ADVICE

FEW_TAGGED = 0.05
"""A smaller share of images with a tag is remarkable."""

IMAGES_A_CLASS = 20
"""So many images for each class, on average, and a class without any is remarkable."""

NEAR_SYNONYMS = 0.95
"""A higher cosine similarity of the text embeddings of two classes is remarkable."""

_MAX_NAMED = 3  # pairs of classes


def find_near_synonyms(embeddings: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """Returns the pairs of classes that CLIP hardly tells apart, by n×E float ``embeddings``."""
    normalised = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = normalised @ normalised.T
    pairs = np.argwhere(np.triu(similarity > NEAR_SYNONYMS, 1))
    return [[classes[a], classes[b]] for a, b in pairs]


def remarks_on_tags(results: Results, ids: Iterable[str], classes: Sequence[str]) -> Iterator[str]:
    """Yields a sentence, without its full stop, on each remarkable fact."""
    entries, statistics, of_split = results.entries, results.statistics, f"of split {results.split}"
    done = [image_id for image_id in ids if image_id in entries]
    tags = [tuple(entries[i]["tags"]) for i in done]
    tagged = sum(map(bool, tags))
    if tags and not tagged:
        yield f"no image {of_split} has a tag: {ADVICE['no tags']}"
    elif tagged < FEW_TAGGED * len(tags):
        yield f"only {tagged:,} of {len(tags):,} images {of_split} have a tag: {ADVICE['no tags']}"
    elif len(tags) > 1 and len({*tags}) == 1 and len(classes) > 1:
        names = ", ".join(classes[k] for k in tags[0])
        have = f"all {len(tags)} images {of_split} have the same tags ({names})"
        yield f"{have}: before a network is trained on them, {ADVICE['same tags']}"
    never = [name for name, images in statistics.get("classes", {}).items() if not images]
    if len(done) >= IMAGES_A_CLASS * len(classes) and 0 < len(never) < len(classes):
        yield f"no image {of_split} has the tag {' or '.join(never)}: {ADVICE['missing class']}"
    if pairs := [" and ".join(pair) for pair in statistics.get("near_synonyms", ())]:
        more = f", and {len(pairs) - _MAX_NAMED} more pairs" if len(pairs) > _MAX_NAMED else ""
        named = ", ".join(pairs[:_MAX_NAMED])
        yield f"CLIP hardly tells apart {named}{more}: {ADVICE['near-synonyms']}"
    if copies := len(done) - len({entries[i]["inputs"].get(PHOTOGRAPH) for i in done}):
        are = "1 photograph is a copy" if copies == 1 else f"{copies:,} photographs are copies"
        yield f"{are} of another one {of_split}"
