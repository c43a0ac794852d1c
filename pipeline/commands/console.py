"""The console command: ``afseg stage=tags`` runs stages, ``afseg predict …`` a tool.

``tools/NAME.py`` runs the same commands from a checkout.
"""

import gc
import sys
from collections.abc import Sequence

gc.disable()  # while the tool is imported, of which nothing is garbage

from pipeline.commands.command_line import answer  # noqa: E402
from pipeline.errors import UserError, command, console_word, did_you_mean, shown  # noqa: E402

_WRITERS = ("export", "overlay", "predict")
_OTHERS = ("benchmark", "clean", "compare", "export_onnx", "make_tables")

WHEN_INTERRUPTED = {
    "app": "ended: the same command starts it again",
    "download": "interrupted: run the same command again",
    **dict.fromkeys(_WRITERS, "interrupted: the files written so far are complete"),
    **dict.fromkeys(_OTHERS, "interrupted"),
}
"""The tools, which are modules of this package, and what they say when they are interrupted."""


def run_tool(tool: str) -> None:
    """Runs a tool on the command line, or refuses one that was removed."""
    if tool in WHEN_INTERRUPTED:
        answer(f"pipeline.commands.{tool}:run", WHEN_INTERRUPTED[tool])
    else:
        answer(lambda _: _refuse(tool, ()))


def run_stages() -> None:
    """Runs stages of the pipeline on the command line, which shows its help if it is empty."""
    if sys.argv[1:] == ["--version"]:
        from pipeline.engine.versions import current_version

        answer(lambda _: print(current_version()))
        return
    sys.argv[1:] = sys.argv[1:] or ["--help"]
    answer("pipeline.commands.run_stage:run")


def main() -> None:
    """Runs stages, or the tool that the first word names."""
    words = {console_word(tool): tool for tool in sorted(WHEN_INTERRUPTED)}
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word in words:
        del sys.argv[1]
        run_tool(words[word])
    elif word[:1].isalpha() and "=" not in word and word != "help":
        answer(lambda _: _refuse(word, list(words)))
    else:
        run_stages()


def _refuse(word: str, words: Sequence[str]) -> None:
    from pipeline.configuration.removed import REMOVED_WORDS  # imports YAML
    from pipeline.stages.pipeline import COMMANDS  # imports PyTorch

    if instead := REMOVED_WORDS.get(f"{word.replace('-', '_')}.py"):
        raise UserError(f"{word} was removed: {instead}")
    if word in COMMANDS:
        raise UserError(f"{word} is a stage: run {command()} stage={word}")
    raise UserError(
        f"{shown(word)} is not a command: {did_you_mean(word, words)}choose from"
        f" {', '.join(words)}, or run stages with {command()} stage=…"
    )
