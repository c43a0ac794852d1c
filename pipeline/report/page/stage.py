"""The stage ``report``: tables of the metrics, and pages and pictures of the results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import filterfalse

from pipeline.configuration.registry import label_of
from pipeline.datasets.corrections import BySplit
from pipeline.engine.kinds import MASKS, NETWORK, PREDICTIONS, TAGS, measured_kinds
from pipeline.engine.results import Results, describe_ways
from pipeline.engine.run import Outcome
from pipeline.engine.sample import ImageReader
from pipeline.engine.stage import PerImage, Stage
from pipeline.evaluation.about import choices_behind
from pipeline.evaluation.record import MetricsFile
from pipeline.evaluation.stage import Evaluation
from pipeline.masks.settings import PseudoMaskOptions
from pipeline.report.page.images import ReportInputs
from pipeline.report.page.settings import ReportSettings
from pipeline.report.tables.runs import METRICS

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

    ``last`` is the evaluation of the last round; the arguments after it are those of
    :class:`~pipeline.report.page.images.ReportInputs`.
    """
    # Matplotlib takes most of a second to import, which runs without a report are spared.
    from pipeline.report.page.page import write_report

    damage = MetricsFile(last.store.root / METRICS).damage
    note = f"{damage}, which is skipped: run stage=evaluate" if damage else ""
    inputs = _gather(stages, last, settings, read)
    for path in write_report(
        replace(inputs, corrections=corrections, command=command, workers=workers)
    ):
        yield Outcome("report", "", 0, 0, {}, path, note=note)
        note = ""


def _gather(
    stages: Sequence[Stage], last: Evaluation, settings: ReportSettings, read: ImageReader
) -> ReportInputs:
    """Returns what the report is made from, of ``report.split`` or the last split with results."""
    found = {}
    for stage in stages:
        results = last.results_of(stage)
        # A network has no results before it was trained, though it may have a folder.
        if results is not None and (stage.kind is not NETWORK or results.manifest):
            found[stage] = results
    per_image = [stage for stage in stages if isinstance(stage, PerImage)]
    splits = list(dict.fromkeys(stage.split for stage in per_image))
    done = {stage.split for stage, results in found.items() if results.entries}
    split = settings.split or next((s for s in reversed(splits) if s in done), splits[-1])
    # Of each kind of result the last round's.
    measured = [stage for stage in per_image if stage.split == split]
    newest = {stage.kind: stage for stage in sorted(measured, key=lambda s: s.round)}
    masks = newest.get(MASKS)
    argmax_title, mask_title = _mask_titles(masks)
    missing = Results(last.store.root / "nothing")
    every = replace(last, stages=stages)
    return ReportInputs(
        last.store.root,
        split,
        last.images.of(split),
        last.vocabulary,
        read,
        remarks=_remarks(found, every, splits),
        results={k.stage: found.get(newest.get(k), missing) for k in measured_kinds().values()},
        stages=list({results.path: results for results in found.values()}.values()),
        threshold=newest[TAGS].threshold,
        certain=newest[TAGS].certain,
        beta=getattr(masks and masks.options, "beta", 1.0),
        argmax_title=argmax_title,
        mask_title=mask_title,
        about=choices_behind(newest[PREDICTIONS], last.config),
        settings=settings,
        now=every.now(),
        splits=[*last.images.dataset.splits],
    )


def _mask_titles(masks: PerImage | None) -> tuple[str | None, str]:
    """Returns how the argmax of the CAMs, if it is shown, and the masks of a split were made."""
    if masks is None:
        return None, ""
    if masks.round > 1:
        return "argmax of the first round's CAMs", "mask, seen by the segmenter before"
    if masks.is_ground_truth:
        return None, "mask, the ground truth"
    if not masks.from_cams:
        return None, f"mask, {'straight from the image' if masks.takes_any_image else 'as given'}"
    if isinstance(masks.options, PseudoMaskOptions) and masks.options.crf is None:
        return None, "mask, argmax of the CAMs"
    name = masks.options.method.name
    refiner = "the CRF" if name == "crf" else label_of(MASKS.group, name)
    return f"mask before {refiner}, argmax of the CAMs", f"mask after {refiner}"


def _remarks(found: Mapping[Stage, Results], every: Evaluation, splits: Sequence[str]) -> list[str]:
    """Returns what stages remark on, of all splits; hides images whose results are not current."""
    ids = {split: [sample.id for sample in every.images.of(split)] for split in splits}
    remarks = [
        stage.remark(results, ids[stage.split] if isinstance(stage, PerImage) else ())
        for stage, results in found.items()
    ]
    remarks += map(describe_ways, found.values())
    for current in every.results:
        known = [image_id for image_id in ids[current.split] if image_id in current.entries]
        remarks.append(current.describe_change(known))
        hidden, shown = {*filterfalse(current.is_current, known)}, found[current.stage]
        shown.entries = {i: entry for i, entry in shown.entries.items() if i not in hidden}
    return [*dict.fromkeys(filter(None, remarks))]
