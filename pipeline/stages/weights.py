"""The published weights that a run reads: of CLIP, of second backbones, and of a segmenter."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from pipeline.clip.frozen import FrozenClip
from pipeline.clip.method_stage import MethodStage
from pipeline.clip.origins.origin import find_origin, hashable
from pipeline.clip.second import FrozenSecond
from pipeline.engine.scan import scan
from pipeline.errors import SAME_SETTINGS, NotDownloaded, NotLocal, UserError, command
from pipeline.files.download import Source, source_at
from pipeline.segmenter.distributed import process_count
from pipeline.segmenter.stage import Training, load_tower
from pipeline.stages.builder import Builder


def fetch_weights(builder: Builder, commands: Collection[str]) -> None:
    """Downloads what :func:`missing_weights` returns; a UserError names all that is missing."""
    try:
        missing_weights(builder, commands, download=True)
    except NotDownloaded as error:
        missing = missing_weights(builder, commands)
        raise UserError(
            f"the weights {named(missing.values())} could not be downloaded"
            f" ({type(error.__cause__).__name__}): run {command('download')} {SAME_SETTINGS}"
            " where there is a network, and with --output DIR if that is another machine; or give"
            f" {' and '.join(dict.fromkeys(_instead_of(key, builder) for key in missing))}"
        ) from error


def _instead_of(key: str, builder: Builder) -> str:
    """Returns the setting that takes a file in place of a download."""
    if key.startswith("clip.checkpoint."):
        return "clip.checkpoint=DIR"
    if key != "segmenter.pretrained":
        return f"{key}=FILE"
    from pipeline.segmenter.architecture import dictionaries

    parts = dictionaries(builder.config.segmenter.overrides)
    is_frozen = any(part.get("norm_eval") for part in parts)  # its batch norm, which is then needed
    return f"{key}=FILE{'' if is_frozen else ' (or none)'}"


def named(missing: Iterable[Source]) -> str:
    """Returns the addresses of weights in words, each once."""
    return " and ".join(dict.fromkeys(each.urls[0] for each in missing))


def missing_weights(
    builder: Builder,
    commands: Collection[str],
    download: bool = False,
    everything: bool = False,
    failures: list[str] | None = None,
) -> dict[str, Source]:
    """Returns the weights that are not where a run looks for them, and may download them to there.

    The setting that names a file of weights → where they are published: of those that a run of
    ``commands`` reads; without images, of those that the configuration names. With ``everything``,
    they count as missing wherever they are. Raises a UserError if the network of a training cannot
    be built or cannot use the weights, or if weights are given on request, and NotDownloaded if
    they cannot be downloaded. A list of ``failures`` takes the sentences on models instead, and
    the others follow.
    """
    config, names = builder.config, (builder.vocabulary.classes, builder.vocabulary.palette)
    trains = reads_clip = True
    if builder.images is not None:
        asked = [stage for stage in builder.stages if stage.command in commands]
        used = [stage for stage in asked if isinstance(stage, MethodStage)]
        trains = any(_starts(s, builder, commands) for s in asked if isinstance(s, Training))
        chain = {each for stage in asked for each in stage.chain}
        reads_clip = any(s.resources.clip for s in chain if isinstance(s, MethodStage))
        reads_clip |= any(isinstance(s.tower, FrozenClip) for s in chain if isinstance(s, Training))
    else:
        used = [s for s in builder.per_split("").values() if s.command in commands]
    clip, found = config.clip, {}
    origin = find_origin(clip.model, clip.pretrained, hashable(clip.checkpoint))
    models = [("clip.checkpoint", origin)] if reads_clip and clip.model is not None else []
    seconds = [each for stage in used for each in stage.resources.seconds.values()]
    trains = trains and "train" in commands
    tower = builder.tower if trains else None
    seconds += [tower] * isinstance(tower, FrozenSecond)
    for key, origin in (*models, *((second.settings[1], second.origin) for second in seconds)):
        if origin.checkpoint is not None or (origin.is_on_disk and not everything):
            continue
        try:
            parts = origin.published().items()
            found |= {key if len(parts) == 1 else f"{key}.{part}": file for part, file in parts}
            if download:
                origin.files()
        except UserError as error:
            if failures is None:
                raise
            failures.append(str(error))
    if not trains or (tower is not None and not tower.origin.is_on_disk):
        return found
    from pipeline.segmenter.architecture import check_sizes
    from pipeline.segmenter.mmseg import build_config, build_model
    from pipeline.segmenter.pretrained import load_pretrained

    settings, tower = builder.network, tower and load_tower(tower)
    built = build_config(settings, *names, 0, builder.device, process_count(), tower)
    model = build_model(built.model)  # now, not after hours, if it cannot be built
    check_sizes(model, settings)
    if settings.starts_from_scratch or tower is not None:
        return found
    given = settings.pretrained, built.model, built.pretrained_source
    try:
        place = load_pretrained(model.backbone, *given, download=False).source
        is_missing = everything and "://" in place
    except NotLocal as address:
        place, is_missing = str(address), True
        if download:
            load_pretrained(model.backbone, *given)
    return found | ({"segmenter.pretrained": source_at(place)} if is_missing else {})


def _starts(training: Training, builder: Builder, commands: Collection[str]) -> bool:
    """Tells whether a training would start from its initial weights."""
    try:
        # Of a copy, since a training remembers the masks that it has read.
        found = scan(replace(training), builder.images, builder.store, {})
    except UserError:
        if any(need.command in commands for need in training.needs.values()):
            return True  # the run computes the masks first
        raise
    begun = found.results is not None and any(found.results.path.glob("iter_*.pth"))
    return bool(found.pending) and not begun
