"""The ordered stages, what each needs, and how they are run.

image → tags → cams → masks → train → predict → evaluate → report
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial

from pipeline.cams import from_files
from pipeline.cams import stage as cams_stage
from pipeline.engine.outcome import Outcome, check_failures, outcome_of
from pipeline.errors import UserError, did_you_mean
from pipeline.evaluation.stage import run_evaluate
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.text import given_path
from pipeline.masks import stage as masks_stage
from pipeline.project import Project
from pipeline.report import stage as report_stage
from pipeline.report.material import gather
from pipeline.rounds import NextRound, rounds_of
from pipeline.segmenter import stage as segmenter_stage
from pipeline.segmenter.distributed import process_count, process_rank
from pipeline.tags import stage as tags_stage


def run_tags(project: Project, maps: Counter[str] | None = None) -> Iterator[Outcome]:
    """Tags the images of every split.

    Args:
        project: what is worked on.
        maps: where the stage ``cams`` follows, so that the maps of images that have to be tagged
            are computed from the same pass of the backbone: split → how many were.
    """
    tags, classes = project.config["tags"], project.vocabulary.classes
    for split in project.splits:
        samples = project.samples(split)
        rejected = dict(project.dataset.rejected.get(split, []))
        known = project.known_ids(split)
        shares = maps is not None and tags["method"] == "tagclip" and not tags["squeeze"]
        shares &= not from_files.is_chosen(project.config)
        with ExitStack() as locks:
            folder = locks.enter_context(project.tags_folder(split))
            for image_id, reason in rejected.items():
                folder.fail(image_id, reason)
            if tags["method"] == "ground_truth":
                computed = tags_stage.run_ground_truth(samples, folder, classes, known)
            elif tags["method"] == "file":
                path = given_path(tags["path"], "tags.path")
                computed = tags_stage.run_file(samples, folder, classes, path, known)
            else:
                folders = [folder]
                if shares:
                    folders.append(locks.enter_context(project.cams_folder(split)))
                computed = project.do(
                    "tagging",
                    samples,
                    folders,
                    input_key=tags_stage.input_key,
                    is_done=tags_stage.has_scores(folder, project.method.variants),
                )
                tags_stage.finish_tags(samples, folder, classes, known)
                if shares:
                    maps[split] = folders[1].computed
        yield outcome_of(folder, samples, computed, rejected)


def run_cams(project: Project, maps: Mapping[str, int] | None = None) -> Iterator[Outcome]:
    """Computes a map for every tag of the images of every split.

    Args:
        project: what is worked on.
        maps: split → how many were computed just now, as their images were tagged.
    """
    if from_files.is_chosen(project.config):
        yield from _import_cams(project)
        return
    for split in project.splits:
        tags_of = partial(tags_stage.read_tags, project.tags_folder(split))
        samples = project.available(split, "tags")
        with project.cams_folder(split) as folder:
            folder.computed = before = (maps or {}).get(split, 0)
            computed = before + project.do(
                "mapping",
                samples,
                [folder],
                input_key=lambda s: cams_stage.input_key(s, tags_of(s)),  # noqa: B023
                given=tags_of,
            )
            folder.finish([s.id for s in samples], known=project.known_ids(split))
        yield outcome_of(folder, samples, computed)


def _import_cams(project: Project) -> Iterator[Outcome]:
    """Takes the maps of the images of every split from files; no stage has to go before it.

    Raises:
        UserError: there is no such folder.
    """
    maps = from_files.given_folder(project.config["cams"])
    for split in project.splits:
        samples = project.samples(split)
        rejected = dict(project.dataset.rejected.get(split, []))
        with project.cams_folder(split) as folder:
            for image_id, reason in rejected.items():
                folder.fail(image_id, reason)
            key = partial(from_files.input_key, maps=maps)
            computed = project.do("importing", samples, [folder], maps, input_key=key)
            folder.finish([s.id for s in samples], known=project.known_ids(split))
        yield outcome_of(folder, samples, computed, rejected)


def run_masks(project: Project) -> Iterator[Outcome]:
    """Turns the maps of every split into masks."""
    for split in project.splits:
        cams = project.cams_folder(split)
        samples = project.available(split, "cams")
        with project.masks_folder(split) as folder:
            computed = project.do(
                "masking",
                samples,
                [folder],
                cams.path,
                input_key=partial(masks_stage.input_key, cams=cams),
            )
            folder.finish([s.id for s in samples], known=project.known_ids(split))
        yield outcome_of(folder, samples, computed)


def run_relabel(project: NextRound) -> Iterator[Outcome]:
    """Makes the tags and masks of a later round from what the segmenter before sees."""
    keeps_tags = project.method.self_training.keep_tags
    trained = project.trained_before()
    for split in project.splits:
        samples = project.samples(split)
        first_tags = partial(tags_stage.read_tags, project.first.tags_folder(split))
        with project.tags_folder(split) as tags, project.masks_folder(split) as masks:
            computed = project.do(
                "relabelling",
                samples,
                [masks, tags],
                trained,
                input_key=lambda sample: fingerprint_file(sample.image),
                given=first_tags if keeps_tags else lambda sample: None,
                is_done=lambda sample, key: (
                    tags.is_done(sample.id, key) and masks.is_done(sample.id, key)  # noqa: B023
                ),
            )
            for image_id, reason in masks.failures.items():
                tags.fail(image_id, reason)
            tags_stage.finish_tags(
                samples, tags, project.vocabulary.classes, project.known_ids(split)
            )
            masks.finish([s.id for s in samples], known=project.known_ids(split))
        yield outcome_of(masks, samples, computed)


def run_train(project: Project) -> Iterator[Outcome]:
    """Trains a segmenter on the masks and, where it is asked for, one on the ground truth."""
    for ceiling in _networks(project):
        samples, pairs = project.training_data(ceiling)
        folder = project.segmenter_folder(ceiling)
        # Of several processes that torchrun started, the first alone writes.
        with folder if process_rank() == 0 else nullcontext():
            computed = segmenter_stage.run_train(
                pairs,
                folder,
                project.vocabulary,
                settings={
                    **project.config["segmenter"],
                    # The ground truth is sure of every pixel.
                    **({"pixel_weights": None} if ceiling else {}),
                    "apply_exif": project.reader.apply_exif,
                    "longest_side": project.reader.longest_side,
                },
                seed=project.config["seed"],
                device=project.device,
                validation=project.validation_samples,
            )
        split = f"{project.dataset.train_split}{' (ground truth)' * ceiling}"
        yield Outcome("train", split, len(samples), computed, 0, folder.path)


def run_predict(project: Project) -> Iterator[Outcome]:
    """Segments the images of every split; the ceiling those that it was not trained on."""
    for ceiling in _networks(project):
        trained = project.segmenter_folder(ceiling)
        if not segmenter_stage.is_trained(trained):
            raise UserError("no segmenter was trained on these masks: run stage=train first")
        for split in project.splits:
            if ceiling and split == project.dataset.train_split:
                continue
            samples = project.samples(split)
            with project.predictions_folder(split, ceiling) as folder:
                computed = project.do(
                    "predicting",
                    samples,
                    [folder],
                    trained.path,
                    input_key=segmenter_stage.input_key,
                )
                folder.finish([s.id for s in samples], known=project.known_ids(split))
            yield outcome_of(folder, samples, computed)


def run_report(project: Project) -> Iterator[Outcome]:
    """Writes the tables, a picture of some images, and the page with all that was computed."""
    for path in report_stage.run(gather(project)):
        yield Outcome("report", "", 0, 0, 0, path)


STAGES: dict[str, Callable[[Project], Iterator[Outcome]]] = {
    "tags": run_tags,
    "cams": run_cams,
    "masks": run_masks,
    "train": run_train,
    "predict": run_predict,
    "evaluate": run_evaluate,
    "report": run_report,
}
"""The stages in their order."""


def parse_stages(requested: str | Iterable[str]) -> list[str]:
    """Returns the requested stages in their order; "all" stands for every one.

    Raises:
        UserError: a name that is no stage.
    """
    names = [requested] if isinstance(requested, str) else list(requested)
    known = (*STAGES, "all")
    for name in names:
        if name == "status":
            raise UserError("stage=status stands alone: leave the other stages out")
        if name not in known:
            hint = did_you_mean(name, (*known, "status"))
            raise UserError(f"there is no stage {name}: {hint}choose from {', '.join(known)}")
    return [stage for stage in STAGES if stage in names or "all" in names]


def run(project: Project, stages: Iterable[str]) -> Iterator[Outcome]:
    """Runs stages one after the other and tells what each did for each split.

    Raises:
        UserError: a missing input, or a stage in which too many images were left out; that one
            has done all the others.
    """
    stages = list(stages)
    if process_count() > 1 and stages != ["train"]:
        raise UserError("torchrun is for stage=train alone: run the other stages without it")
    if process_rank() == 0:
        project.store.begin()
    try:
        yield from _run(project, stages)
    except BaseException:
        project.workforce.close(at_once=True)
        raise
    project.workforce.close()
    if process_rank() == 0:
        project.store.sweep_up()


def _run(project: Project, stages: list[str]) -> Iterator[Outcome]:
    work = dict(STAGES)
    if {"tags", "cams"} <= set(stages):
        maps: Counter[str] = Counter()
        work |= {"tags": partial(run_tags, maps=maps), "cams": partial(run_cams, maps=maps)}
    *earlier, last = rounds_of(project)
    for one in (*earlier, last):
        work_of_round = work | (_OF_LATER_ROUNDS if one.round > 1 else {})
        for stage in stages:
            if stage in _ONCE and one is not last:
                continue
            outcomes = []
            for outcome in work_of_round[stage](one):
                outcomes.append(outcome)
                yield outcome
            for outcome in outcomes:
                check_failures(outcome, project.config["runtime"]["max_failures"])


def _nothing(project: Project) -> Iterator[Outcome]:
    """Does nothing: the maps of the first round stay, and masks come with the tags."""
    yield from ()


_OF_LATER_ROUNDS = {"tags": _nothing, "cams": _nothing, "masks": run_relabel}
"""What stages do after the first round, where that is something else."""

_ONCE = ("report",)
"""Stages that look back at all rounds."""


def _networks(project: Project) -> list[bool]:
    """Returns for which networks there is work: the one on masks, and perhaps the ceiling."""
    return [False, True] if project.has_ceiling else [False]
