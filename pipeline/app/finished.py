"""A finished run: its report, in which tags are corrected and the next run is started."""

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from pipeline.app import BEGUN, ENDED, LOG, NOT_COMPARED, RUN, own_folder
from pipeline.configuration.hydra import take_plugins
from pipeline.engine.children import searched
from pipeline.engine.store import refuse_other_format
from pipeline.errors import UserError
from pipeline.files.atomic import Complete, cannot_write, parse_object, read_json, write_atomically
from pipeline.files.lock import HOLDER, FolderLock, is_held
from pipeline.report.page.page import REPORT_SCRIPTS, script_of
from pipeline.stages.config import read_run

_SCRIPT = (Path(__file__).parent / "served.js").read_text(encoding="utf-8")
_UNSAVED = "unsaved.json"
_KEPT = Complete(key=str, wanted=[list], version=int)
_CODE = Path(__file__).parents[2]
_FILE = re.compile(r"corrections\.\d+\.csv")
_TAIL = 4096  # bytes of the log, for its last line
_WAIT = 10.0  # seconds for another app, which changes corrections in milliseconds


def policy_of(*scripts: str) -> str:
    """Returns the Content-Security-Policy of a page that runs these scripts alone."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    named = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
    return (
        "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline';"
        f" script-src {named}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _holds(path: Path, content: bytes) -> bool:
    """Tells whether a file has a content; in a foreign folder it may be a pipe, or of any size."""
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


class Finished:
    """Serves the report of an output directory, and starts its next run, one at a time.

    Attributes:
        routes: what is served, below /report.
    """

    def __init__(self, folder: Path, words: Sequence[str]):
        """Takes the folder, and the settings of the app's own command line."""
        refuse_other_format(folder)
        self._folder, self._words = folder.resolve(), words  # a run has the path in its command
        self._own = own_folder(self._folder)
        # A run holds the lock of the folder itself, and people correct tags while it goes on.
        self._corrections = FolderLock(own_folder(self._own, "corrections"), wait=_WAIT)
        self.routes = APIRouter(prefix="/report")
        get, post = self.routes.get, self.routes.post
        get("")(lambda: self._page("report.html", script_of(*REPORT_SCRIPTS), _SCRIPT))
        get("/comparison")(lambda: self._page("comparison.html", script_of("tables.js")))
        get("/state")(self.state)
        post("/kept")(self._acting(self._keep))
        post("/save")(self._acting(self._save))
        post("/run")(self._acting(self._start))
        post("/stop")(self._acting(lambda _: self.stop()))

    def _page(self, name: str, script: str, *more: str) -> Response:
        path = self._folder / name
        if path.is_symlink() or not path.is_file():
            return Response(f"{path} is missing: run the stage report first", 404)
        page = path.read_text(encoding="utf-8", errors="replace")
        # The header has the policy, and allows our scripts alone, whatever the file holds.
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page, count=1)
        for each in more:
            kept = json.dumps(self._kept()).replace("<", r"\u003c")
            page = page.removesuffix("</html>\n").removesuffix("</body>\n")
            page += f'<script type="application/json" id="served">{kept}</script>'
            page += f"<script>{each}</script></body></html>\n"
        headers = {"content-security-policy": policy_of(script, *more)}
        return Response(page, media_type="text/html", headers=headers)

    def _acting(self, act: Any) -> Any:  # noqa: ANN401
        async def answer(request: Request) -> JSONResponse:
            body = await request.body()
            try:
                return JSONResponse(await run_in_threadpool(act, body.decode("utf-8")))
            except (UserError, OSError, UnicodeDecodeError) as error:
                if isinstance(error, OSError):
                    error = cannot_write(error.filename, error)
                return JSONResponse({"error": str(error)}, status_code=400)

        return answer

    # Corrections

    def _kept(self) -> dict[str, Any]:
        return read_json(self._own / _UNSAVED, _KEPT) or {"key": "", "wanted": [], "version": 0}

    def _keep(self, body: str) -> dict[str, Any]:
        given = parse_object(body, _KEPT)
        with self._corrections:
            if given is None or given["version"] != self._kept()["version"]:
                raise UserError("another window has changed corrections: reload this page")
            given["version"] += 1
            write_atomically(self._own / _UNSAVED, json.dumps(given))
        return {"version": given["version"]}

    def _save(self, body: str) -> dict[str, Any]:
        paths = (self._folder / f"corrections.{number}.csv" for number in count(1))
        with self._corrections:
            path = next(path for path in paths if not path.exists() or _holds(path, body.encode()))
            if not path.exists():
                write_atomically(path, body)
        return {"file": path.name}

    # The next run

    def _start(self, body: str) -> dict[str, Any]:
        file = self._folder / body
        if not _FILE.fullmatch(body) or not file.is_file():
            raise UserError("these corrections are not saved: save them first")
        _, directory, _ = read_run(self._folder)
        if not directory.is_absolute() or not directory.is_dir():
            raise UserError(f"{directory}, where the run was started, is gone: use the command")
        self.start(["app", str(self._folder), "--run", str(file), *self._words], directory)
        return {}

    def start(self, command: Sequence[str], directory: Path) -> None:
        """Starts a command of ours, and waits until it has the lock; a UserError if it cannot."""
        if is_held(self._own):
            raise UserError("a run is under way: wait for its end, or stop it")
        # Not what lies where somebody started the run, unless our command line names plug-ins.
        inside, named = os.path.realpath(directory), take_plugins(self._words)[0]
        real = {path: Path(os.path.realpath(path)) for path in searched("PYTHONPATH")}
        paths = [path for path in real if named or not real[path].is_relative_to(inside)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_CODE), *paths])}
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "text": True}
        # In a session of its own: it goes on when the page or the app is closed.
        options = {"cwd": directory, "env": env, "start_new_session": True, **streams}
        words = [sys.executable, *RUN, str(self._own), *command]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, **options)
        said = process.stdout.read().strip()  # until it writes to the log, or ends
        Thread(target=process.wait, daemon=True).start()
        if not said.endswith(BEGUN):  # of two that are started at once, one gets the lock
            raise UserError(said.rpartition("error: ")[2] or "the run has ended: start it again")

    def stop(self) -> dict[str, Any]:
        """Ends the run, as Ctrl-C does, whichever app of this machine has started it."""
        words = [*RUN, str(self._own)]
        holder = read_json(self._own / HOLDER, Complete(process=int)) or {"process": 0}
        with suppress(psutil.Error, ValueError):  # it has ended, or is another person's
            process = psutil.Process(holder["process"])
            # A killed run leaves its number, which another process may have since.
            if process.cmdline()[1 : 1 + len(words)] == words:
                process.send_signal(signal.SIGINT)
                return {}
        if is_held(self._own):
            raise UserError("no app of this machine started this run: stop it where it was started")
        return {}

    def state(self) -> dict[str, Any]:
        """Returns whether a run goes on, its last line but notes, its exit code and its log."""
        running, code, said, log = is_held(self._own), None, [""], self._own / LOG
        if log.is_file() and not log.is_symlink():
            if not running:
                ended = read_json(self._own / ENDED, Complete(code=int))
                code = ended["code"] if ended else -signal.SIGKILL
            with log.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL))
                said = re.split(r"[\r\n]+", file.read().decode("utf-8", "replace").strip())
        said = [line for line in said if not line.startswith(("note: ", "left out: "))] or [""]
        line = " ".join(said[-1].partition("→")[0].split())
        compared = (self._folder / "comparison.html").is_file()  # perhaps of an earlier run
        compared &= not line.startswith(NOT_COMPARED)
        facts = {"running": running, "line": line, "code": code, "compared": compared}
        return {**facts, "log": str(log)}
