"""The stages train and predict from the command line, on masks of one's own."""

import io
import shlex

import numpy as np
import pytest
import torch
from mmengine.runner import ValLoop
from PIL import Image

from pipeline.errors import UserError
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.stage import Predictions
from pipeline.segmenter.validation import ValidationIoU
from tests.processes import TORCHRUN, run_python
from tests.segmenter.tiny_training import (
    CLASS_NAMES,
    pretend_to_measure,
    run_stage_in,
    training_stage,
    write_labelled,
    write_pairs,
)
from tests.small_runs import TINY_SEGMENTER, folder_options


@pytest.fixture
def own(tmp_path):
    """Arguments of a run on five images with masks."""
    masks = tmp_path / "masks"
    for pair in write_pairs(tmp_path / "images"):
        masks.mkdir(exist_ok=True)
        pair.mask.rename(masks / pair.image.name)
    given = f"dataset.classes=[{','.join(CLASS_NAMES)}]", "masks=file", f"masks.path={masks}"
    given += f"output_dir={tmp_path / 'out'}", "clip=demo", "tags=tagclip", *TINY_SEGMENTER
    return folder_options(tmp_path / "images", None, *given)


@pytest.mark.large
def test_every_step_of_testing_is_kept_and_the_last_predicts(run_stage, own, tmp_path):
    from pipeline.files.images import decode_image

    several = [
        "segmenter.test.scales=[0.5,1.0]",
        "segmenter.test.flip=true",
        "segmenter.test.crf={iterations: 3, gaussian_sxy: 1, gaussian_compat: 3,"
        " bilateral_sxy: 67, bilateral_srgb: 3, bilateral_compat: 4}",
    ]
    finished = run_stage(*own, *several, "stage=[masks,train,predict]")
    assert finished.code == 0, finished.errors
    folder = (tmp_path / "out" / "all" / "predictions" / "latest").resolve()
    segmenter = Segmenter.from_run(tmp_path / "out" / "segmenter" / "latest")
    image = decode_image(tmp_path / "images" / "2.png")

    def stored(name):
        with Image.open(folder / name) as labels:
            return np.asarray(labels)

    averaged = segmenter.probabilities(image, (0.5, 1.0), flip=True)
    plain = segmenter.probabilities(image)
    assert np.array_equal(stored(".single_scale/2.png"), plain.argmax(0))
    assert np.array_equal(stored(".multi_scale/2.png"), averaged.argmax(0))
    from pipeline.masks.crf import CrfOptions, dense_crf

    crf = CrfOptions(iterations=3)
    assert np.array_equal(stored("2.png"), dense_crf(image, averaged, crf).argmax(0))
    assert segmenter.crf == crf
    assert np.array_equal(segmenter(image), dense_crf(image, plain, crf).argmax(0))

    # Two workers for the CRF change no byte, and other ways of testing leave the network alone.
    out = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    for path in folder.glob("*.png"):
        path.unlink()
    again = run_stage(*own, *several, "stage=[train,predict]", "runtime.workers=2")
    assert again.code == 0, again.errors
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert len([p for p in (out / "segmenter").iterdir() if not p.is_symlink()]) == 1
    changed = run_stage(*own, "segmenter.test.crf=null", "stage=predict")
    assert "keep the value of the training" in changed.errors
    assert "keep the value of the training" not in finished.errors


def test_unknown_ways_of_testing(run_stage, own):
    for wrong in ("segmenter.checkpoint=first", "segmenter.test.scales=[]"):
        finished = run_stage(*own, wrong, "stage=[masks,train,predict]")
        assert finished.code == 2 and finished.errors.count("\n") == 1, finished.errors


def flip_a_bit(path):
    """Changes a weight, which PyTorch reads as it is."""
    content = bytearray(path.read_bytes())
    (first, *_) = torch.load(path, weights_only=True)["state_dict"].values()
    content[content.index(bytes(first.untyped_storage()))] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_put_aside_and_made_again(run_stage, own, tmp_path):
    assert run_stage(*own, "stage=[masks,train,predict]").code == 0
    last = (tmp_path / "out" / "segmenter" / "latest").resolve() / "iter_2.pth"
    whole = last.read_bytes()
    flip_a_bit(last)
    with pytest.raises(UserError, match="iter_2.pth is damaged: choose"):
        Segmenter.from_run(last.parent)
    refused = run_stage(*own, "stage=predict")
    assert refused.code == 2 and "iter_2.pth in" in refused.errors
    named = refused.errors.partition(" is missing or damaged: run stage=train again: ")[2]
    assert shlex.split(named)[2] == "stage=[masks,train,predict]"
    again = run_stage(*shlex.split(named)[2:])
    assert again.code == 0, again.errors
    assert f"{last} is damaged and is now iter_2.pth.damaged" in again.errors
    assert read_weights(last) == read_weights(whole)


def read_weights(checkpoint):
    file = io.BytesIO(checkpoint) if isinstance(checkpoint, bytes) else checkpoint
    weights = torch.load(file, weights_only=True)["state_dict"]
    return {name: values.tolist() for name, values in weights.items()}


@pytest.mark.large
def test_the_advice_for_the_best_checkpoint_works(pairs, tmp_path, capfd):
    """The training is in the cache and was not measured: it is done once more, and measured."""
    labelled = write_labelled(tmp_path / "val")

    def stage(**changes):
        return training_stage(pairs, labelled, iterations=5, checkpoint_interval=2, **changes)

    folder = run_stage_in(stage(), tmp_path / "out")
    with pytest.raises(UserError, match="segmenter.validation_interval=N and"):
        Segmenter.from_run(folder.path, which="best")
    last = read_weights(folder.path / "iter_5.pth")
    assert stage(validation_interval=2).is_complete(folder.results)  # nobody asks for the best one
    advised = stage(checkpoint="best", validation_interval=2)
    assert advised.key == folder.results.key and not advised.is_complete(folder.results)
    with pytest.raises(UserError, match="best .* run stage=train again"):
        advised.refuse_missing(folder.results, advised)
    run_stage_in(advised, tmp_path / "out")
    assert advised.is_complete(folder.results) and read_weights(folder.path / "iter_5.pth") == last
    run_stage_in(advised, tmp_path / "undisturbed")
    (best,) = folder.path.glob("best_*")
    same = tmp_path / "undisturbed" / "segmenter" / "latest" / best.name
    assert read_weights(best) == read_weights(same)
    flip_a_bit(best)
    assert not advised.is_complete(folder.results)
    run_stage_in(advised, tmp_path / "out")
    assert f"{best} is damaged and is now {best.name}.damaged" in capfd.readouterr().err
    assert read_weights(best) == read_weights(same)
    with pytest.raises(UserError, match="segmenter.validation_interval=N and"):
        stage(checkpoint="best").is_complete(folder.results)


def test_what_chose_the_best_checkpoint_is_in_the_key_of_its_predictions(pairs, tmp_path):
    labelled = write_labelled(tmp_path / "val")

    def keys(checkpoint, interval=2, samples=labelled):
        options = {"checkpoint": checkpoint, "validation_interval": interval}
        training = training_stage(pairs, samples, **options)
        predictions = Predictions(
            split="val",
            uses={"segmenter": training},
            options=training.options,
            test=training.options.test,
            device="cpu",
            vocabulary=training.vocabulary,
            reader=training.decode,
        )
        return training.key, predictions.key

    last, best = keys("last"), keys("best")
    found = {best[1], keys("best", interval=1)[1], keys("best", samples=labelled[:2])[1]}
    for path in (labelled[0].image, labelled[0].mask.path):
        path.write_bytes(path.read_bytes() + b"more")
        found.add(keys("best")[1])
    assert len(found) == 5 and last[1] not in found
    assert keys("last") == keys("last", interval=1) == keys("last", samples=[]) == last
    assert keys("best")[0] == last[0], "the weights are the same"


def test_a_best_checkpoint_that_something_else_chose_is_not_taken(pairs, tmp_path, monkeypatch):
    for kind, name in ((ValLoop, "run"), (ValidationIoU, "compute_metrics")):
        monkeypatch.setattr(kind, name, getattr(kind, name))  # to be restored
    pretend_to_measure()
    labelled = write_labelled(tmp_path / "val")

    def stage(checkpoint, interval):
        options = {"checkpoint": checkpoint, "validation_interval": interval}
        return training_stage(pairs, labelled, iterations=4, checkpoint_interval=2, **options)

    def best():
        return [path.name for path in folder.path.glob("best_*")]

    folder = run_stage_in(stage("last", 2), tmp_path / "out")
    assert best() == ["best_mIoU_iter_2.pth"] and stage("best", 2).is_complete(folder.results)
    other = stage("best", 4)
    assert stage("last", 4).is_complete(folder.results) and not other.is_complete(folder.results)
    with pytest.raises(UserError, match="not chosen by this .* stage=train"):
        other.refuse_missing(folder.results, other)
    run_stage_in(other, tmp_path / "out")
    assert best() == ["best_mIoU_iter_4.pth"] and other.is_complete(folder.results)
    assert not stage("best", 2).is_complete(folder.results)

    # Of a training that is resumed, two choose in turn.
    (folder.path / "iter_4.pth").unlink()
    run_stage_in(stage("last", 2), tmp_path / "out")
    assert stage("last", 2).is_complete(folder.results)
    for interval in (2, 4):
        assert not stage("best", interval).is_complete(folder.results)
    with folder:
        folder.begin(len(pairs))  # as if it had been killed
    folder = run_stage_in(stage("best", 2), tmp_path / "out")
    assert best() == ["best_mIoU_iter_2.pth"] and stage("best", 2).is_complete(folder.results)


def test_a_best_checkpoint_that_cannot_be_found_is_one_sentence(pairs, tmp_path):
    labelled = write_labelled(tmp_path / "val", 1)

    def stage():
        options = {"iterations": 1, "checkpoint": "best", "validation_interval": 1}
        return training_stage(pairs, labelled, **options)

    run_stage_in(stage(), tmp_path / "out")  # the best one of these masks is not that of the next
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(labelled[0].mask.path)
    for _ in range(2):
        with pytest.raises(UserError, match="validation masks are ignored: cor"):
            run_stage_in(stage(), tmp_path / "out")


@pytest.mark.soak  # test_training_features.py trains in two processes, too
def test_torchrun_trains_and_the_first_process_writes(run_stage, own, tmp_path):
    arguments = [a.replace("batch_size=2", "batch_size=4") for a in own]
    assert run_stage(*arguments, "stage=masks").code == 0
    done = run_python(*TORCHRUN, "tools/run_stage.py", *arguments, "stage=train")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("5 images, 5 computed now") == 1
    assert "UserWarning" not in done.stderr
    manifest = tmp_path / "out" / "segmenter" / "latest" / "manifest.json"
    assert '"checkpoint": "iter_2.pth"' in manifest.read_text()


def test_torchrun_is_for_training_alone(run_stage, own, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0" if name == "RANK" else "2")
    wrong = run_stage(*own, "stage=predict")
    assert wrong.code == 2 and "torchrun is only for stage=train" in wrong.errors
