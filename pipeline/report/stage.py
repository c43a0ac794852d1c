"""The stage ``report``: tables of what was measured, and pages and pictures of all the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.folder import StageFolder
from pipeline.engine.kinds import MASKS, NETWORK, PREDICTIONS, TAGS, Kind, measured_kinds
from pipeline.engine.review import Outcome, Review
from pipeline.engine.sample import ImageReader
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store
from pipeline.evaluation.about import describe
from pipeline.evaluation.record import MetricsFile
from pipeline.evaluation.stage import Evaluation
from pipeline.report.measured import Material, ReportSettings
from pipeline.report.runs import METRICS


@dataclass(frozen=True)
class Report(Review):
    """Writes ``examples.png``, ``tables.md`` and ``report.html`` of all rounds."""

    command = "report"
    files = ("examples.png", "tables.md", "report.html")
    stages: Sequence[Stage]  # of all rounds
    reviewed: Evaluation  # of the last round
    settings: ReportSettings
    read: ImageReader
    workers: int  # threads that read files
    round: int = 1  # the last one

    def review(self, store: Store) -> Iterator[Outcome]:
        """Writes the files; yields them, the page last."""
        # Matplotlib takes most of a second to import, which runs without a report are spared.
        from pipeline.report.writing import write_report

        damage = MetricsFile(store.root / METRICS).damage
        note = f"{damage}, which is skipped: run stage=evaluate" if damage else ""
        for path in write_report(self._gather()):
            yield Outcome("report", "", 0, 0, {}, path, note=note)
            note = ""

    def _gather(self) -> Material:
        """Returns what the report is made from: the last split of which anything was computed."""
        reviewed, folders = self.reviewed, {}
        applied = [stage for stage in self.stages if stage.applies()]
        stages = [each for stage in applied for each in (*stage.parts, stage)]
        for stage in stages:
            folder = reviewed.folder(stage)
            if folder is not None and (stage.kind is not NETWORK or folder.manifest()):
                folders[stage] = folder
        splits = list(dict.fromkeys(stage.split for stage in stages if stage.split))
        done = {stage.split for stage, folder in folders.items() if folder.entries}
        split = next((split for split in reversed(splits) if split in done), splits[-1])
        own = [stage for stage in stages if stage.split == split and not stage.accompanies]
        newest: dict[Kind, Stage] = {}
        for stage in sorted(own, key=lambda stage: stage.round, reverse=True):
            newest.setdefault(stage.kind, stage)
        # The key of a folder may not be known yet.
        empty = StageFolder(Path(), "", "", {})
        shown = {
            name: folders.get(newest[kind], empty)
            for name, kind in measured_kinds().items()
            if kind in newest
        }
        masks, titles = newest[MASKS], {}
        if masks.round > 1:
            titles["argmax_title"] = "argmax of the first round's CAMs"
            titles["mask_title"] = "mask, seen by the segmenter before"
        elif not masks.from_cams:
            titles = {"argmax_title": None, "mask_title": "mask, straight from the image"}
        elif not getattr(masks.options, "crf", True):
            titles = {"argmax_title": None, "mask_title": "mask, argmax of the CAMs"}
        elif (name := masks.method.name) != "crf":
            titles["argmax_title"] = f"mask before {name}, argmax of the CAMs"
            titles["mask_title"] = f"mask after {name}"
        return Material(
            reviewed.store.root,
            split,
            reviewed.images.of(split),
            reviewed.vocabulary,
            self.read,
            shown,
            stages=list({folder.path: folder for folder in folders.values()}.values()),
            threshold=newest[TAGS].threshold,
            beta=getattr(masks.options, "beta", 1.0),
            about=describe(newest[PREDICTIONS], reviewed.config),
            workers=self.workers,
            settings=self.settings,
            **titles,
        )
