"""Finds the tensors of a backbone in a weights file, in any of the known layouts."""

import logging
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, dropwhile, product
from typing import Any

import torch
from torch import nn

from pipeline.segmenter.openmmlab import shipped

Weights = dict[str, torch.Tensor]

# Prefixes that other modules add to the names of a backbone.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "model", "backbone", "encoder", "image_encoder", "timm_model"}
)
_HEADS = frozenset(
    {"fc", "head", "heads", "head_dist", "last_linear", "classifier", "aux_classifier"}
    | {"decode_head", "auxiliary_head"}
)
_MASK_HEADS = frozenset({"decode_head", "auxiliary_head", "aux_classifier", "mask_head"})
_COUNTER = "num_batches_tracked"
# The counter of batch norm, and buffers that a network computes from its settings.
_COMPUTED = frozenset({_COUNTER, "relative_position_index", "relative_coords_table", "attn_mask"})
# Backbones whose authors use other names → the layout, and its converter in mmsegmentation's tools.
_CONVERTERS = {
    "SwinTransformer": ("Swin Transformer's own", "swin2mmseg", "convert_swin"),
    "MixVisionTransformer": ("SegFormer's own", "mit2mmseg", "convert_mit"),
}
_TRACER = 1 << 20  # larger than any weight; float32 represents integers above it exactly


@dataclass(frozen=True)
class Fit:
    """The match between the tensors of a file and a backbone."""

    source: str  # path or URL of the file
    layout: str  # its naming, for example "torchvision ResNet"; "frozen" stays as it is
    matched: int  # the number of tensors of the backbone that the file holds
    total: int  # the number of tensors of the backbone, except counters and computed buffers
    unmatched: tuple[str, ...]  # names of those that the file does not hold in the same shape
    unused: tuple[str, ...]  # names in the file that the backbone does not use, except heads
    seen_masks: bool  # whether the weights were trained on annotated masks
    licence: str = "that of the file"  # of published weights, in a few words

    def __str__(self) -> str:
        line = f"{self.layout} from {self.source}: {self.matched} of {self.total} tensors matched"
        if self.unused:
            line += f", {len(self.unused)} of the file unused"
        return line + (" (these weights have seen masks)" if self.seen_masks else "")

    @property
    def shortage(self) -> str:
        """The tensors that the file lacks, as the end of a sentence."""
        return (
            f"fits {self.matched} of the {self.total} tensors of the backbone (needed are 95 % and"
            f" the first layer), but not {', '.join(self.unmatched[:3])}"
        )


def fit_weights(
    weights: Weights, source: str, backbone: nn.Module, settings: Mapping[str, Any]
) -> tuple[Fit, Weights | None]:
    """Finds the layout in which most tensors of a file fit a backbone.

    Tensors on the device "meta" are compared by shape. The backbone is not changed; ``settings`` is
    its config. Returns how they fit, and the tensors under the backbone's names, or none if the
    file lacks the first layer or more than 5 % of the backbone.
    """
    wanted = {k: v.shape for k, v in backbone.state_dict().items() if not _is_computed(k)}
    prefixes = {""}  # such as "backbone.", which are tried from the shortest on
    for name in weights:
        wrappers = name.removesuffix(_without_wrappers(name)).split(".")[:-1]
        prefixes.update(accumulate(f"{wrapper}." for wrapper in wrappers))
    shortest_first = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    layout, tensors, fitting, used = "unknown", {}, set(), set()
    for prefix, (name, convert) in product(shortest_first, _layouts(backbone, settings)):
        inner = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        try:
            converted, sources = _trace(convert, inner)
        except Exception:  # converters fail on other layouts in many ways
            continue
        found = {k for k in wanted if k in sources and converted[k].shape == wanted[k]}
        if len(found) > len(fitting):
            fitting, layout = found, name or _describe(weights, prefix)
            used = {prefix + name for key in found for name in sources[key]}
            tensors = {k: v for k, v in converted.items() if k in found or k.endswith(_COUNTER)}
        if len(fitting) == len(wanted):
            break
    parts = {part for name in weights for part in name.split(".")[:3]}
    # Beside a "backbone", torchvision's "classifier" segments; alone it classifies images.
    segments = "backbone" in parts and "classifier" in map(_top, weights)
    fit = Fit(
        source=source,
        layout=layout,
        matched=len(fitting),
        total=len(wanted),
        unmatched=tuple(k for k in wanted if k not in fitting),
        unused=tuple(k for k in weights if not (k in used or _is_computed(k) or _top(k) in _HEADS)),
        seen_masks=segments or bool(parts & _MASK_HEADS),
    )
    # Behind a random first layer, all other layers would see noise.
    is_enough = next(iter(wanted)) in fitting and fit.matched >= 0.95 * fit.total
    return fit, tensors if is_enough else None


@contextmanager
def quietly() -> Iterator[None]:
    """Silences the logs of libraries."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def _layouts(
    backbone: nn.Module, settings: Mapping[str, Any]
) -> Iterator[tuple[str | None, Callable[[Weights], Weights]]]:
    """Yields layouts and conversions from them; the name of the backbone's own layout is none."""
    kind = type(backbone).__name__
    yield None, dict
    if "stem.0.weight" in backbone.state_dict():
        yield "timm ResNet with a deep stem", _rename_deep_stem
    if kind in _CONVERTERS:
        layout, module, function = _CONVERTERS[kind]
        # mmsegmentation's wheel installs its tools as plain files.
        convert = runpy.run_path(shipped(f"tools/model_converters/{module}.py"))[function]
        yield layout, convert
        if kind == "SwinTransformer":
            yield "timm Swin Transformer", lambda weights: convert(_move_mergings(weights))
    if kind == "TIMMBackbone":
        given = {key: value for key, value in settings.items() if key not in ("type", "init_cfg")}
        given |= {"checkpoint_path": "", "pretrained": True}

        def rebuild(weights: Weights) -> Weights:
            """Builds a second network, for which timm renames and reshapes the weights."""
            given["pretrained_cfg_overlay"] = {"state_dict": dict(weights)}
            with quietly():  # timm warns about heads that it skips
                return type(backbone)(**given).state_dict()

        yield "timm", rebuild


def _rename_deep_stem(weights: Weights) -> Weights:
    """Renames timm's ``conv1.0 … conv1.6, bn1`` to mmsegmentation's ``stem.0 … stem.6, stem.7``."""
    if "conv1.0.weight" not in weights:
        return {}
    pairs = ((re.sub(r"^conv1\.", "stem.", name), value) for name, value in weights.items())
    return {re.sub(r"^bn1\.", "stem.7.", name): value for name, value in pairs}


def _move_mergings(weights: Weights) -> Weights:
    """Ends a stage of Swin with the merging of patches, with which the next one begins in timm."""
    pattern = re.compile(r"(?<=^layers\.)\d(?=\.downsample)")
    return {pattern.sub(lambda n: str(int(n[0]) - 1), name): v for name, v in weights.items()}


def _trace(
    convert: Callable[[Weights], Weights], weights: Weights
) -> tuple[Weights, dict[str, set[str]]]:
    """Converts tensors, and finds those that consist of values from the file, with their sources.

    Conversions rename, join, reshape and resample, and a network of timm keeps random values where
    the file has none. Therefore the function first converts tensors of the same shapes, each filled
    with a number of its own: the numbers in a result identify its sources.
    """
    names = list(weights)
    traced = {
        name: torch.full(value.shape, float(_TRACER + number))
        for number, (name, value) in enumerate(weights.items())
    }
    sources = {}
    for name, value in convert(traced).items():
        if not value.numel():
            continue
        low, high = value.aminmax()
        if low < _TRACER - 0.5:  # some values are not from the file
            continue
        numbers = [low] if low == high else value.unique().tolist()
        positions = {round(float(number)) - _TRACER for number in numbers}
        sources[name] = {names[position] for position in positions if position < len(names)}
    return convert(weights), sources


def _without_wrappers(name: str) -> str:
    return ".".join(dropwhile(_WRAPPERS.__contains__, name.split("."))) or name


def _top(name: str) -> str:
    return _without_wrappers(name).split(".")[0]


def _is_computed(name: str) -> bool:
    return name.rpartition(".")[2] in _COMPUTED


def _describe(weights: Weights, prefix: str) -> str:
    """Names the layout of a file whose names, after the prefix, are those of the backbone."""
    tops = set(map(_top, weights))
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
