"""What makes a training on a CPU faster changes only how its results are rounded."""

from __future__ import annotations

import copy

import pytest
import torch

from pipeline.segmenter.checkpoints import last_checkpoint, read_checkpoint
from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.optimization import arrange_for_cpu
from pipeline.segmenter.samples import PseudoLabelled, build_loader
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings, train_tiny


def is_arranged(weight: torch.Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last)


def test_losses_and_gradients_are_those_of_an_unarranged_network(pairs):
    settings = tiny_settings(batch_size=4)
    torch.manual_seed(0)
    plain = build_model(build_config(settings, CLASS_NAMES, PALETTE, 0).model)
    plain.init_weights()
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0  # which is drawn in the order of memory
    arranged = copy.deepcopy(plain)
    arrange_for_cpu(arranged)
    (batch,) = build_loader(PseudoLabelled(pairs, settings, 0, {}), range(4), 4, 0)
    results = []
    for model in (plain, arranged):
        data = model.train().data_preprocessor(copy.deepcopy(batch), True)
        losses = model(**data, mode="loss")
        losses["decode.loss_ce"].backward()
        results.append((losses, {n: p.grad for n, p in model.named_parameters()}))
    (losses, gradients), (arranged_losses, arranged_gradients) = results
    torch.testing.assert_close(arranged_losses, losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(arranged_gradients, gradients, atol=1e-4, rtol=1e-3)
    weights = [p for p in arranged.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert weights and all(map(is_arranged, weights))


def test_a_training_on_a_cpu_is_arranged_and_starts_from_the_same_weights(pairs, tmp_path):
    """Random numbers are drawn in the order of memory, so that it must not change before.

    The families of mmsegmentation start loaders at different times, which must not matter either.
    """
    still = tiny_settings(iterations=1, learning_rate=0.0, weight_decay=0.0)
    train_tiny(pairs, tmp_path, still)
    found = read_checkpoint(last_checkpoint(tmp_path))["state_dict"]
    torch.manual_seed(3)
    model = build_model(build_config(still, CLASS_NAMES, PALETTE, 3).model)
    torch.manual_seed(3)
    torch.empty((), dtype=torch.int64).random_()  # as a loader does
    model.init_weights()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.data, atol=0, rtol=0)
        if weight.dim() == 4 and min(weight.shape[1:]) > 1:
            assert is_arranged(found[name]) and not is_arranged(weight)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_are_resized_in_float32(pairs, precision, monkeypatch):
    given = []
    from mmseg.models.decode_heads import decode_head

    resize = decode_head.resize
    monkeypatch.setattr(decode_head, "resize", lambda **a: given.append(a["input"]) or resize(**a))
    settings = tiny_settings(batch_size=2)
    model = build_model(build_config(settings, CLASS_NAMES, PALETTE, 0).model).train()
    arrange_for_cpu(model)
    (batch,) = build_loader(PseudoLabelled(pairs, settings, 0, {}), range(2), 2, 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        model(**model.data_preprocessor(batch, True), mode="loss")
    logits = given[-1]
    assert logits.shape[1] == 3 and logits.dtype == torch.float32 and logits.is_contiguous()
