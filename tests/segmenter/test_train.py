import math

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.segmenter.checkpoints import last_checkpoint
from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.runner import CONFIG_FILE
from pipeline.segmenter.samples import PseudoLabelled, positions
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings, train_tiny


def weights(work_dir):
    return torch.load(last_checkpoint(work_dir), weights_only=True)["state_dict"]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


def test_finished_run(trained, reports):
    assert [report[:2] for report in reports] == [(n, 5) for n in range(1, 6)]
    assert all(math.isfinite(report[2]) for report in reports)
    assert last_checkpoint(trained).name == "iter_5.pth"
    assert (trained / CONFIG_FILE).is_file()
    assert len(list(trained.glob("iter_*.pth"))) == 2


def test_console_stays_quiet(pairs, tmp_path, capfd):
    train_tiny(pairs, tmp_path, tiny_settings(iterations=1))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert list(tmp_path.glob("*/*.log"))


def test_finished_run_is_not_repeated(trained, pairs):
    def never(*report):
        raise AssertionError("trained again")

    assert train_tiny(pairs, trained, on_iteration=never).name == "iter_5.pth"


def test_an_interrupted_training_goes_on_with_its_schedules(trained, reports, pairs, tmp_path):
    """Over several iterations: the rate of the next one is in the optimiser's state, too."""

    def interrupt(iteration, *_):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tiny(pairs, tmp_path, on_iteration=interrupt)
    assert last_checkpoint(tmp_path).name == "iter_2.pth"
    resumed = []
    train_tiny(pairs, tmp_path, on_iteration=lambda *report: resumed.append(report))
    assert resumed == reports[2:]
    assert_same_weights(weights(trained), weights(tmp_path))


@pytest.mark.large
def test_workers_change_nothing(trained, pairs, tmp_path):
    train_tiny(pairs, tmp_path, tiny_settings(workers=1))
    assert_same_weights(weights(trained), weights(tmp_path))


def test_seed_changes_the_weights(trained, pairs, tmp_path):
    train_tiny(pairs, tmp_path, seed=4)
    name = "backbone.conv1.weight"
    assert not torch.equal(weights(trained)[name], weights(tmp_path)[name])


def test_non_finite_loss_stops(pairs, tmp_path):
    with pytest.raises(UserError, match=r"iteration \d.*s/\d.*learning_rate"):
        train_tiny(pairs, tmp_path, tiny_settings(learning_rate=1e20, checkpoint_interval=100))
    assert not list(tmp_path.glob("iter_*.pth"))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named(pairs, tmp_path, workers):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"nothing")
    broken = [type(pairs[0])("the/one", damaged, pairs[0].mask)]
    with pytest.raises(UserError, match="the/one") as caught:
        train_tiny(broken, tmp_path / "run", tiny_settings(workers=workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"a": torch.zeros(1)}, {"a": print}, None])
def test_unfit_pretrained_weights(pairs, tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_text("nothing") if content is None else torch.save(content, path)
    with pytest.raises(UserError, match="segmenter.pretrained"):
        train_tiny(pairs, tmp_path / "run", tiny_settings(pretrained=str(path)))


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"accumulate": 2}])
def test_batch_norm_needs_several_images(pairs, tmp_path, changes):
    with pytest.raises(UserError, match="batch norm needs several"):
        train_tiny(pairs, tmp_path, tiny_settings(**changes))


def test_no_pairs(tmp_path):
    with pytest.raises(UserError, match="stage=masks"):
        train_tiny([], tmp_path)


def test_samples_depend_on_seed_and_position_alone(pairs):
    def samples(seed, positions):
        dataset = PseudoLabelled(pairs, tiny_settings(), seed, {})
        return [dataset[position]["inputs"].numpy() for position in positions]

    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    forward = samples(1, range(12))
    assert np.array_equal(state, np.random.get_state()[1])
    backward = samples(1, reversed(range(12)))
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward[::-1]))
    assert not all(np.array_equal(a, b) for a, b in zip(forward, samples(2, range(12))))


def test_every_image_once_an_epoch(pairs):
    dataset = PseudoLabelled(pairs, tiny_settings(), 0, {})
    names = [dataset[position]["data_samples"].metainfo["img_id"] for position in range(10)]
    assert sorted(names[:5]) == sorted(names[5:]) == sorted(pair.id for pair in pairs)


def test_a_resumed_training_loads_only_what_is_left():
    assert positions(4, start=3, iterations=5) == list(range(12, 20))
    assert positions(4, 3, 5, rank=1, processes=2) == [14, 15, 18, 19]


@pytest.mark.parametrize(
    "name",
    [
        "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py",
        "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",  # sigmoid, several heads
    ],
)
def test_label_255_does_not_count(name):
    """The loss and its gradient are those of the other pixels, whatever lies under 255."""
    overrides = tiny_settings().overrides if "deeplab" in name else {}
    config = build_config(
        tiny_settings(config=name, overrides=overrides), CLASS_NAMES, PALETTE, seed=0
    )
    torch.manual_seed(0)
    model = build_model(config.model).eval()
    heads = [model.decode_head]
    if model.with_auxiliary_head:
        heads += list(model.auxiliary_head)
    labels = torch.randint(0, 3, (1, 1, 32, 32))
    ignored = torch.rand(1, 1, 32, 32) < 0.4
    labels[ignored] = 255
    for head in heads:
        scores = torch.randn(1, head.out_channels, 32, 32, requires_grad=True)
        loss = head_loss(head, scores, labels)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert (gradient[:, :, ignored[0, 0]] == 0).all()
        assert gradient.abs().sum() > 0
        # Neither their scores nor their number matters: as if the image had only the others.
        changed = torch.where(ignored, torch.randn_like(scores), scores)
        assert torch.allclose(head_loss(head, changed, labels), loss)
        kept = scores[:, :, ~ignored[0, 0]].unsqueeze(-1)
        assert torch.allclose(head_loss(head, kept, labels[~ignored].view(1, 1, -1, 1)), loss)


def head_loss(head, scores, labels):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(gt_sem_seg=PixelData(data=labels[0]))
    losses = head.loss_by_feat(scores, [sample])
    return sum(value for name, value in losses.items() if "loss" in name)


def test_batch_without_labels_is_no_failure(pairs, tmp_path):
    from PIL import Image

    empty = tmp_path / "empty.png"
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(empty)
    unlabelled = [type(pair)(pair.id, pair.image, empty) for pair in pairs]
    losses = []
    settings = tiny_settings(iterations=1)
    train_tiny(unlabelled, tmp_path / "run", settings, on_iteration=lambda *r: losses.append(r[2]))
    assert losses == [0.0]
