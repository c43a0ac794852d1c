"""The stage ``evaluate``: which artefacts of a project there are, and what measures each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from pipeline.datasets.sample import Sample
from pipeline.engine.outcome import Outcome
from pipeline.engine.store import FAILURES, StageFolder
from pipeline.errors import UserError
from pipeline.evaluation import measures as metrics_stage
from pipeline.evaluation.record import MetricsFile, update_metrics
from pipeline.files.atomic import to_json_lines, write_atomically
from pipeline.keys import describe
from pipeline.project import Project


def run_evaluate(project: Project) -> Iterator[Outcome]:
    """Measures what was computed against the ground truth, where there is any.

    Images whose ground truth cannot be used are left out of the figures, which say how many, and
    are named in ``failures.jsonl`` beside ``metrics.json``.

    Raises:
        UserError: there is nothing to measure, or no ground truth to measure it with can be used.
    """
    root = project.store.root
    path = root / "metrics.json"
    changes: list[Callable[[MetricsFile], None]] = []
    nothing = True
    failures: dict[tuple[str, str], str] = {}
    unmeasured = []
    for split in project.splits:
        samples = project.samples(split)
        ids = [s.id for s in samples]
        for folder, measure in _measures(project, split, samples):
            if not folder.entries:
                continue
            nothing = False
            _refuse_damaged(folder, ids)
            unusable: dict[str, str] = {}
            figures = measure(folder, unusable)
            failures |= {(split, image_id): reason for image_id, reason in unusable.items()}
            if figures is None:
                changes.append(partial(MetricsFile.drop_latest, folder=folder))
                if unusable:
                    unmeasured.append(f"{folder.stage} of split {split}")
                continue
            about = describe(project.config, folder.stage)
            if project.round > 1:
                about["round"] = str(project.round)
            measured = (folder, folder.input_key(ids), figures, about)
            changes.append(lambda file, measured=measured: file.put(*measured))
            # Beside the results lies what says why images were left out.
            place = root if unusable else path
            images = figures["images"] + len(unusable)
            what = f"{split} {folder.stage}"
            yield Outcome("evaluate", what, images, 0, len(unusable), place)
    if nothing:
        raise UserError("there is nothing to evaluate: run stage=tags first")
    update_metrics(path, changes)
    _write_failures(root / FAILURES, failures)
    if unmeasured:
        raise UserError(
            f"none of the ground truth for {', '.join(unmeasured)} can be used: mend it as"
            f" {root / FAILURES} says"
        )


def _refuse_damaged(folder: StageFolder, image_ids: list[str]) -> None:
    """Makes sure that what is measured is what was computed.

    Raises:
        UserError: a file is missing or is not as it was written.
    """
    damaged = [i for i in image_ids if i in folder.entries and not folder.is_whole(i)]
    if damaged:
        stage = "predict" if folder.stage == "predictions" else folder.stage
        raise UserError(
            f"{folder.stage} for split {folder.split} hold {len(damaged)} damaged files: run"
            f" stage={stage} again"
        )


def _write_failures(path: Path, failures: Mapping[tuple[str, str], str]) -> None:
    """Writes (split, id) → reason as JSON lines; of the last evaluation alone."""
    if failures:
        lines = [{"split": s, "id": i, "reason": r} for (s, i), r in sorted(failures.items())]
        write_atomically(path, to_json_lines(lines))
    else:
        path.unlink(missing_ok=True)


def _measures(
    project: Project, split: str, samples: list[Sample]
) -> Iterator[tuple[StageFolder, Callable[[StageFolder, dict[str, str]], dict | None]]]:
    """Yields the folders of a split and what measures each and adds to what cannot be used."""
    vocabulary, betas = project.vocabulary, project.config["cams"]["background_betas"]
    yield (
        project.tags_folder(split),
        lambda folder, unusable: metrics_stage.evaluate_tags(samples, folder, vocabulary, unusable),
    )
    yield (
        project.cams_folder(split),
        lambda folder, unusable: metrics_stage.evaluate_cams(
            samples, folder, vocabulary, betas, unusable
        ),
    )
    yield (
        project.masks_folder(split),
        lambda folder, unusable: metrics_stage.evaluate_masks(
            samples, folder, vocabulary, unusable
        ),
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
        lambda folder, unusable: metrics_stage.evaluate_predictions(
            samples,
            folder,
            vocabulary,
            variants,
            project.testing.steps[:-1],
            initial_weights,
            unusable,
        ),
    )
