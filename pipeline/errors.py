"""The two kinds of failure that are not bugs, and the parts of their sentences."""

import difflib
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from os.path import commonprefix
from pathlib import Path

_MAX_SHOWN = 160  # characters of a user's input that an error repeats

CONSOLE = "afseg"
"""The console command of the installed package."""

_SHARED_LIBRARY = re.compile(r"(\S+\.so\S*): cannot open shared object file")
_TOOL = re.compile(r"python tools/(\w+)\.py")


class _Sentence(Exception):
    """An error for a terminal: names in its text may hold control characters, which are escaped."""

    def __init__(self, text: object):
        super().__init__(_escaped(str(text)))


class UserError(_Sentence):
    """Something the user can fix: one sentence that holds the remedy. Ends with exit code 2."""


SAME_SETTINGS = "with the same settings"
"""Words of an error for which a command line puts its own settings."""


class NeedsStage(UserError):
    """What a stage writes is missing or out of date; the sentence advises to run the stage."""

    def __init__(self, text: str, stage: str):
        super().__init__(text)
        self.stage = stage


class NotDownloaded(UserError):
    """A file could not be downloaded, for want of a network or of the file; its cause says why."""


class ImageError(_Sentence):
    """One image cannot be used. It is recorded in ``failures.jsonl``; the others go on."""


class NoEntry(ImageError):
    """Files have no entry of an image, which is no failure, but entries of other ids."""

    def __init__(self, reason: str, entries: Iterable[str] = ()):
        super().__init__(reason)
        self.entries = entries


class NotLocal(_Sentence):
    """A file is not on this machine, and nothing may be downloaded; the text is its URL."""


@contextmanager
def refusing_exit(name: str) -> Iterator[None]:
    """Makes a UserError of a SystemExit, which would end the whole program without a word."""
    try:
        yield
    except SystemExit as error:
        reason = shown(f"SystemExit: {error}")
        raise UserError(f"{name} ended the program ({reason}): correct the method") from error


def shown(given: object) -> str:
    """Returns a user's input as an error repeats it: on one line, and shortened.

    Long input loses its middle, since paths are told apart by their ends.
    """
    text, half = _escaped(str(given)), _MAX_SHOWN // 2
    return text if len(text) <= _MAX_SHOWN else f"{text[:half]}…{text[-half:]}"


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_of(given: Sequence[object], most: int = 1) -> str:
    """Returns the first of what the user gave as :func:`shown`, and how many more there are."""
    more = f" and {len(given) - most} more" if len(given) > most else ""
    return shown(", ".join(map(str, given[:most]))) + more


def tell(line: str) -> None:
    """Prints a line on stderr, with the control characters of names escaped."""
    with suppress(OSError):  # stderr may lead to a full disk
        print(_escaped(line), file=sys.stderr)


def closest(wrong: object, known: Iterable[str], count: int = 1) -> list[str]:
    """Returns the nearest known names, the best first; of equal ones, that which begins alike.

    Upper and lower case count as equal.
    """
    text, names = str(wrong).lower(), {name.lower(): name for name in known}
    near = sorted(difflib.get_close_matches(text, names, max(1, len(names))))
    near.sort(key=lambda name: len(commonprefix([name, text])), reverse=True)
    near.sort(key=lambda name: difflib.SequenceMatcher(None, name, text).ratio(), reverse=True)
    return [names[name] for name in near[:count]]


def did_you_mean(wrong: object, known: Iterable[str], count: int = 1) -> str:
    """Returns the :func:`closest` names as a question and a space, or "" if none is near."""
    names = closest(wrong, known, count)
    return f"did you mean {' or '.join(names)}? " if names else ""


def nearest(wrong: str, known: Sequence[str], own: Sequence[str] = ()) -> str:
    """Returns the known key nearest to a wrong one, as a question, or "".

    Within a group it is one of the group; if none is near, all are given, or the choice's ``own``.
    """
    group, _, last = wrong.rpartition(".")
    inside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    if group and inside:
        found = [*map(inside.get, closest(last, inside)), *({last} & {*known})]
        every = ", ".join(own or inside.values())
        all_of_them = f"choose from {every}; " if len(every) < 4 * _MAX_SHOWN else ""
        return f"did you mean {found[0]}? " if found else all_of_them
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    return f"did you mean {elsewhere[0]}? " if elsewhere else did_you_mean(wrong, known)


def check_choice(wrong: str, given: object, known: Collection[str]) -> None:
    """Raises a UserError with the nearest known name, and all of them, unless one was given.

    ``wrong`` says what is wrong otherwise, such as "there is no executor local2".
    """
    if given not in [*known]:
        raise UserError(f"{wrong}: {did_you_mean(given, known)}choose from {', '.join(known)}")


def console_word(tool: str) -> str:
    """Returns how the console command calls a tool of ``tools/``: "" for ``run_stage``."""
    return {"run_stage": "", "make_tables": "tables"}.get(tool, tool.replace("_", "-"))


def command(tool: str = "run_stage") -> str:
    """Returns how to call a tool, in the way in which this program was started.

    It is "python tools/predict.py", with the folder of the tools if they are elsewhere; or "afseg
    predict" under the console command, and in an installed package, which has no tools.
    """
    program = Path(sys.argv[0])
    if program.stem == CONSOLE or not (Path(__file__).parents[1] / "tools/run_stage.py").is_file():
        return f"{CONSOLE} {console_word(tool)}".rstrip()
    folder = program.parent if program.parent.name == "tools" else Path("tools")
    return f"python {shlex.quote(str(folder / f'{tool}.py'))}"


def as_started(text: str) -> str:
    """Returns a text of ours, such as examples, with its commands as :func:`command` has them."""
    return _TOOL.sub(lambda tool: command(tool[1]), text)


def missing_library(error: ImportError) -> UserError | None:
    """Returns the error to raise if a package, or a library of the system, is missing, else None.

    OpenCV's usual wheel links libraries of a desktop, which servers and slim containers lack.
    """
    name = error.name or __package__
    if isinstance(error, ModuleNotFoundError) and not name.startswith(__package__):
        return UserError(
            f"{sys.executable} has no package {name}: use .venv/bin/python, which make demo"
            " creates, or run pip install -r requirements.txt"
        )
    if (library := _SHARED_LIBRARY.search(str(error))) is None:
        return None
    return UserError(
        f"OpenCV requires {library[1]}, which this system lacks: install it (Debian and Ubuntu: apt"
        " install libgl1 libglib2.0-0), or run pip uninstall --yes opencv-python && pip install"
        " opencv-python-headless"
    )
