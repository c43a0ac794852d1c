"""Finds a backbone's tensors in a weights file, whatever names the file gives them."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

Weights = dict[str, torch.Tensor]

# What other modules put in front of a backbone's names.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "model", "backbone", "encoder", "image_encoder", "timm_model"}
)
_HEADS = frozenset(
    {"fc", "head", "heads", "head_dist", "last_linear", "classifier", "aux_classifier"}
    | {"decode_head", "auxiliary_head"}
)
_MASK_HEADS = frozenset({"decode_head", "auxiliary_head", "aux_classifier", "mask_head"})
_COUNTER = "num_batches_tracked"
# The counter, and buffers that a network computes from its own settings.
_COMPUTED = frozenset({_COUNTER, "relative_position_index", "relative_coords_table", "attn_mask"})
# Backbones of mmsegmentation whose authors use other names: the converter in its tools.
_CONVERTERS = {
    "SwinTransformer": ("Swin Transformer's own", "swin2mmseg", "convert_swin"),
    "MixVisionTransformer": ("SegFormer's own", "mit2mmseg", "convert_mit"),
}
_LEAST_SHARE = 0.95
_PAINT = 1 << 20  # larger than any weight, and whole numbers above it are exact in float32


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit a backbone.

    Attributes:
        layout: whose names the file has.
        tensors: what the backbone takes over, under its own names.
        names: of all the backbone's tensors but counters and computed buffers.
        unmatched: those of them that the file does not hold in the same shape.
        unused: names of the file's tensors that went nowhere, without those of heads.
    """

    layout: str
    tensors: Weights
    names: tuple[str, ...]
    unmatched: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def matched(self) -> int:
        """The number of the backbone's tensors that the file holds."""
        return len(self.names) - len(self.unmatched)

    @property
    def is_enough(self) -> bool:
        """Whether the file holds 95 % of the backbone, and its first layer."""
        # That layer is one tensor of hundreds, but behind a random one all others see noise.
        whole_start = self.names[:1] != self.unmatched[:1]
        return whole_start and self.matched >= _LEAST_SHARE * len(self.names)

    def __str__(self) -> str:
        line = f"fits {self.matched} of the {len(self.names)} tensors of the backbone"
        if not self.unmatched:
            return line
        missing = ", ".join(self.unmatched[:3])
        return f"{line} (needed are 95 % and the first layer), but not {missing}"


def was_trained_on_masks(weights: Weights) -> bool:
    """Tells whether a file holds the head of a segmentation network beside the backbone."""
    parts = {part for name in weights for part in name.split(".")[:3]}
    tops = {_without_wrappers(name).split(".")[0] for name in weights}
    # A "classifier" beside a "backbone" is torchvision's segmentation head; alone it is ImageNet's.
    return bool(parts & _MASK_HEADS) or ("backbone" in parts and "classifier" in tops)


def fit_weights(weights: Weights, backbone: nn.Module, settings: Mapping[str, Any]) -> Fit:
    """Finds the naming under which most of a file's tensors fit a backbone.

    Args:
        weights: the file's tensors; those on the device "meta" are fitted by their shapes.
        backbone: the network; left as it is.
        settings: the backbone's config, of which timm builds another to convert its files.
    """
    own = {k: v.shape for k, v in backbone.state_dict().items() if not _is_computed(k)}
    best = Fit("unknown", {}, tuple(own), tuple(own), ())
    for prefix in _prefixes(weights):
        inner = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        for layout, convert in _layouts(backbone, settings):
            try:
                converted, sources = _trace(convert, inner)
            except Exception:  # converters break on other layouts as they please
                continue
            fitting = {k for k in own if k in sources and converted[k].shape == own[k]}
            if len(fitting) <= best.matched:
                continue
            used = {prefix + name for key in fitting for name in sources[key]}
            best = Fit(
                layout or _describe(weights, prefix),
                {k: v for k, v in converted.items() if k in fitting or k.endswith(_COUNTER)},
                tuple(own),
                tuple(k for k in own if k not in fitting),
                tuple(k for k in weights if k not in used and not _is_expected_to_stay(k)),
            )
            if not best.unmatched:
                return best
    return best


def build_timm_backbone(
    backbone: nn.Module, settings: Mapping[str, Any], **changes: object
) -> nn.Module:
    """Builds a second TIMMBackbone, for which timm finds weights, renames and reshapes them."""
    kept = {key: value for key, value in settings.items() if key not in ("type", "init_cfg")}
    with quietly():  # timm warns about the heads that it leaves out
        return type(backbone)(**{**kept, "checkpoint_path": "", "pretrained": True, **changes})


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps the logs of libraries off the console."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def _layouts(
    backbone: nn.Module, settings: Mapping[str, Any]
) -> Iterator[tuple[str | None, Callable[[Weights], Weights]]]:
    """Yields names of layouts and conversions out of them; no name for the backbone's own."""
    own, kind = backbone.state_dict().keys(), type(backbone).__name__
    yield None, dict
    if "stem.0.weight" in own:
        yield "timm ResNet with a deep stem", _rename_deep_stem
    if kind in _CONVERTERS:
        layout, module, function = _CONVERTERS[kind]
        yield layout, _shipped_converter(module, function)
    if kind == "TIMMBackbone":
        yield "timm", partial(_rename_timm, own)
        yield (
            "timm",
            lambda weights: build_timm_backbone(
                backbone, settings, pretrained_cfg_overlay={"state_dict": weights}
            ).state_dict(),
        )


def _rename_deep_stem(weights: Weights) -> Weights:
    """timm's ``conv1.0 … conv1.6, bn1`` is mmsegmentation's ``stem.0 … stem.6, stem.7``."""
    if "conv1.0.weight" not in weights:
        return {}
    pairs = ((re.sub(r"^conv1\.", "stem.", name), value) for name, value in weights.items())
    return {re.sub(r"^bn1\.", "stem.7.", name): value for name, value in pairs}


def _rename_timm(own: Mapping[str, object], weights: Weights) -> Weights:
    """timm's networks for feature maps flatten their first levels: ``stem.0`` is ``stem_0``."""
    renamed = {}
    for name, value in weights.items():
        flat = name.replace(".", "_", 1)
        choices = (f"timm_model.{flat}", f"timm_model.model.{name}", f"timm_model.{name}")
        renamed[next((choice for choice in choices if choice in own), name)] = value
    return renamed


def _shipped_converter(module: str, function: str) -> Callable[[Weights], Weights]:
    """Returns a converter of mmsegmentation's tools, which its wheel holds outside the package."""
    root = importlib.util.find_spec("mmseg").submodule_search_locations[0]
    path = Path(root) / ".mim" / "tools" / "model_converters" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"mmseg_tools_{module}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, function)


def _trace(
    convert: Callable[[Weights], Weights], weights: Weights
) -> tuple[Weights, dict[str, set[str]]]:
    """Converts tensors, and tells of each that holds none but a file's values from which it came.

    Conversions rename, join, reshape and resample, and a network of timm keeps its random start
    where the file has nothing. So tensors of the same shapes are converted first, each painted with
    a number of its own: the numbers in a result tell what it was made of.
    """
    names = list(weights)
    painted = {
        name: torch.full(value.shape, float(_PAINT + number))
        for number, (name, value) in enumerate(weights.items())
    }
    sources = {}
    for name, value in convert(painted).items():
        if not value.numel():
            continue
        low, high = value.aminmax()
        if low < _PAINT - 0.5:  # there are values that are not the file's
            continue
        numbers = [low] if low == high else value.unique().tolist()
        found = {round(float(number)) - _PAINT for number in numbers}
        sources[name] = {names[number] for number in found if number < len(names)}
    return convert(weights), sources


def _prefixes(weights: Weights) -> list[str]:
    """Returns "", "backbone." and so on, as they occur, the shortest first."""
    longest = {name.removesuffix(_without_wrappers(name)) for name in weights}
    found = {""}
    for prefix in longest:
        parts = prefix.split(".")[:-1]
        found |= {".".join(parts[:count]) + "." for count in range(1, len(parts) + 1)}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _without_wrappers(name: str) -> str:
    parts = name.split(".")
    start = next((i for i, part in enumerate(parts) if part not in _WRAPPERS), 0)
    return ".".join(parts[start:])


def _is_computed(name: str) -> bool:
    return name.rpartition(".")[2] in _COMPUTED


def _is_expected_to_stay(name: str) -> bool:
    return _is_computed(name) or _without_wrappers(name).split(".")[0] in _HEADS


def _describe(weights: Weights, prefix: str) -> str:
    """Says whose file it is where the names behind the prefix are the backbone's own."""
    tops = {_without_wrappers(name).split(".")[0] for name in weights}
    if "decode_head" in tops:
        return "mmsegmentation network"
    if prefix.endswith("backbone."):
        torchvision = tops & {"classifier", "aux_classifier"}
        return "torchvision segmentation network" if torchvision else "mmpretrain network"
    if any(name.startswith("timm_model.") for name in weights):
        return "timm"
    if {"layer1", "fc"} <= tops:
        return "torchvision ResNet"
    return "mmsegmentation backbone"
