"""A second backbone beside CLIP: it tells which patches belong together, and CLIP names them.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clip.compute.fused import choose_attention
from pipeline.clip.device import AUTO, choose_precision
from pipeline.clip.image_text import Release, register_release, releases
from pipeline.clip.origins.origin import OfRelease, fingerprint_files, refuse_changed
from pipeline.engine.progress import say
from pipeline.errors import UserError, check_choice, shown

if TYPE_CHECKING:
    from pipeline.clip.compute.kept import KeptFeatures

SECONDS: dict[str, Release] = {}
"""Second backbones by the value of ``model``."""

_SHIPPED: dict[str, str] = {}
_OF_FILES: dict[str, Release] = {}  # kind → any backbone of it that a file holds


def register_second(
    module: str, name: str = "", url: str = "", shipped: Path | None = None, **traits: object
) -> None:
    """Makes a model a value of ``second.model``; a UserError if its name is taken.

    Its file is downloaded unless it is ``shipped`` with the package. One without a name stands for
    any model of its kind that a file holds. What ``build`` and ``read_about`` name is in the
    package ``module``, in ``model.py``. The traits are further attributes of the Release, such as
    another ``build``, and the ``kind``, which is the module's own by default.
    """
    traits = {"build": f"{module}.model:build", "kind": module, **traits}
    traits |= {"name": name, "module": module}
    about = "" if name else f"{module}.model:read_about"
    release = Release(**traits, about=about, files={"weights": (url,)})
    if not name:
        _OF_FILES[release.kind] = release
        return
    register_release(release, SECONDS)
    if shipped is not None:
        _SHIPPED[name] = str(shipped)


@dataclass(frozen=True)
class FrozenSecond:
    """A second backbone whose weights never change; can be pickled, and loads nothing until used.

    Attributes:
        settings: those that name the model, and the checkpoint.
        usual: the model that the method usually takes; others are of its kind.
        model: as in :class:`~pipeline.clip.settings.SecondSettings`, like the next.
        checkpoint: a file of weights; none for a download.
        device: torch's name of the device.
        precision: as that of CLIP.
        attention: as that of CLIP.
        kept: what was found in images, for further calls; none keeps nothing.

    Raises:
        UserError: the model does not exist, or none is named.
    """

    settings: tuple[str, str] = field(compare=False)  # in messages alone
    usual: str
    model: str | None
    checkpoint: str | None
    device: str
    precision: str
    attention: str = AUTO
    kept: KeptFeatures | None = None

    def __post_init__(self) -> None:
        releases()  # which registers second backbones as well
        kind = SECONDS[self.usual].kind
        known = [name for name, release in SECONDS.items() if release.kind == kind]
        if self.model is not None:
            check_choice(f"{self.settings[0]}={shown(self.model)} is unknown", self.model, known)
        elif self.checkpoint is None:
            key = self.settings[0].removesuffix(".model")
            raise UserError(
                f"{key} names no backbone: give {self.settings[0]}=NAME, one of {', '.join(known)},"
                f" or the file of another one, {self.settings[1]}=PATH"
            )

    @cached_property
    def origin(self) -> OfRelease:
        """Where its file comes from."""
        of_file = _OF_FILES[SECONDS[self.usual].kind]
        release = of_file if self.model is None else SECONDS[self.model]
        given = _SHIPPED.get(release.name) if self.checkpoint is None else self.checkpoint
        return OfRelease(release, given, self.settings)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of its file, which is read once in a run; workers are given it."""
        return fingerprint_files(self.origin.files())

    def key_facts(self) -> dict[str, Any]:
        """Returns all that its features depend on, for a cache key."""
        origin, normalisation = self.origin, self.origin.pretraining.normalisation
        return {
            "model": self.model,
            "model_source": origin.source,
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
            "weights": self.fingerprint,
            "precision": self.precision,
        }

    def check(self) -> None:
        """Refuses a file of another model, if it is here, before anything is computed."""
        if self.origin.is_on_disk and self.origin.dimensions:  # which say of what kind a file is
            self.origin.load("meta")

    @property
    def encoder(self) -> Any:  # noqa: ANN401
        """What computes its features: a SecondEncoder, unless its model has one of its own."""
        return _encoder(self, self.fingerprint)


# The fingerprint of the file tells apart two states of it.


@lru_cache(maxsize=4)
def _encoder(chosen: FrozenSecond, weights: str) -> Any:  # noqa: ANN401
    from pipeline.clip.image_tower import ImageTower
    from pipeline.clip.second_encoder import SecondEncoder

    refuse_changed(chosen.origin.files(), weights)
    say(f"loading {chosen.model or 'the second backbone'}")
    model = chosen.origin.load(chosen.device)
    if not isinstance(model, ImageTower):
        return model
    return SecondEncoder(
        model,
        choose_precision(chosen.precision, chosen.device),
        choose_attention(chosen.attention, chosen.device),
        chosen.kept,
        weights,
    )
