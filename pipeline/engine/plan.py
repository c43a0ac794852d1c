"""The plan of a run: what it would compute, without computing or writing anything."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.engine.learned import Learned
from pipeline.engine.sample import Images
from pipeline.engine.scan import Compute, LeftOut, Reuse, Scan, Wait, scan
from pipeline.engine.stage import PerImage, Stage
from pipeline.engine.store import Store
from pipeline.errors import shown


@dataclass(frozen=True)
class PlannedStage:
    """The plan of a stage for a split."""

    stage: str  # its name
    split: str  # the split, or "" for a stage that has none
    images: int | None = None  # how many images it covers; none for evaluation and report
    cached: int | None = None  # how many exist or can be reused; none while the key is not known
    to_compute: int | None = None  # how many would be computed; none for evaluation and report
    after: str = ""  # the stage that has to run before it is certain which; "" if it is now
    is_upper_bound: bool = False  # whether ``to_compute`` is one
    rides_with: str = ""  # the stage whose pass gives the results at no further cost, or ""
    key: str = ""  # the name of the folder; "" where it is not known yet
    note: str = ""  # a sentence without its full stop on what the stage would find, or ""


def plan(
    stages: Iterable[Stage], images: Images, store: Store, scans: dict[Stage, Scan]
) -> Iterator[PlannedStage]:
    """Yields what each stage would do, in the order of the run.

    The ``scans`` of these stages are added to those of stages that run before them. Raises the
    UserError that would stop the run, such as one for a missing input, after the stages before it.
    """
    carriers: dict[Stage, str] = {}
    for stage in stages:
        found = scan(stage, images, store, scans)
        if isinstance(stage, PerImage) and (states := found.of(Compute)):
            items = [state.item for state in states.values()]
            wrong = {i: LeftOut(reason) for i, reason in stage.unusable(items).items()}
            found = replace(found, states={**found.states, **wrong})
        scans[stage] = found
        for state in found.of(Reuse).values():  # the stages after it find what a run would link
            found.results.entries[state.entry["id"]] = dict(state.entry)
        carrier, results, pending = carriers.get(stage, ""), found.results, len(found.pending)
        yield PlannedStage(
            stage=stage.name,
            split=in_round(stage.where, stage.round),
            images=len(found.samples),
            cached=len(found.usable) - pending if results else None,
            to_compute=pending,
            after=found.after,
            is_upper_bound=results is None or any(i in results.entries for i in found.of(Wait)),
            rides_with=carrier if found.of(Wait) and not found.of(Compute) else "",
            key=results.key if results else "",
            note=stage.outlook() if isinstance(stage, Learned) else _left_out(found),
        )
        if isinstance(stage, PerImage) and stage.rider is not None:
            carriers[stage.rider] = stage.name


def _left_out(found: Scan) -> str:
    if not (left_out := found.of(LeftOut)):
        return ""
    image_id, state = next(iter(left_out.items()))
    which = f"{len(left_out)} of {len(found.ids)} images, the first {shown(image_id)}"
    return f"{found.stage.name} will leave out {which}: {state.reason}"


def in_round(where: str, number: int) -> str:
    """Returns a split with the round of training that its results belong to, from the second on."""
    return ", ".join(filter(None, (where, f"round {number}" if number > 1 else "")))
