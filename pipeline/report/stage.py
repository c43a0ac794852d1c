"""The stage ``report``: tables of the metrics, and pages and pictures of the results."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import filterfalse
from pathlib import Path

from pipeline.datasets.corrections import BySplit
from pipeline.engine.folder import StageFolder
from pipeline.engine.kinds import MASKS, NETWORK, PREDICTIONS, TAGS, measured_kinds
from pipeline.engine.registry import label_of
from pipeline.engine.result_folder import describe_machines
from pipeline.engine.run import Outcome
from pipeline.engine.sample import ImageReader
from pipeline.engine.stage import PerImage, Stage
from pipeline.evaluation.about import choices_behind
from pipeline.evaluation.record import MetricsFile
from pipeline.evaluation.stage import Evaluation
from pipeline.masks.settings import PseudoMaskOptions
from pipeline.report.measured import ReportInputs
from pipeline.report.runs import METRICS
from pipeline.report.settings import ReportSettings

FILES = ("examples.png", "tables.md", "report.html")
"""Its files in the output directory."""


def write(
    stages: Sequence[Stage],
    last: Evaluation,
    settings: ReportSettings,
    *,
    read: ImageReader,
    corrections: BySplit,
    command: str,
    workers: int,
) -> Iterator[Outcome]:
    """Writes :data:`FILES` of the stages of all rounds; yields them, the page last.

    ``last`` is the evaluation of the last round; for the rest see
    :class:`~pipeline.report.measured.ReportInputs`.
    """
    # Matplotlib takes most of a second to import, which runs without a report are spared.
    from pipeline.report.page import write_report

    damage = MetricsFile(last.store.root / METRICS).damage
    note = f"{damage}, which is skipped: run stage=evaluate" if damage else ""
    inputs = _gather(stages, last, settings, read)
    given = replace(inputs, corrections=corrections, command=command, workers=workers)
    for path in write_report(given):
        yield Outcome("report", "", 0, 0, {}, path, note=note)
        note = ""


def _gather(
    stages: Sequence[Stage], last: Evaluation, settings: ReportSettings, read: ImageReader
) -> ReportInputs:
    """Returns what the report is made from, of ``report.split`` or the last split with results."""
    # Find the folders. The key of one that is missing may not be known yet.
    folders: dict[Stage, StageFolder] = {}
    for stage in stages:
        folder = last.folder(stage)
        if folder is not None and (stage.kind is not NETWORK or folder.manifest()):
            folders[stage] = folder

    # Choose the split, and of each kind of result the last round's.
    per_image = [stage for stage in stages if isinstance(stage, PerImage)]
    splits = list(dict.fromkeys(stage.split for stage in per_image))
    done = {stage.split for stage, folder in folders.items() if folder.entries}
    split = settings.split or next((s for s in reversed(splits) if s in done), splits[-1])
    measured = [stage for stage in per_image if stage.split == split]
    newest = {stage.kind: stage for stage in sorted(measured, key=lambda s: s.round)}
    empty = StageFolder(Path(), "", "", {})
    shown = {k.stage: folders.get(newest.get(k), empty) for k in measured_kinds().values()}

    # Name the masks by how they were made.
    masks = newest.get(MASKS)
    if masks is None:  # of this split
        titles = None, ""
    elif masks.round > 1:
        titles = "argmax of the first round's CAMs", "mask, seen by the segmenter before"
    elif masks.is_ground_truth:
        titles = None, "mask, the ground truth"
    elif not masks.from_cams:
        titles = None, f"mask, {'straight from the image' if masks.takes_any_image else 'as given'}"
    elif isinstance(masks.options, PseudoMaskOptions) and masks.options.crf is None:
        titles = None, "mask, argmax of the CAMs"
    else:
        name = masks.options.method.name
        refiner = "the CRF" if name == "crf" else label_of(MASKS.group, name)
        titles = f"mask before {refiner}, argmax of the CAMs", f"mask after {refiner}"

    # Collect what stages remark on, of all splits, and the results of another photograph, which
    # are not shown.
    ids = {s: [sample.id for sample in last.images.of(s)] for s in splits}
    remarks = [
        stage.remark(folder, ids[stage.split] if isinstance(stage, PerImage) else ())
        for stage, folder in folders.items()
    ]
    remarks += [describe_machines(folder.manifest()) for folder in folders.values()]
    every = replace(last, stages=stages)
    for result in every.results:
        known = [image_id for image_id in ids[result.split] if image_id in result.entries]
        remarks.append(result.describe_change(known))
        for image_id in filterfalse(result.is_current, known):
            folders[result.stage].entries.pop(image_id, None)  # here, and not on the disk

    return ReportInputs(
        last.store.root,
        split,
        last.images.of(split),
        last.vocabulary,
        read,
        folders=shown,
        stages=list({folder.path: folder for folder in folders.values()}.values()),
        threshold=newest[TAGS].threshold,
        certain=newest[TAGS].certain,
        beta=getattr(masks and masks.options, "beta", 1.0),
        argmax_title=titles[0],
        mask_title=titles[1],
        about=choices_behind(newest[PREDICTIONS], last.config),
        settings=settings,
        remarks=[*dict.fromkeys(filter(None, remarks))],
        now=every.now(),
        splits=[*last.images.dataset.splits],
    )
