import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import UserError
from pipeline.segmenter.checkpoints import best_checkpoint, last_checkpoint
from pipeline.segmenter.mmseg import build_config, build_model, in_mmseg
from pipeline.segmenter.mmseg_network import MmsegNetwork
from pipeline.segmenter.predict import Segmenter
from tests import REPOSITORY
from tests.docs.pages import read_blocks
from tests.processes import run_python
from tests.segmenter.tiny_segmenters import UNET, balanced_segmenter, noise
from tests.segmenter.tiny_training import (
    CLASS_NAMES,
    PALETTE,
    tiny_settings,
    train_tiny,
    write_labelled,
)


@pytest.fixture(scope="module")
def segmenter(trained):
    return Segmenter.from_run(trained)


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
    shutil.copy(last_checkpoint(trained), alone)
    assert Segmenter.from_run(alone).class_names == segmenter.class_names


@pytest.mark.large
def test_the_configuration_of_a_run_is_one_of_mmsegmentation(pairs, trained, segmenter, tmp_path):
    """The program that the documentation prints labels an image as our own ``Segmenter`` does."""
    blocks = read_blocks(REPOSITORY / "docs" / "export.md")
    (program,) = [block.text for block in blocks if "init_model" in block.text]
    run, photograph = tmp_path / "outputs/folder/segmenter/latest", tmp_path / "photograph.jpg"
    shutil.copytree(trained, run)
    with Image.open(pairs[0].image) as image:
        image.save(photograph)
    # The network finds background alone: let every class win somewhere.
    checkpoint = torch.load(last_checkpoint(run), weights_only=True)
    means = segmenter.logits(photograph).mean((1, 2))
    checkpoint["state_dict"]["decode_head.conv_seg.bias"] -= torch.from_numpy(means)
    torch.save(checkpoint, last_checkpoint(run))
    program += "\nimport numpy\nnumpy.savez('told', labels, model.dataset_meta['classes'])\n"
    ran = run_python("-c", program, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert ran.returncode == 0, ran.stderr
    with np.load(tmp_path / "told.npz") as arrays:
        labels, names = arrays.values()
    assert np.array_equal(labels, Segmenter.from_run(run)(photograph))
    assert np.bincount(labels.ravel()).min() > 50
    assert names.tolist() == ["background", *CLASS_NAMES]


SEGFORMER = {
    "config": "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    "overrides": {},
}
CONVNEXT = {
    "config": "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    "backbone": "convnext_atto",
    "overrides": {},
}


@pytest.mark.parametrize(
    ("changes", "side"), [(SEGFORMER, 32), (CONVNEXT, 32), ({}, 1), (UNET, 16)]
)
def test_images_that_a_network_would_shrink_to_nothing(changes, side):
    """SegFormer's first attention is over cells of 8×8 of its 4×4 patches."""
    config = build_config(tiny_settings(**changes), CLASS_NAMES, PALETTE, 0)
    network = MmsegNetwork(build_model(config.model))
    assert network.min_side == side
    segmenter = Segmenter(network, ("background", *CLASS_NAMES), tuple(PALETTE))
    for shape in [(50, 50), (50, 9), (31, 33), (1, 1)]:
        image = noise(*shape)
        assert segmenter(image).shape == shape
        assert segmenter.probabilities(image, (0.25, 0.5), flip=True).shape == (3, *shape)


def test_small_images_are_measured_during_training(pairs, tmp_path):
    labelled = write_labelled(tmp_path / "val", 1)
    for path in (labelled[0].image, labelled[0].mask.path):
        with Image.open(path) as image:
            image.crop((0, 0, 20, 12)).save(path)
    settings = tiny_settings(**CONVNEXT, iterations=1, validation_interval=1)
    train_tiny(pairs, tmp_path / "run", settings, validation=labelled)
    assert best_checkpoint(tmp_path / "run").is_file()


def test_one_scale_is_the_softmax_of_the_scores(segmenter):
    image = noise(33, 57)
    wanted = torch.from_numpy(segmenter.logits(image)).softmax(0).numpy()
    assert np.array_equal(segmenter.probabilities(image), wanted)
    assert np.array_equal(segmenter.probabilities(image, scales=[1], flip=False), wanted)


@pytest.mark.parametrize("shape", [(33, 57), (1, 1), (2, 90)])
def test_probabilities_sum_to_one_at_any_size(segmenter, shape):
    probabilities = segmenter.probabilities(noise(*shape), (0.3, 1.0, 1.75), flip=True)
    assert probabilities.shape == (3, *shape) and probabilities.dtype == np.float32
    assert np.abs(probabilities.sum(0) - 1).max() < 1e-6
    assert probabilities.min() >= 0


@pytest.mark.parametrize("shape", [(40, 48), (37, 21)])
def test_a_gpu_segments_an_image_and_its_mirror_image_together(segmenter, shape, monkeypatch):
    image, scales = noise(*shape), (0.5, 1.0, 1.5)
    expected = segmenter.probabilities(image, scales, flip=True)
    sizes = []
    model = segmenter.network.model
    encode = model.encode_decode
    monkeypatch.setattr(
        model, "encode_decode", lambda x, metas: sizes.append(len(x)) or encode(x, metas)
    )
    monkeypatch.setattr(segmenter.network, "takes_batches", True)  # as on a GPU
    found = segmenter.probabilities(image, scales, flip=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sizes == [2, 2, 2]


def augmented(image, scales, flip):
    """What mmsegmentation's own pipeline for test-time augmentation makes of an image."""
    from mmcv.transforms import TestTimeAug
    from mmseg.datasets import transforms  # noqa: F401 (registers PackSegInputs)

    steps = [
        [{"type": "Resize", "scale_factor": float(s), "keep_ratio": True} for s in scales],
        [{"type": "RandomFlip", "prob": float(f)} for f in range(1 + flip)],
        [{"type": "PackSegInputs"}],
    ]
    with in_mmseg():
        pipeline = TestTimeAug(steps)
    shape = image.shape[:2]
    results = {"img": image[:, :, ::-1].copy(), "img_shape": shape, "ori_shape": shape}
    return pipeline({**results, "img_path": ""})


@pytest.mark.parametrize("changes", [{}, UNET], ids=["deeplab", "padded"])
@pytest.mark.parametrize("shape", [(41, 50), (64, 37)])
def test_scales_and_flips_match_mmsegmentation(changes, shape):
    from mmseg.models.segmentors import SegTTAModel

    own, image, scales = balanced_segmenter(**changes), noise(*shape), (0.5, 0.75, 1.0, 1.35)
    averaged = own.probabilities(image, scales, flip=True)

    batches = augmented(image, scales, flip=True)
    batches = {key: [[value] for value in values] for key, values in batches.items()}
    assert len(batches["inputs"]) == 8
    with torch.no_grad():
        single = [
            own.network.model.test_step({"inputs": i, "data_samples": d})[0].seg_logits.data
            for i, d in zip(*batches.values())
        ]
        merged = SegTTAModel(own.network.model).test_step(batches)[0]
    wanted = torch.stack(single).softmax(1).mean(0).numpy()
    assert np.abs(averaged - wanted).max() < 1e-5
    agreement = merged.pred_sem_seg.data.numpy() == averaged.argmax(0)
    assert agreement.mean() > 0.999
    assert len(np.unique(averaged.argmax(0))) == 3, "labels that all agree would prove nothing"


@pytest.mark.parametrize("scales", [(), (0,), (1, -0.5), (float("nan"),), (1e9,), ("1",), 1, None])
def test_scales_that_are_none(segmenter, scales):
    with pytest.raises(UserError, match="above 0"):
        segmenter.probabilities(noise(8, 8), scales)


def test_refined_probabilities_follow_edges(segmenter):
    image = np.zeros((24, 32, 3), np.uint8)
    image[:, 16:] = 255
    right = np.full((24, 32), 0.6, np.float32)
    right[:, :13] = 0.1  # the border lies at 13 and should be at 16
    vague = np.stack([1 - right, right])
    sharp = segmenter.refine(image, vague)
    assert sharp.dtype == np.float32 and np.abs(sharp.sum(0) - 1).max() < 1e-5
    assert (sharp.argmax(0)[:, :16] == 0).all() and (sharp.argmax(0)[:, 16:] == 1).all()


def test_the_best_checkpoint_is_taken_when_asked_for(trained, tmp_path):
    last = last_checkpoint(trained)
    shutil.copy(last, tmp_path / "iter_5.pth")
    with pytest.raises(UserError, match="no best checkpoint.*segmenter.validation_interval=N"):
        Segmenter.from_run(tmp_path, which="best")
    better = torch.load(last, weights_only=True)
    better["meta"]["segmenter"]["class_names"][1] = "best"
    torch.save(better, tmp_path / "best_mIoU_iter_4.pth")
    assert Segmenter.from_run(tmp_path, which="best").class_names[1] == "best"
    assert Segmenter.from_run(tmp_path).class_names[1] == "red"
    with pytest.raises(UserError, match="which=first: .*from last, best"):
        Segmenter.from_run(tmp_path, which="first")


def misfit(source):
    checkpoint = torch.load(source, weights_only=True)
    checkpoint["state_dict"].popitem()
    return checkpoint


DAMAGE = {
    "missing": lambda source, path: None,
    "text": lambda source, path: path.write_text("nothing"),
    "overwritten": lambda source, path: path.write_bytes(
        (content := source.read_bytes())[:200] + b"\xff" * 1800 + content[2000:]
    ),
    "foreign": lambda source, path: torch.save({"state_dict": {}}, path),
    "a list": lambda source, path: torch.save([1], path),
    "misfit": lambda source, path: torch.save(misfit(source), path),
    "empty folder": lambda source, path: path.mkdir(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_unusable_checkpoint_ends_in_one_sentence(trained, tmp_path, kind):
    DAMAGE[kind](last_checkpoint(trained), tmp_path / "c.pth")
    with pytest.raises(UserError) as caught:
        Segmenter.from_run(tmp_path / "c.pth")
    assert "\n" not in str(caught.value)


def changed(change):
    """A change of what a checkpoint says of itself."""

    def apply(described):
        for path, value in change.items():
            *parents, name = path.split(".")
            part = described
            for parent in parents:
                part = part[parent]
            part[name] = value

    return apply


TEST_CFG = "model.data_preprocessor.test_cfg"
LIMITS, CRF = "model.test_cfg.limits", "model.test_cfg.crf"


@pytest.mark.parametrize(
    "change",
    [
        *({"class_names": value} for value in (None, 3, "abc", [1, 2, 3], ["a"], [["a"]] * 3)),
        *({"palette": value} for value in (None, 5, [0, 1, 2], [[0, 0]] * 3, [[0] * 3])),
        *({"palette": [[0, 0, value]] * 3} for value in (999, -1, 0.5, "red", float("nan"))),
        *({TEST_CFG: {"size_divisor": value}} for value in (0, -1, "x", [3], 1.5, 10**9, None)),
        *({TEST_CFG: value} for value in ([1], "x", {"size": (10**6, 10**6)})),
        *({LIMITS: value} for value in (None, [1], {"longest_side": 0}, {"patches": [14]})),
        *({CRF: value} for value in ([1], {"steps": 1}, {"iterations": -1}, {"iterations": "x"})),
        {"class_names": ["a"] * 4, "palette": [[0] * 3] * 4},
    ],
    ids=lambda change: " ".join(f"{name}={value}" for name, value in change.items()),
)
def test_a_checkpoint_that_describes_itself_in_another_way_is_refused(trained, tmp_path, change):
    checkpoint = torch.load(last_checkpoint(trained), weights_only=True)
    changed(change)(checkpoint["meta"]["segmenter"])
    torch.save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(UserError, match="c.pth is not .*: choose another"):
        Segmenter.from_run(tmp_path / "c.pth")


def test_a_device_that_does_not_exist_is_refused(trained):
    with pytest.raises(UserError, match="device=gpu .*give cpu, cuda or auto"):
        Segmenter.from_run(trained, device="gpu")


def test_images_in_every_form_are_segmented_alike(segmenter, tmp_path):
    image = noise(30, 45)
    Image.fromarray(image).save(tmp_path / "i.png")
    path = tmp_path / "i.png"
    wanted = segmenter(image)
    for form in (path, str(path), Image.fromarray(image), np.dstack([image, image[..., 0] | 255])):
        assert np.array_equal(segmenter(form), wanted)
    assert np.array_equal(segmenter.logits(path).argmax(0), wanted)
    several = segmenter([image, path])
    assert isinstance(several, list) and all(np.array_equal(each, wanted) for each in several)
    averaged = segmenter.probabilities(image)
    assert np.array_equal(segmenter.probabilities(path), averaged)
    assert np.array_equal(segmenter.refine(path, averaged), segmenter.refine(image, averaged))
    with pytest.raises(UserError, match="30×45×3 float64: convert it"):
        segmenter(image / 255)


def test_weights_that_are_not_finite_name_their_file(trained, tmp_path):
    checkpoint = torch.load(last_checkpoint(trained), weights_only=True)
    name = "decode_head.conv_seg.bias"
    checkpoint["state_dict"][name][0] = float("nan")
    torch.save(checkpoint, tmp_path / "iter_1.pth")
    with pytest.raises(UserError, match=rf"iter_1.pth holds weights .* not finite \({name}\)"):
        Segmenter.from_run(tmp_path)


def test_scores_that_are_not_finite_are_an_error(trained):
    segmenter = Segmenter.from_run(trained)
    with torch.no_grad():
        segmenter.network.model.decode_head.conv_seg.bias.fill_(float("inf"))
    with pytest.raises(UserError, match="scores of an image are not finite"):
        segmenter(np.zeros((40, 48, 3), np.uint8))
