"""Weights in every supported format, and files that hold no weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.clip.origins.open_clip_origin import OfOpenClip
from pipeline.clip.weights.checkpoint import load_clip, read_weights
from pipeline.errors import UserError
from tests.tiny_clip import build_tiny_clip


@pytest.fixture(scope="module")
def weights(tiny_clip) -> dict[str, torch.Tensor]:
    return {k: v.half().contiguous() for k, v in tiny_clip.state_dict().items()}


class Attributes(torch.nn.Module):
    """Holds tensors under OpenAI's names, so that they can be scripted as OpenAI did."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        for name, tensor in weights.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
        self.register_buffer("input_resolution", torch.tensor(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    paths = {
        name: folder / name for name in ("script.pt", "state.pt", "training.pt", "a.safetensors")
    }
    torch.jit.save(torch.jit.script(Attributes(weights)), paths["script.pt"])
    torch.save(weights, paths["state.pt"])
    wrapped = {f"module.{k}": v for k, v in weights.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, paths["training.pt"])
    save_file(weights, paths["a.safetensors"])
    return paths


@pytest.mark.parametrize("name", ["script.pt", "state.pt", "training.pt", "a.safetensors"])
def test_every_format_gives_the_same_model(name, files, weights):
    model = load_clip(files[name])
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key].float()), key


def test_a_torchscript_archive_is_read_without_running_it(tmp_path):
    class Marked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.script(Marked()), path)
    state = read_weights(path)
    assert torch.equal(state["weight"], torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("name", ["script.pt", "state.pt", "a.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(name, share, files, tmp_path):
    data = files[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_clip(path)


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "resnet.pt"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(UserError, match="resnet.pt holds no vision transf"):
        load_clip(path)


def test_another_architecture_is_named_along_with_the_wanted_one(files):
    with pytest.raises(UserError, match=r"width 64, patch 16 and 4 blocks.*ViT-B-32"):
        load_clip(files["a.safetensors"], "ViT-B-32")


def test_an_unknown_architecture_is_named(files):
    with pytest.raises(UserError, match="open_clip has no model ViT-Z"):
        load_clip(files["a.safetensors"], "ViT-Z")


def test_a_missing_file_and_an_unknown_model_are_named():
    with pytest.raises(UserError, match="checkpoint=/no/such.pt is not"):
        OfOpenClip(None, None, "/no/such.pt").files()
    with pytest.raises(UserError, match=r"clip.checkpoint is missing"):
        OfOpenClip(None, None, None).files()
    with pytest.raises(UserError, match=r"clip.model=ViT-B-16"):
        OfOpenClip("ViT-B-16", "no_such_tag", None).files()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_their_file(value, weights, tmp_path):
    path = tmp_path / "broken.safetensors"
    broken = weights["visual.proj"].clone()
    broken[3, 4] = value
    save_file({**weights, "visual.proj": broken}, path)
    with pytest.raises(UserError, match=r"broken.*not finite \(visual.proj\)"):
        load_clip(path)


ODD = {
    "numbers without dimensions": lambda value: torch.zeros((), dtype=value.dtype),
    "ten dimensions": lambda value: value.reshape((1,) * (10 - value.ndim) + value.shape),
    "no rows": lambda value: value[:0] if value.ndim else value,
}


@pytest.mark.parametrize("odd", ODD)
def test_weights_of_other_dimensions_are_a_sentence(odd, weights, tmp_path):
    save_file({k: ODD[odd](v).contiguous() for k, v in weights.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="incomplete or .*: give clip.mo"):
        load_clip(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(kind, weights, tmp_path):
    """Without their factors they would be read as whole numbers."""
    save_file({k: v.to(kind) for k, v in weights.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"\.weight as .* not quantise"):
        load_clip(tmp_path / "a.safetensors")


def test_no_weights_are_drawn_that_a_file_replaces(tiny_checkpoint, monkeypatch):
    drawn = []
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *_, **__: drawn.append(self) or self)
    load_clip(tiny_checkpoint)
    assert not drawn
    build_tiny_clip()
    assert drawn
