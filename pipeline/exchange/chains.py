"""Chains: the results of all splits that belong together, as their manifests say.

A and B of a comparison are chains. Where ``latest`` points to results of several, such as new tags
beside masks of the tags before, the newest results decide, and what contradicts them is left out.
"""

from collections.abc import Iterable
from pathlib import Path

from pipeline.engine.kinds import NETWORK, measured_kinds
from pipeline.engine.records import LATEST, MANIFEST, read_manifest
from pipeline.engine.results import Results
from pipeline.engine.store import refuse_other_format
from pipeline.errors import UserError

Place = tuple[str, str]
"""A split, and the name of a stage."""

_REMEDY = "give an output directory, or a stage's folder such as outputs/demo/val/masks/latest"


class Chain:
    """Results that belong together, by split and stage; of several rounds of training, the last."""

    def __init__(self, results: Iterable[Results] = ()):
        """Adds results one after the other."""
        self.results: dict[Place, Results] = {}
        self._members: set[Path] = set()
        for result in results:
            self.add(result)

    def add(self, result: Results) -> None:
        """Adds a result and what it was made from, unless one of these contradicts what is here."""
        chain = result.chain
        new = [each for each in chain if each.path not in self._members]
        before = {each.path for each in chain}
        known = (self.results.get(_place(each)) for each in new)
        if any(each is not None and each.path not in before for each in known):
            return
        others = (each for each in self.results.values() if each.split and each.path not in before)
        if new and not all(_are_of_one_run(result, other) for other in others):
            return
        for each in reversed(new):
            known = self.results.get(_place(each))
            if known is None or known.path in {earlier.path for earlier in each.chain}:
                self.results[_place(each)] = each
        self._members |= before

    def is_preceded_by(self, result: Results) -> bool:
        """Tells whether a result is of an earlier chain, not of an earlier round of this one."""
        ours, before = self.results.get(_place(result)), result.chain[:-1]
        if ours is None or result.path in self._members:
            return False
        is_of_ours = all(each.path in self._members for each in before)
        # The networks that each was made from, one after the other.
        rounds = [sum(r.name == NETWORK.stage for r in each.chain) for each in (result, ours)]
        return not is_of_ours or rounds[0] == rounds[1]


def _place(result: Results) -> Place:
    return result.path.parents[1].name, result.name


def _are_of_one_run(result: Results, other: Results) -> bool:
    """Tells whether a run made or confirmed both, or would on a split where it did not work.

    Those of one split belong together unless one names others of the other's stage.
    """
    found = []
    for a, b in ((result, other), (other, result)):
        runs = a.manifest.get("counterparts", ())
        names = {name for run in runs for name in run.get(b.split, ())}
        if any(name.startswith(f"{b.name}/") for name in names):
            found.append(f"{b.name}/{b.key}" in names)
    return any(found) if found else result.split == other.split


def _finished(root: Path) -> list[Results]:
    """Returns all finished results of an output directory, the newest first."""
    stages = [*measured_kinds()]
    paths = (p.parent for p in root.glob(f"*/*/*/{MANIFEST}") if p.parent.name != LATEST)
    known: dict[Path, Results] = {}
    results = [Results(path, known=known) for path in paths if path.parent.name in stages]
    done = (result for result in results if result.manifest.get("complete"))
    order = {stage: place for place, stage in enumerate(stages)}
    return sorted(done, key=lambda r: (r.manifest.get("finished", ""), order[r.name]), reverse=True)


def find_chain(path: Path) -> Chain:
    """Returns the latest chain of a directory, or a stage's results; a UserError without any."""
    refuse_other_format(path)
    path = path.resolve()
    chain = Chain()
    if manifest := read_manifest(path):
        if manifest.get("complete"):
            result = Results(path)
            chain.results[_place(result)] = result
    else:
        latest = [r for r in _finished(path) if (r.path.parent / LATEST).resolve() == r.path]
        chain = Chain(latest)
    if not chain.results:
        raise UserError(
            f"{path} contains no finished results: run a stage to its end, or {_REMEDY}"
        )
    return chain


def find_before(root: Path, latest: Chain) -> Chain:
    """Returns the chain of an output directory that was the latest before.

    Raises a UserError if there is none with a stage and split of the latest.
    """
    every = _finished(root.resolve())
    if (newest := next(filter(latest.is_preceded_by, every), None)) is None:
        raise UserError(
            f"{root} contains no results older than the latest: give an output directory with two"
            " finished runs, or two runs"
        )
    # Of the latest chain, it shares what was there by then.
    then = newest.manifest.get("run", "")
    return Chain([newest, *(r for r in every if r.manifest.get("first_run", "") <= then)])


def pair_up(first: Path, second: Path | None = None) -> list[tuple[Results, Results]]:
    """Returns the results that two chains have of the same split and stage, as far as they differ.

    Without a second one, they are the latest chain of the first and the one before it. Raises a
    UserError if there are none, or if results were made from something else than there is now.
    """
    b = find_chain(first if second is None else second)
    a = find_before(first, b) if second is None else find_chain(first)
    stages = [*measured_kinds()]
    if not (shared := [p for p in a.results if p in b.results and p[1] in stages]):
        raise UserError(f"{first} and {second} share no stage of one split: {_REMEDY}")
    pairs = [(a.results[place], b.results[place]) for place in shared]
    if not (others := [(x, y) for x, y in pairs if x.path != y.path]):
        (split, stage), path = shared[0], pairs[0][0].path
        raise UserError(f"both runs hold the same {stage} of split {split}, {path}: give another")
    for result in (result for pair in others for result in pair):
        if change := result.describe_change(filter(result.is_intact, result.entries)):
            raise UserError(f"{result.path}: {change}")
    return sorted(others, key=lambda pair: stages.index(pair[0].name))
