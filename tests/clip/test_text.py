"""Prompts are cut after the longest, which changes nothing, and embedded once."""

from __future__ import annotations

import pytest
import torch

from pipeline.clip.text import (
    TEMPLATES,
    class_embeddings,
    encode_prompts,
    end_of_text,
    load_tokenizer,
    name_embeddings,
)


def test_what_follows_the_end_of_a_prompt_does_not_matter(tiny_clip):
    tokens = load_tokenizer(None)(["a cat", "a photo of a traffic light at night", "a " * 90])
    ends = end_of_text(tiny_clip, tokens)
    assert ends.tolist() == [3, 9, 76]
    whole = encode_prompts(tiny_clip, tokens, None)
    torch.testing.assert_close(
        encode_prompts(tiny_clip, tokens[:2], 10), whole[:2], atol=1e-6, rtol=0
    )
    shorter = encode_prompts(tiny_clip, tokens[1:2], 9)
    assert (shorter - whole[1]).abs().max() > 1e-3, "a cut into the prompt has to tell"


def test_batches_are_as_short_as_their_prompts(tiny_clip, monkeypatch):
    shapes = []
    forward = tiny_clip.transformer.forward

    def spy(tokens, *arguments, **keywords):
        shapes.append(tuple(tokens.shape[:2]))
        return forward(tokens, *arguments, **keywords)

    monkeypatch.setattr(tiny_clip.transformer, "forward", spy)
    names, tokenizer = ["a very long name of a class that nobody uses", "cat"], load_tokenizer(None)
    found = class_embeddings(tiny_clip, tokenizer, names, TEMPLATES["tagclip"], batch_size=50)
    assert [count for count, _ in shapes] == [50, 50, 50, 20]
    lengths = [length for _, length in shapes]
    assert lengths == sorted(lengths) and lengths[0] < 15 and lengths[-1] < 30
    alone = class_embeddings(tiny_clip, tokenizer, names[1:], TEMPLATES["tagclip"])
    torch.testing.assert_close(found[1:], alone, atol=1e-6, rtol=0)


def test_several_names_of_a_class_are_averaged(tiny_clip):
    tokenizer, templates = load_tokenizer(None), TEMPLATES["photo"]
    single = class_embeddings(tiny_clip, tokenizer, ["cat", "kitten", "dog"], templates)
    found = name_embeddings(tiny_clip, tokenizer, [("cat", "kitten"), ("dog",)], templates)
    mean = (single[0] + single[1]) / 2
    torch.testing.assert_close(found[0], mean / mean.norm())
    torch.testing.assert_close(found[1], single[2])
    assert found.norm(dim=-1).tolist() == pytest.approx([1, 1])
