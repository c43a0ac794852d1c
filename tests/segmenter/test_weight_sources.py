"""Weights from files and from the network, which these tests never reach."""

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest
import timm
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from mmengine.runner import get_external_models, get_mmcls_models
from safetensors.torch import save_file
from torchvision.models import get_model

from pipeline.errors import UserError
from pipeline.files import hugging_face
from pipeline.segmenter.weight_sources import read_state
from tests.safety.live_weights import Code
from tests.segmenter.foreign_backbones import CONVNEXT, build_network, load, saved, stirred


@pytest.fixture
def published(monkeypatch, tmp_path):
    """What the network holds, by URL; a request for anything else finds no network."""
    held = {}

    def download(source, path):
        (url,) = source.urls
        if url not in held:
            raise UserError("no such host") from URLError("Name or service not known")
        torch.save(held[url], path)

    class Session:
        def head(self, url, timeout):
            if url not in held:
                raise ConnectionError("Name or service not known")

    def download_from_hub(repo_id, filename, revision):
        path = tmp_path / filename
        save_file(held[f"https://huggingface.co/{repo_id}/resolve/{revision}/{filename}"], path)
        return str(path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(hugging_face, "fetch", download)
    monkeypatch.setattr(hugging_face, "hf_hub_download", download_from_hub)
    monkeypatch.setattr(hugging_face, "get_session", Session)
    monkeypatch.setattr(hugging_face, "try_to_load_from_cache", lambda *_, **__: None)
    return held


def assert_one_sentence(caught, length=400):
    message = str(caught.value)
    assert "\n" not in message and len(message) < length
    assert "segmenter.pretrained=" in message


# Files


def test_objects_in_a_file_are_named(tmp_path):
    path = saved(tmp_path, {"state_dict": {}, "extra": Code(tmp_path / "mark")})
    with pytest.raises(UserError, match=r"mkdir.*save its tensors only"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"nothing", None])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_damaged_file(content, name, tmp_path):
    path = tmp_path / name
    if content is None:  # truncated
        content = saved(tmp_path, {"weight": torch.zeros(1000)}, "whole.pth").read_bytes()[:-500]
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged or not a weights file") as caught:
        read_state(path)
    assert_one_sentence(caught)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {"epoch": 3}}, [1], "text"])
def test_file_without_tensors(content, tmp_path):
    with pytest.raises(UserError, match="segmenter.pretrained=") as caught:
        read_state(saved(tmp_path, content))
    assert_one_sentence(caught)


def test_file_of_before_torch_1_6(tmp_path):
    weights = {"conv.weight": torch.arange(4.0)}
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(tmp_path / "old.pth")["conv.weight"], torch.arange(4.0))


# Downloads


def test_imagenet_of_a_plain_resnet_is_torchvisions(published):
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    published[url] = stirred(get_model("resnet18")).state_dict()
    # Whatever the config named, for it may have named it for another backbone.
    backbone, report = load("imagenet", "open-mmlab://resnet50_v1c", type="ResNet", depth=18)
    assert (report.source, report.layout) == (url, "torchvision ResNet")
    assert (report.matched, report.seen_masks) == (100, False)
    assert torch.equal(backbone.conv1.weight, published[url]["conv1.weight"])


@pytest.mark.parametrize("source", ["open-mmlab://resnet50_v1c", None])
def test_imagenet_of_a_deep_stem_goes_by_its_depth(source, published):
    url = get_external_models()["resnet18_v1c"]  # the families have hosts of their own
    assert url.endswith("/pretrain/third_party/resnet18_v1c-b5776b93.pth")
    weights = stirred(build_network(type="ResNetV1c", depth=18)[0].backbone).state_dict()
    published[url] = {"state_dict": weights, "meta": {}}
    backbone, report = load("imagenet", source, type="ResNetV1c", depth=18)
    assert report.source == url and report.matched == report.total
    assert torch.equal(backbone.stem[0].weight, weights["stem.0.weight"])


@pytest.mark.parametrize(
    "source, url",
    [
        ("mmcls://mobilenet_v2", get_mmcls_models()["mobilenet_v2"]),
        ("https://example.org/mobilenet.pth", "https://example.org/mobilenet.pth"),
    ],
)
def test_imagenet_of_others_is_where_the_config_says(source, url, published):
    weights = stirred(build_network(type="MobileNetV2")[0].backbone).state_dict()
    named = {f"backbone.{name}": value for name, value in weights.items()}
    published[url] = {"state_dict": named | {"head.fc.weight": torch.zeros(2, 2)}}
    backbone, report = load("imagenet", source, type="MobileNetV2")
    assert (report.source, report.layout) == (url, "mmpretrain network")
    assert report.matched == report.total and report.unused == () and not report.seen_masks
    assert torch.equal(backbone.conv1.conv.weight, weights["conv1.conv.weight"])


def test_imagenet_of_timm(published):
    url = "https://huggingface.co/timm/convnext_atto.d2_in1k/resolve/main/model.safetensors"
    network = stirred(timm.create_model("convnext_atto"))
    published[url] = network.state_dict()
    backbone, report = load("imagenet", **CONVNEXT)
    assert (report.source, report.layout) == (url, "timm")
    assert (report.matched, report.total) == (124, 124)
    assert torch.equal(backbone.timm_model.stem_0.weight, network.stem[0].weight)


def test_imagenet_of_timm_for_another_width(published):
    url = "https://huggingface.co/timm/convnext_atto.d2_in1k/resolve/main/model.safetensors"
    published[url] = timm.create_model("convnext_atto").state_dict()
    with pytest.raises(UserError, match="fits 0 of the 124 tensors") as caught:
        load("imagenet", **CONVNEXT, dims=(8, 16, 24, 32))
    assert_one_sentence(caught)


@pytest.mark.parametrize(
    "backbone, source",
    [
        ({"type": "ResNet", "depth": 18, "base_channels": 32, "stem_channels": 32}, None),
        ({"type": "ResNetV1c", "depth": 34}, None),
        ({"type": "MobileNetV2"}, None),
        ({"type": "MobileNetV2"}, "mmcls://no_such_network"),
        ({"type": "MobileNetV2"}, "s3://bucket/file.pth"),
        ({**CONVNEXT, "model_name": "resnet50t"}, None),
    ],
)
def test_unknown_imagenet_weights(backbone, source, published):
    with pytest.raises(UserError, match="no ImageNet weights are known") as caught:
        load("imagenet", source, **backbone)
    assert_one_sentence(caught)
    assert "segmenter.pretrained=none" in str(caught.value)


def test_imagenet_file_that_the_user_has_to_make(tmp_path):
    weights = build_network(type="MobileNetV2")[0].backbone.state_dict()
    path = saved(tmp_path, weights)
    assert load("imagenet", str(path), type="MobileNetV2")[1].source == str(path)
    with pytest.raises(UserError, match="ImageNet weights .*nothing.pth"):
        load("imagenet", "nothing.pth", type="MobileNetV2")


@pytest.mark.parametrize(
    "backbone, url",
    [
        ({"type": "ResNet", "depth": 18}, "pytorch.org/models/resnet18-f37072fd.pth"),
        ({"type": "ResNetV1c", "depth": 50}, "resnet50_v1c-2cccc1ad.pth"),
        (CONVNEXT, "timm/convnext_atto.d2_in1k/resolve/main/model.safetensors"),
    ],
)
def test_no_network_is_one_sentence(backbone, url, published):
    with pytest.raises(UserError, match=rf"{url} could not be downloaded") as caught:
        load("imagenet", **backbone)
    assert_one_sentence(caught)
    assert re.search(rf"python tools/download.py https://\S*{url} ", str(caught.value))
    assert "give segmenter.pretrained=PATH" in str(caught.value)


def test_hub_client_that_is_offline(published, monkeypatch):
    """Its own switch HF_HUB_OFFLINE, with an error class of its own."""

    def offline(*_, **__):
        raise OfflineModeIsEnabled("Cannot reach it\nwith a second line")

    monkeypatch.setattr(hugging_face, "get_session", offline)
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        load("imagenet", **CONVNEXT)
    assert_one_sentence(caught)


def test_no_download_runs_code(tmp_path, monkeypatch):
    """mmengine's own loader would run it."""
    mark = tmp_path / "mark"
    saved(tmp_path, {"state_dict": {}, "extra": Code(mark)}, "malicious.pth")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/malicious.pth"
        with pytest.raises(UserError, match="damaged or holds more than") as caught:
            load("imagenet", source, type="MobileNetV2")
        server.shutdown()
    assert (tmp_path / "cache" / "torch" / "hub" / "checkpoints" / "malicious.pth").is_file()
    assert not mark.exists()
    assert_one_sentence(caught, 600)
