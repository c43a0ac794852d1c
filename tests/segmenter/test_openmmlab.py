"""The two families of mmsegmentation, and that one module alone uses what is private in them."""

import importlib
import inspect
import pkgutil
import re
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from mmengine.utils.dl_utils import mmcv_full_available

from pipeline import segmenter
from pipeline.engine import versions
from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.openmmlab import pixel_accuracy, swaps_channels

MODULES = [module.name for module in pkgutil.iter_modules(segmenter.__path__)]
THEIRS = ("mmengine", "mmcv", "mmseg")


def inherited(module):
    """The private names of their classes that a module's own subclasses use or replace."""
    found = set()
    for subclass in vars(module).values():
        if not inspect.isclass(subclass) or subclass.__module__ != module.__name__:
            continue
        bases = [c for c in subclass.__mro__ if c.__module__.partition(".")[0] in THEIRS]
        private = {n for c in bases for n in re.findall(r"\b_[a-z]\w*", inspect.getsource(c))}
        found |= private & {*re.findall(r"\b_[a-z]\w*", inspect.getsource(subclass))}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_private_names_are_used_in_one_module(name):
    found = inherited(importlib.import_module(f"pipeline.segmenter.{name}"))
    if name == "openmmlab":
        assert found >= {"_init_model_weights", "_save_checkpoint_with_step", "_iter"}
    else:
        assert not found


@pytest.mark.parametrize("name", ["channel_conversion", "_channel_conversion"])
def test_the_order_of_channels_is_read_from_either_family(name):
    assert swaps_channels(SimpleNamespace(**{name: True}))
    assert not swaps_channels(SimpleNamespace(**{name: False}))


def test_mmengine_finds_no_operators_without_find_loader(monkeypatch):
    """As on Python 3.14."""
    monkeypatch.delattr(pkgutil, "find_loader", raising=False)
    import_mmseg()
    assert not mmcv_full_available()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignored", [None, 255])
def test_the_accuracy_is_that_of_mmsegmentation(dtype, ignored):
    import_mmseg()
    from mmseg.models.decode_heads import decode_head
    from mmseg.models.losses import accuracy

    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(2, 5, 9, 7, generator=generator)
    logits = (logits + torch.arange(5.0)[None, :, None, None] / 4).to(dtype)
    labels = torch.randint(0, 5, (2, 9, 7), generator=generator)
    if ignored:
        labels[0, :4] = ignored
    ours, theirs = (
        count(logits, labels, ignore_index=ignored) for count in (pixel_accuracy, accuracy)
    )
    if dtype is torch.bfloat16:  # ties, which it breaks in favour of one class
        assert ours >= theirs
    else:
        torch.testing.assert_close(ours, theirs)
    nothing = torch.full_like(labels, 255)
    torch.testing.assert_close(
        pixel_accuracy(logits, nothing, ignore_index=255),
        accuracy(logits, nothing, ignore_index=255),
    )
    one = logits[:, :1]  # a label without a channel counts as wrong
    torch.testing.assert_close(
        pixel_accuracy(one, labels, ignore_index=ignored),
        accuracy(one, labels, ignore_index=ignored),
    )
    assert decode_head.accuracy is pixel_accuracy


def test_manifests_name_the_family(monkeypatch):
    def version(package):
        if package.startswith("onedl-"):
            return "1.4.2"
        raise PackageNotFoundError(package)

    monkeypatch.setattr(versions, "version", version)
    found = versions.versions.__wrapped__()
    families = {name: number for name, number in found.items() if name.split("-")[-1][:2] == "mm"}
    assert families == {
        "onedl-mmsegmentation": "1.4.2",
        "onedl-mmengine": "1.4.2",
        "onedl-mmcv": "1.4.2",
    }
    monkeypatch.undo()
    assert sum("mmseg" in name for name in versions.versions.__wrapped__()) == 1
