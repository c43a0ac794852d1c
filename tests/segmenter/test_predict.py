import shutil

import numpy as np
import pytest
import torch
from tiny_training import CLASS_NAMES, PALETTE, tiny_settings

from pipeline.errors import UserError
from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.train import last_checkpoint


@pytest.fixture(scope="module")
def segmenter(trained):
    return Segmenter.from_run(trained[0])


@pytest.mark.parametrize("shape", [(40, 48), (33, 57), (16, 100)])
def test_full_size_and_repeatable(segmenter, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    labels = segmenter(image)
    assert labels.shape == shape and labels.dtype == np.uint8 and labels.max() <= 2
    logits = segmenter.logits(image)
    assert logits.shape == (3, *shape) and logits.dtype == np.float32
    assert np.array_equal(logits.argmax(0), labels)
    assert np.array_equal(segmenter(image), labels)


def test_classes_come_from_the_checkpoint(segmenter, trained, tmp_path):
    assert segmenter.class_names == ("background", *CLASS_NAMES)
    assert segmenter.palette == tuple(PALETTE)
    alone = tmp_path / "elsewhere.pth"
    shutil.copy(last_checkpoint(trained[0]), alone)
    assert Segmenter.from_run(alone).class_names == segmenter.class_names


def test_matches_mmsegmentation(segmenter):
    """The same image through mmsegmentation's own ``predict``."""
    from mmseg.structures import SegDataSample

    image = np.random.default_rng(1).integers(0, 256, (41, 50, 3), dtype=np.uint8)
    model = segmenter._model
    sample = SegDataSample(metainfo={"img_shape": (41, 50), "ori_shape": (41, 50)})
    bgr = torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        result = model.test_step({"inputs": [bgr], "data_samples": [sample]})[0]
    assert np.allclose(result.seg_logits.data.numpy(), segmenter.logits(image), atol=1e-5)


def test_network_that_needs_whole_strides():
    settings = tiny_settings(
        config="unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py",
        overrides={
            "backbone": {"base_channels": 4},
            "decode_head": {"in_channels": 4, "channels": 4},
            "auxiliary_head": {"in_channels": 8, "channels": 4},
        },
    )
    model = build_model(build_config(settings, CLASS_NAMES, PALETTE, 0).model)
    labels = Segmenter(model, ("background", *CLASS_NAMES), tuple(PALETTE))(
        np.zeros((37, 50, 3), np.uint8)
    )
    assert labels.shape == (37, 50)


def damaged(tmp_path, source, kind):
    path = tmp_path / "c.pth"
    if kind == "text":
        path.write_text("nothing")
    elif kind == "truncated":
        path.write_bytes(source.read_bytes()[:5000])
    elif kind == "overwritten":
        content = bytearray(source.read_bytes())
        content[200:2000] = b"\xff" * 1800
        path.write_bytes(content)
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    elif kind == "a list":
        torch.save([1], path)
    elif kind == "code":
        torch.save({"meta": print}, path)
    elif kind == "misfit":
        checkpoint = torch.load(source, weights_only=True)
        checkpoint["state_dict"].popitem()
        torch.save(checkpoint, path)
    elif kind == "empty folder":
        return tmp_path
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "text",
        "truncated",
        "overwritten",
        "foreign",
        "a list",
        "code",
        "misfit",
        "empty folder",
    ],
)
def test_unusable_checkpoint_ends_in_one_sentence(trained, tmp_path, kind):
    with pytest.raises(UserError) as caught:
        Segmenter.from_run(damaged(tmp_path, last_checkpoint(trained[0]), kind))
    assert "\n" not in str(caught.value)
