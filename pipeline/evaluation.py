"""The stage ``evaluate``: which artefacts of a project there are, and what measures each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.datasets.sample import Sample
from pipeline.errors import UserError
from pipeline.keys import describe
from pipeline.metrics import stage as metrics_stage
from pipeline.metrics.record import MetricsFile
from pipeline.outcome import Outcome
from pipeline.project import Project
from pipeline.store import StageFolder


def run_evaluate(project: Project) -> Iterator[Outcome]:
    """Measures what was computed against the ground truth, where there is any."""
    file = MetricsFile(project.store.root / "metrics.json")
    nothing = True
    for split in project.splits:
        samples = project.samples(split)
        ids = [s.id for s in samples]
        for folder, measure in _measures(project, split, samples):
            if not folder.entries:
                continue
            nothing = False
            figures = measure(folder)
            if figures is None:
                file.drop_latest(folder)
                continue
            about = describe(project.config, folder.stage)
            if project.round > 1:
                about["round"] = str(project.round)
            file.put(folder, folder.input_key(ids), figures, about)
            yield Outcome("evaluate", f"{split} {folder.stage}", figures["images"], 0, 0, file.path)
    if nothing:
        raise UserError("there is nothing to evaluate: run stage=tags first")
    file.save()


def _measures(
    project: Project, split: str, samples: list[Sample]
) -> Iterator[tuple[StageFolder, Callable[[StageFolder], dict | None]]]:
    """Yields the folders of a split and what measures each."""
    vocabulary, betas = project.vocabulary, project.config["cams"]["background_betas"]
    yield (
        project.tags_folder(split),
        lambda folder: metrics_stage.evaluate_tags(samples, folder, vocabulary),
    )
    yield (
        project.cams_folder(split),
        lambda folder: metrics_stage.evaluate_cams(samples, folder, vocabulary, betas),
    )
    yield (
        project.masks_folder(split),
        lambda folder: metrics_stage.evaluate_masks(samples, folder, vocabulary),
    )
    trained = project.find_trained()
    if trained is None:
        return
    initial_weights = trained.manifest().get("initial_weights")
    variants = {}
    if project.has_ceiling and project.find_trained(ceiling=True) is not None:
        variants["ceiling"] = project.predictions_folder(split, ceiling=True)
    yield (
        project.predictions_folder(split),
        lambda folder: metrics_stage.evaluate_predictions(
            samples, folder, vocabulary, variants, project.testing.steps[:-1], initial_weights
        ),
    )
