"""Sharing the prefixes of prompts and cutting their padding does not change embeddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock

from pipeline.clip.text import (
    class_embeddings,
    encode_prompts,
    end_of_text,
    load_tokenizer,
    prompts_of,
)

TOKENIZER = load_tokenizer(None)


def tokens_of(templates: list[str], names: list[str]) -> torch.Tensor:
    prompts = [template.format(name) for template in templates for name in names]
    return TOKENIZER(prompts).unflatten(0, (len(templates), len(names)))


def test_prompts_end_where_their_end_of_text_stands(tiny_clip):
    tokens = TOKENIZER(["a cat", "a photo of a traffic light at night", "a " * 90])
    assert end_of_text(tiny_clip, tokens).tolist() == [3, 9, 76]


@pytest.mark.parametrize(
    ("templates", "names"),
    [
        (["a photo of a {}.", "{} in the scene", "the {}", "{}"], ["cat", "traffic light", "a"]),
        (["a photo of a {}."], ["cat"]),  # the end alone is not shared
        (["{}", "{0} {0}"], ["cat", "cat"]),
        (
            ["a {} of" + " long" * 80, "a {}."],
            ["very " * 30 + "long", "x"],
        ),  # both are cut off
        (["an {}."], [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"] * 10),  # several batches
    ],
)
def test_shared_prefixes_give_the_embeddings_of_whole_prompts(tiny_clip, templates, names):
    tokens = tokens_of(templates, names)
    embeddings = encode_prompts(tiny_clip, tokens, end_of_text(tiny_clip, tokens))
    expected = F.normalize(tiny_clip.encode_text(tokens.flatten(0, 1)), dim=-1)
    embeddings = F.normalize(embeddings.flatten(0, 1), dim=-1)
    torch.testing.assert_close(embeddings, expected, atol=5e-6, rtol=0)


def test_a_prefix_is_computed_once_for_all_names(tiny_clip, monkeypatch):
    computed = []
    forward = torch.nn.LayerNorm.forward
    first = tiny_clip.transformer.resblocks[0]
    assert type(first) is ResidualAttentionBlock

    def count(self, normed):
        if self is first.ln_1:
            computed.append(normed.shape[0] * normed.shape[1])
        return forward(self, normed)

    monkeypatch.setattr(type(first.ln_1), "forward", count)
    names = ["cat", "dog", "bird", "horse"]
    templates = ["a bad photo of a {}.", "a good photo of a {}."]
    class_embeddings(tiny_clip, TOKENIZER, [*zip(names)], templates)
    # Two prefixes of six tokens, and for each prompt the name, the full stop and the end.
    assert computed == [2 * 6, 2 * 4 * 3]


def test_a_name_does_not_depend_on_the_others(tiny_clip):
    names = [("a very long name of a class that nobody uses",), ("cat",)]
    embeddings = class_embeddings(tiny_clip, TOKENIZER, names, prompts_of("tagclip"))
    alone = class_embeddings(tiny_clip, TOKENIZER, names[1:], prompts_of("tagclip"))
    torch.testing.assert_close(embeddings[1:], alone, atol=1e-6, rtol=0)


def test_several_names_of_a_class_are_averaged(tiny_clip):
    templates = prompts_of("piaa")
    single = class_embeddings(tiny_clip, TOKENIZER, [("cat",), ("kitten",), ("dog",)], templates)
    embeddings = class_embeddings(tiny_clip, TOKENIZER, [("cat", "kitten"), ("dog",)], templates)
    mean = (single[0] + single[1]) / 2
    torch.testing.assert_close(embeddings[0], mean / mean.norm())
    torch.testing.assert_close(embeddings[1], single[2])
    assert embeddings.norm(dim=-1).tolist() == pytest.approx([1, 1])
