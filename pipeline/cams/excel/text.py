"""ExCEL's text: class embeddings enriched by attributes that sentences describe (section 3.2)."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
import yaml

from pipeline.datasets.vocabulary import same_name
from pipeline.errors import UserError, check_choice, first_of, shown
from pipeline.files.text import given_path, read_text

Sentences = tuple[tuple[str, ...], ...]
"""The sentences that describe each class."""

_WANTED = "give a YAML or JSON file with a list of sentences for each class"
_MAX_BYTES = 1 << 22
_MAX_SENTENCES = 1000  # of a class; a few YAML aliases can expand to millions
_MAX_NAMED = 3  # classes that an error names


def read_descriptors(given: str, classes: Sequence[str], clusters: int) -> Sentences:
    """Reads the sentences of classes, in their order, from a file, {class name: [sentences]}.

    Names are compared without regard to case and white space. The path is given as in
    ``cams.descriptors``; the sentences have to suffice for J ``clusters``. Raises a UserError if
    the file is missing or of another form, names a class that there is not or leaves one out, or
    holds fewer than J different sentences.
    """
    path = given_path(given, "cams.descriptors")
    name = f"cams.descriptors={shown(given)}"
    text = read_text(path, name, _WANTED, _MAX_BYTES)
    sentences = _parse(text, path.suffix.lower() == ".json", name, tuple(classes))
    different = len({sentence for group in sentences for sentence in group})
    if different < clusters:
        raise UserError(
            f"cams.clusters={clusters} exceeds the {different} different sentences of {name}: give"
            f" at most cams.clusters={different}"
        )
    return sentences


@lru_cache(maxsize=2)
def _parse(text: str, is_json: bool, name: str, classes: tuple[str, ...]) -> Sentences:
    try:
        if is_json:
            content = json.loads(text, object_pairs_hook=_without_repetition)
        else:
            content = yaml.load(text, _OnceEach)
    # TypeError: a list as a key; ValueError: JSON, a 13th month.
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()))
        raise UserError(f"{name} is not {'JSON' if is_json else 'YAML'}: {reason}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{name} has no class names: {_WANTED}")
    known, found = {same_name(each): each for each in classes}, {}
    for key, sentences in content.items():
        if not isinstance(key, str):
            raise UserError(f"{name} has {shown(key)}, not a name: write names in quotes, as 'no'")
        if same_name(key) not in known:
            check_choice(f"{name} has {shown(key)}, which is not a class", key, classes)
        if same_name(key) in found:
            raise UserError(f"{name} has {shown(key)} twice: put all sentences into one list")
        is_list = isinstance(sentences, list) and 0 < len(sentences) <= _MAX_SENTENCES
        if not is_list or not all(isinstance(each, str) and each.strip() for each in sentences):
            raise UserError(
                f"{name} has for {shown(key)} {shown(str(sentences)[:99])}, not a list of"
                f" sentences: give from 1 to {_MAX_SENTENCES}"
            )
        found[same_name(key)] = tuple(each.strip() for each in sentences)
    if missing := [each for same, each in known.items() if same not in found]:
        raise UserError(f"{name} has no sentences for {first_of(missing, _MAX_NAMED)}: add them")
    return tuple(found[same] for same in known)


class _OnceEach(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Reads a mapping."""
        _without_repetition([(self.construct_object(k, deep=True), None) for k, _ in node.value])
        return super().construct_mapping(node, deep)


def _without_repetition(pairs: Sequence[tuple[Any, Any]]) -> dict:
    """Returns a dictionary; raises a ValueError for a key that occurs twice."""
    counts = Counter(str(key) for key, _ in pairs)
    if repeated := [key for key, n in counts.items() if n > 1]:
        raise ValueError(f"{shown(repeated[0])} occurs twice")
    return dict(pairs)


def cluster_sentences(embeddings: torch.Tensor, clusters: int) -> torch.Tensor:
    """Returns attributes, the J centres of sentences, not normalised (equation 2): J×E float32.

    The embeddings of the sentences are S×E float32, each of length 1; J is at most S.
    """
    from sklearn.cluster import KMeans

    # Threads add up in any order, which shows in the last digits; in float64 none of them is kept.
    points = embeddings.double().cpu().numpy()
    centres = KMeans(n_clusters=clusters, random_state=0).fit(points).cluster_centers_
    return torch.from_numpy(centres).to(embeddings)


def enrich_classes(text: torch.Tensor, attributes: torch.Tensor, kept: float) -> torch.Tensor:
    """Adds to every class the attributes that are like it (equations 3 and 4).

    T_c = t_c + Σ_j w_cj a_j, normalised, where w is the softmax of t_c·a_j over j, without a
    temperature, so that it is nearly uniform over the attributes that are kept.

    ``kept`` is their share for a class, those most like it. Takes t, n×E, each of length 1, and a,
    J×E; returns T, n×E, each of length 1.
    """
    similarities = text @ attributes.mT
    left_out = int(round((1 - kept) * len(attributes), 6))
    least = similarities.topk(left_out, largest=False).indices
    weights = similarities.scatter(-1, least, -torch.inf).softmax(-1)
    return F.normalize(text + weights @ attributes, dim=-1)
