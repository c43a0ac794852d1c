import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData

from pipeline.errors import UserError
from pipeline.segmenter.architecture import dictionaries
from pipeline.segmenter.mmseg import build_config, build_model, find_config, import_mmseg
from pipeline.segmenter.predict import Segmenter
from tests.processes import run_python
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings, train_tiny

DEEPLAB = "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py"


def test_stand_in_is_removed():
    import_mmseg()
    import_mmseg()
    assert "mmseg.models" in sys.modules
    assert type(sys.modules.get("mmcv._ext")) in (type(None), types.ModuleType)


def test_the_scope_of_other_programs_stays(trained, pairs, tmp_path):
    """Another program in this process may use mmengine for something else."""
    with DefaultScope.overwrite_default_scope("mmengine"):
        segmenter = Segmenter.from_run(trained)
        segmenter(np.zeros((8, 8, 3), np.uint8))
        train_tiny(pairs, tmp_path, tiny_settings(iterations=1))
        assert DefaultScope.get_current_instance().scope_name == "mmengine"


@pytest.mark.skipif(
    importlib.util.find_spec("mmcv._ext") is not None, reason="this mmcv has these operators"
)
def test_compiled_operators_end_in_one_sentence():
    import_mmseg()
    import mmcv.ops

    with pytest.raises(UserError, match="install the full mmcv"):
        mmcv.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


@pytest.mark.parametrize(
    "name",
    [
        DEEPLAB,
        "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
        "upernet/upernet_r50_4xb4-20k_voc12aug-512x512.py",
        "pspnet/pspnet_r101-d8_4xb4-20k_voc12aug-512x512.py",
        "icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832.py",
        "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
        "ocrnet/ocrnet_hr18_4xb4-20k_voc12aug-512x512.py",
        "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    ],
)
def test_config_fits_classes_and_one_offline_device(name):
    config = build_config(tiny_settings(config=name, overrides={}), CLASS_NAMES, PALETTE, 0)
    heads = [config.model.decode_head, config.model.get("auxiliary_head")]
    counted = [part for part in dictionaries(heads) if "num_classes" in part]
    assert counted
    assert all(part.num_classes == 3 and part.ignore_index == 255 for part in counted)
    for part in dictionaries(config.model):
        assert "SyncBN" not in str(part.get("type"))
        assert part.get("type") != "Pretrained"
        assert not part.get("pretrained")
        if part.get("type") == "CrossEntropyLoss":
            assert part.avg_non_ignore
            assert "class_weight" not in part
    assert "http" not in str(config.model) and "open-mmlab" not in str(config.model)
    assert config.class_names == ["background", *CLASS_NAMES]


def test_head_that_names_no_loss_does_not_count_255_either():
    from mmseg.structures import SegDataSample

    settings = tiny_settings()
    settings.overrides["decode_head"]["loss_decode"] = None
    model = build_config(settings, CLASS_NAMES, PALETTE, 7).model
    head = build_model(model).decode_head
    torch.manual_seed(0)
    scores, labels = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    labels[..., 3:] = 255

    def loss(columns):
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels[..., :columns]))
        return head.loss_by_feat(scores[..., :columns], [sample])["loss_ce"]

    assert torch.allclose(loss(8), loss(3))


def test_schedule_and_optimiser():
    settings = tiny_settings(optimizer="AdamW", warmup_iterations=2, iterations=20)
    config = build_config(settings, CLASS_NAMES, PALETTE, 7)
    assert "momentum" not in config.optim_wrapper.optimizer
    assert [rule.type for rule in config.param_scheduler] == ["LinearLR", "PolyLR"]
    assert config.param_scheduler[-1].eta_min == pytest.approx(1e-6)
    assert config.param_scheduler[-1].end == 20
    assert config.randomness.seed == 7


def test_a_warm_up_of_more_than_a_tenth_is_one_of_a_tenth_in_the_key_too():
    settings = [tiny_settings(warmup_iterations=count, iterations=20) for count in (2, 3, 1500)]
    built = [build_config(each, CLASS_NAMES, PALETTE, 7).param_scheduler for each in settings]
    assert built[0][0].end == 2 and built[0] == built[1] == built[2]
    keys = [each.training_facts for each in settings]
    assert keys[0] == keys[1] == keys[2]


@pytest.mark.parametrize(
    ("optimizer", "device", "expected"),
    [
        ("AdamW", "cpu", True),
        ("SGD", "cpu", True),
        ("RMSprop", "cpu", False),
        ("SGD", "cuda", False),
    ],
)
def test_a_cpu_updates_weights_in_one_go(optimizer, device, expected):
    config = build_config(tiny_settings(optimizer=optimizer), CLASS_NAMES, PALETTE, 0, device)
    assert config.optim_wrapper.optimizer.get("fused", False) is expected


def test_batch_that_cannot_be_divided():
    with pytest.raises(UserError, match="segmenter.accumulate"):
        build_config(tiny_settings(batch_size=4, accumulate=3), CLASS_NAMES, PALETTE, 0)
    with pytest.raises(UserError, match="number of processes"):
        build_config(tiny_settings(batch_size=4), CLASS_NAMES, PALETTE, 0, processes=3)


def test_wrong_name_gives_the_nearest():
    with pytest.raises(UserError, match="r50-d8_4xb4-20k_voc12aug"):
        find_config(DEEPLAB.replace("plus_r50", "pluss_r50"))
    with pytest.raises(UserError, match="does not exist"):
        find_config("/nowhere/config.py")


@pytest.mark.parametrize(
    "name",
    [
        "convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py",
        "mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
        "stdc/stdc1_4xb12-80k_cityscapes-512x1024.py",
        "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
        "beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py",
    ],
)
def test_unusable_config_ends_in_one_sentence(name):
    with pytest.raises(UserError, match="segmenter.config") as caught:
        config = build_config(tiny_settings(config=name, overrides={}), CLASS_NAMES, PALETTE, 0)
        build_model(config.model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [{"backbone": {"depth": 19}}, {"backbone": {"dept": 18}}, {"backbone": {"norm_cfg": 3}}],
)
def test_wrong_overrides(overrides):
    with pytest.raises(UserError, match="segmenter.overrides"):
        build_model(build_config(tiny_settings(overrides=overrides), ["x"], PALETTE[:2], 0).model)


def test_k_net_builds():
    name = "knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py"
    config = build_config(tiny_settings(config=name, overrides={}), CLASS_NAMES, PALETTE, 0)
    model = build_model(config.model)
    assert model.decode_head.kernel_update_head[-1].num_classes == 3


@pytest.mark.large
@pytest.mark.parametrize("name", ["heads", pytest.param("validation", marks=pytest.mark.soak)])
def test_modules_that_need_mmsegmentation_can_be_imported_first(name):
    done = run_python("-c", f"import pipeline.segmenter.{name}")
    assert (done.returncode, done.stdout) == (0, ""), "results are printed there"
