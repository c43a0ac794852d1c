"""Published weights: what a run lacks is named at once, and tools/download.py fetches all of it."""

from __future__ import annotations

import shlex

import numpy as np
import open_clip
import pytest
import timm
from safetensors.torch import save_file

from pipeline import load_image, train
from pipeline.clip.origins.open_clip_origin import OfOpenClip
from pipeline.errors import UserError
from pipeline.files import hugging_face
from tests.small_runs import folder_options

CLIP = OfOpenClip("ViT-B-16-quickgelu", "openai", None).published()["weights"].urls[0]
NETWORK = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"


class Hub:
    """Stands for Hugging Face, its client's cache and the network."""

    def __init__(self, folder):
        self.online, self.kept = False, {}
        self.path = folder / "model.safetensors"
        save_file(timm.create_model("resnet18").state_dict(), self.path)

    def head(self, url, timeout):
        if not self.online:
            raise ConnectionError("Name or service not known")

    def download(self, repo_id, *_, **__):
        self.kept[repo_id.strip("/")] = str(self.path)
        return str(self.path)

    def find(self, repository, *_, **__):
        return self.kept.get(repository)


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("hub"))
    for module in ("huggingface_hub.utils", hugging_face.__name__):
        monkeypatch.setattr(f"{module}.get_session", lambda: hub)
    for module in ("huggingface_hub", hugging_face.__name__):
        monkeypatch.setattr(f"{module}.try_to_load_from_cache", hub.find)
    monkeypatch.setattr(hugging_face, "hf_hub_download", hub.download)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda it: hub.download(it["hf_hub"]))
    return hub


@pytest.fixture
def given(photographs, tmp_path):
    """README's second command, with a network that starts from weights of its own."""
    own = folder_options(photographs, "")[:3]
    own += ["clip=vit_b16", "segmenter=light", f"output_dir={tmp_path / 'out'}"]
    return [*own, "tags.min_score=0.2"]


def test_a_run_names_all_that_is_missing_in_one_sentence(hub, given, run_stage, run_tool):
    planned = run_stage(*given, "dry_run=true")
    assert planned.output.count("known after download") == 5 and not hub.kept, planned
    size = "(CLIP: 350.8 MB, network: 46.8 MB)"
    note = f"note: the run first downloads the weights {CLIP} and {NETWORK} {size}\n"
    assert planned.errors == f"{note}note: the network is light\n"
    finished = run_stage(*given)
    assert finished.code == 2 and finished.errors.count("\n") == 1
    assert f"the weights {CLIP} and {NETWORK} could not be downloaded" in finished.errors
    named = finished.errors.partition(": run ")[2].partition(" where there is a network")[0]
    assert shlex.split(named)[1:] == ["tools/download.py", *given]

    hub.online = True
    fetched = run_tool("download.py", *shlex.split(named)[2:])
    assert fetched.code == 0 and len(hub.kept) == 2, fetched.errors
    following = fetched.output.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(following)[1:] == ["tools/run_stage.py", *given]
    hub.online = False
    assert run_tool("download.py", *given, "--dry-run").output == ""


@pytest.mark.parametrize(("network", "none"), [("light", " (or none)"), ("deeplabv2_r101", "")])
def test_without_a_network_files_are_the_remedy(hub, given, network, none, run_stage, monkeypatch):
    """With the batch norm of DeepLab-V2, which is frozen, a training from nothing learns little."""
    monkeypatch.setenv("TORCH_HOME", str(hub.path.parent))
    finished = run_stage(*given, f"segmenter={network}")
    assert finished.code == 2 and finished.errors.count("\n") == 1
    remedy = f"; or give clip.checkpoint=FILE and segmenter.pretrained=FILE{none}\n"
    assert finished.errors.endswith(remedy), finished.errors
    alone = run_stage(*given, "stage=tags").errors
    assert alone.endswith("; or give clip.checkpoint=FILE\n")


def test_a_dry_run_of_the_download_fetches_nothing(hub, given, run_tool):
    finished = run_tool("download.py", *given, "--dry-run")
    assert finished.code == 0 and not hub.kept
    assert finished.output.count("missing") == 2
    assert CLIP in finished.output and NETWORK in finished.output


def test_only_what_the_stages_read_is_fetched(hub, given, run_stage, run_tool, tmp_path):
    hub.online = True
    assert run_tool("download.py", *given, "stage=tags").code == 0
    assert [*hub.kept] == ["timm/vit_base_patch16_clip_224.openai"]
    hub.online, hub.kept = False, {}
    (tmp_path / "tags.txt").write_text("a 1\nb 0\nc\nd 2\nholiday%202026/e%20f 1\n")
    files = ["tags=file", f"tags.path={tmp_path}/tags.txt", "stage=tags", "dry_run=true"]
    assert run_stage(*given[:-1], *files).errors == "", "no stage reads CLIP"


def test_weights_are_files_for_another_machine(hub, given, run_tool, monkeypatch, tmp_path):
    """They are stored although they are in the caches."""
    hub.kept = dict.fromkeys(["timm/vit_base_patch16_clip_224.openai", "timm/resnet18.a1_in1k"])
    hub.kept = {name: str(hub.path) for name in hub.kept}
    obtained = []
    monkeypatch.setattr("pipeline.commands.download.obtain", lambda task, _: obtained.append(task))
    finished = run_tool("download.py", *given, "--output", tmp_path / "w")
    assert [task.source.urls[0] for task in obtained] == [CLIP, NETWORK]
    words = shlex.split(finished.output.splitlines()[-1])
    paths = [f"{tmp_path}/w/ViT-B-16.pt", f"{tmp_path}/w/model.safetensors"]
    assert words[-2:] == [f"clip.checkpoint={paths[0]}", f"segmenter.pretrained={paths[1]}"]
    assert [str(task.path) for task in obtained] == paths


def test_a_study_is_fetched_for_as_well(hub, given, run_tool):
    finished = run_tool("download.py", *given, "-m", "clip=vit_b16,vit_b32", "--dry-run")
    assert finished.output.count("ViT-B-16.pt  350.8 MB, missing") == 1, finished.errors
    assert finished.output.count("ViT-B-32.pt  354.0 MB, missing") == 1


def test_a_training_looks_at_its_files_before_it_downloads(hub, photographs, tmp_path):
    image, mask = load_image(photographs / "a.jpg"), np.full((2, 2), 1, np.uint8)
    with pytest.raises(UserError, match=r"^images\[0\]: .* pixels"):
        train([image], [mask], ["cat"], output=tmp_path, segmenter="frozen_vit")
