"""A report that is served: what is saved, what runs, and what a foreign folder cannot do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.files.atomic import write_atomically
from pipeline.files.lock import HOLDER, FolderLock
from tests import REPOSITORY
from tests.app.test_attacks import Client
from tests.extras import library
from tests.processes import wait_until

pytestmark = pytest.mark.extras

CSV = "id,classes\r\na,cup\r\n"
WAITING = """
import sys, time
from pathlib import Path
if "--no-browser" not in sys.argv:  # in a run, and not in an app
    print("it waits", flush=True)
    while not Path({!r}).exists():
        time.sleep(0.05)
"""


@pytest.fixture
def out(finish):
    return finish("stage=[tags,cams,masks,report]")


@pytest.fixture
def new_client(out):
    """Returns a function that makes an app of its own, and its client."""
    library("gradio")
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from pipeline.app.finished import Finished

    def make(folder=out, words=()):
        app = FastAPI()
        app.include_router(Finished(folder, words).routes)
        return TestClient(app, raise_server_exceptions=False)

    return make


def test_a_folder_of_an_older_version_is_refused(new_client, tmp_path):
    (tmp_path / "store.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="format 1"):
        new_client(tmp_path)


@pytest.fixture
def client(new_client):
    return new_client()


@pytest.fixture
def waiting(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """The word for an app whose runs wait until there is a file ``go``."""
    (tmp_path / "plugins").mkdir()
    method = (REPOSITORY / "tests" / "plugins" / "keys.py").read_text()
    waits = WAITING.format(str(tmp_path / "go"))
    (tmp_path / "plugins" / "waiting.py").write_text(f"{method}\n{waits}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"))
    yield ["plugins=[waiting]"]
    (tmp_path / "go").touch()


def runs_of(out: Path) -> list[psutil.Process]:
    """Returns the processes of runs in an output directory, which are not their children."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "--started" in words and str(out / ".app") in words:
            found.append(process)
    return [process for process in found if process.ppid() not in {each.pid for each in found}]


def line_of(client) -> str:
    return client.get("/report/state").json()["line"]


def wait_for_end(client) -> dict:
    for _ in range(600):
        state = client.get("/report/state").json()
        if not state["running"]:
            return state
        time.sleep(0.1)
    raise AssertionError(state)


def stop(starter, client) -> dict:
    """Stops by one app what another has started, and returns what that one tells in the end."""
    for _ in range(100):  # an import may swallow one
        time.sleep(0.5)
        assert client.post("/report/stop").json() == {}
        if not (state := starter.get("/report/state").json())["running"]:
            break
    return state


def test_saved_files_are_numbered_and_none_is_overwritten(client, out):
    (out / "corrections.2.csv").write_text("somebody's")
    os.mkfifo(out / "corrections.4.csv")  # which is not waited for
    contents = [CSV, CSV * 2, CSV, CSV * 3]
    saved = [client.post("/report/save", content=each).json()["file"] for each in contents]
    assert saved == [f"corrections.{number}.csv" for number in (1, 3, 1, 5)]
    assert (out / "corrections.2.csv").read_text() == "somebody's"
    assert (out / "corrections.1.csv").read_bytes() == CSV.encode()


def test_what_is_not_saved_is_kept_for_the_next_app(client, out):
    wanted = {"key": "k", "wanted": [["a", ["cup"]], ["</script>", None]], "version": 0}
    assert client.post("/report/kept", content=json.dumps(wanted)).json() == {"version": 1}
    page = client.get("/report").text
    [data] = re.findall(r'<script type="application/json" id="served">(.*?)</script>', page)
    assert json.loads(data) == {**wanted, "version": 1}
    for damaged in ("[1", "[" * 3000, '{"key": "k", "wanted": [1], "version": 1}'):
        (out / ".app" / "unsaved.json").write_text(damaged)
        assert '{"key": "", "wanted": [], "version": 0}' in client.get("/report").text


@pytest.mark.parametrize("body", ["not json", '{"key": "k", "wanted": [], "version": 0}'])
def test_another_window_is_not_overwritten(client, body):
    kept = {"key": "k", "wanted": [["a", ["cup"]]], "version": 0}
    client.post("/report/kept", content=json.dumps(kept))
    refused = client.post("/report/kept", content=body)
    assert refused.status_code == 400 and "reload this page" in refused.json()["error"]
    assert '[["a", ["cup"]]]' in client.get("/report").text


@pytest.mark.parametrize("act", ["save", "kept"])
def test_two_apps_do_not_lose_what_is_changed_at_once(act, new_client, out, monkeypatch):
    """The second one begins when the first has looked, and before it writes."""
    contents = ["a,cup\r\n", "a,cat\r\n"]
    if act == "kept":
        kept = {"key": "k", "version": 0}
        contents = [json.dumps({**kept, "wanted": [["a", [name]]]}) for name in ("cup", "cat")]
    first, second = new_client(), new_client()
    answers = []

    def change_late():
        answers.append(second.post(f"/report/{act}", content=contents[1]))

    late = threading.Thread(target=change_late)

    def write_late(path, content):
        if not late.is_alive() and not answers:
            late.start()
            late.join(0.5)
        write_atomically(path, content)

    monkeypatch.setattr("pipeline.app.finished.write_atomically", write_late)
    answers.insert(0, first.post(f"/report/{act}", content=contents[0]))
    late.join()
    assert {answer.status_code for answer in answers} == ({200} if act == "save" else {200, 400})
    if act == "save":
        for answer, content in zip(answers, contents):
            assert (out / answer.json()["file"]).read_bytes() == content.encode()


def test_a_run_is_found_however_its_folder_is_spelled(out, new_client, tmp_path):
    (tmp_path / "link").symlink_to(out)
    linked = new_client(tmp_path / "link" / "all" / "..")
    linked.post("/report/save", content=CSV)
    linked.post("/report/run", content="corrections.1.csv")
    assert stop(linked, new_client())["code"] not in (0, None)


@pytest.mark.parametrize("fault", ["holder", "link"])
def test_the_state_is_told_where_nothing_can_be_locked(fault, client, out):
    (out / "corrections.1.csv").write_text(CSV)
    (out / ".app").mkdir()
    if fault == "holder":
        (out / ".app" / HOLDER).mkdir()
    else:
        (out / ".app" / ".lock").symlink_to(out / "config.yaml")
    state = client.get("/report/state")
    assert state.status_code == 200 and not state.json()["running"]
    refused = client.post("/report/run", content="corrections.1.csv")
    assert refused.status_code == 400 and re.match("cannot .*write", refused.json()["error"])


@pytest.mark.parametrize("name", [".app", ".app/corrections"])
def test_a_file_in_the_place_of_the_folder_of_the_app_is_refused(name, new_client, out):
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is a file or a link, where the app requires"):
        new_client()


def test_a_run_of_another_app_is_known(client, out):
    client.post("/report/save", content=CSV)
    with FolderLock(out / ".app"):
        refused = client.post("/report/run", content="corrections.1.csv")
        (out / ".app" / "run.log").write_text("tags  1/4\rtags  2/4\nnote: slow")
        state = client.get("/report/state").json()
    assert "a run is under way" in refused.json()["error"]
    assert (state["running"], state["line"], state["code"]) == (True, "tags 2/4", None)
    state = client.get("/report/state").json()
    assert not state["running"] and not state["compared"]
    (out / "comparison.html").write_text("of an earlier run")
    for said, compared in (("written to comparison.html", True), ("no comparison: none", False)):
        (out / ".app" / "run.log").write_text(f"tags 4/4\n{said}\n")
        assert client.get("/report/state").json()["compared"] == compared


def test_the_page_runs_our_scripts_alone(client, out):
    path = out / "report.html"
    path.write_text(path.read_text() + "<script>alert(1)</script>")
    answer = client.get("/report")
    policy = answer.headers["content-security-policy"]
    assert policy.count("'sha256-") == 2 and "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy and "connect-src 'self'" in policy
    assert answer.text.count("Content-Security-Policy") == 0  # the header says it


def test_nothing_but_the_report_is_served(client, out):
    for path in ("../config.yaml", "config.yaml", "..%2f..%2fetc/passwd", ".app/run.log"):
        assert client.get(f"/report/{path}").status_code == 404
    assert client.get("/report/comparison").status_code == 404
    (out / "report.html").unlink()
    (out / "report.html").symlink_to("/etc/passwd")
    assert client.get("/report").status_code == 404
    missing = client.get("/report")
    assert missing.status_code == 404 and "run the stage report first" in missing.text


@pytest.mark.parametrize(
    "body", ["", "corrections.9.csv", "../corrections.1.csv", "corrections.1.csv\n", "config.yaml"]
)
def test_only_saved_corrections_run(client, body):
    client.post("/report/save", content=CSV)
    refused = client.post("/report/run", content=body)
    assert refused.status_code == 400 and "are not saved" in refused.json()["error"]
    assert not client.get("/report/state").json()["running"]


def test_a_run_is_started_once_and_tells_its_end(client, out):
    client.post("/report/save", content=CSV)
    assert client.post("/report/run", content="corrections.1.csv").status_code == 200
    second = client.post("/report/run", content="corrections.1.csv")
    assert "under way" in second.json()["error"]
    state = wait_for_end(client)
    assert state["code"] == 0, (out / ".app" / "run.log").read_text()
    assert "comparison.html" in state["line"] and state["compared"]
    assert client.get("/report/comparison").status_code == 200
    assert "a 3" in (out / "all/tags/latest/tags.txt").read_text()


def test_a_foreign_folder_names_no_code_and_no_file(client, out, tmp_path, monkeypatch):
    home, link = tmp_path / "home", tmp_path / "link"
    link.symlink_to(home / "code")
    for folder in (home / "pipeline", home / "code"):
        folder.mkdir(parents=True)
    modules = ("pipeline/__init__", "pipeline/__main__", "joblib", "torch", "sitecustomize")
    for name in (*modules, "code/joblib", "code/torch", "code/sitecustomize"):
        (home / f"{name}.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", f":{home / 'code'}:{link}")
    config = out / "config.yaml"
    text = re.sub(r"directory: .*", f"directory: {home}", config.read_text())
    config.write_text(text.replace("workers: 1\n", "workers: 2\n"))
    (tmp_path / "letter.txt").write_text("dear")
    client.post("/report/save", content=f"{CSV}b,cup\r\n")  # processes compute two masks
    client.post("/report/run", content="corrections.1.csv")
    assert wait_for_end(client)["code"] == 0, (out / ".app" / "run.log").read_text()
    (out / ".app" / "run.log").unlink()
    (out / ".app" / "run.log").symlink_to(tmp_path / "letter.txt")
    refused = client.post("/report/run", content="corrections.1.csv")
    assert "is a link, which nothing is written through" in refused.json()["error"]
    assert client.get("/report/state").json()["line"] == ""
    assert not (tmp_path / "pwned").exists()
    assert (tmp_path / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("words", [[], ["plugins=[mine]"]])
def test_only_plugins_that_are_named_may_lie_where_the_run_was_started(
    words, new_client, out, tmp_path, working_folder, monkeypatch
):
    (out / "corrections.1.csv").write_text(CSV)
    inside, outside = str(working_folder / "mine"), str(tmp_path)  # of where the run was started
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([inside, "", outside]))
    started, begin = [], subprocess.Popen

    def record(_, **options):
        started.append(options)
        return begin(["echo", "begun"], text=True, stdout=subprocess.PIPE)

    monkeypatch.setattr("pipeline.app.finished.subprocess.Popen", record)
    new_client(words=words).post("/report/run", content="corrections.1.csv")
    [options] = started
    found = options["env"]["PYTHONPATH"].split(os.pathsep)
    assert found == [str(REPOSITORY), *[inside] * bool(words), outside]


def test_a_run_is_known_when_its_app_was_killed_and_opened_again(start, out, waiting):
    library("gradio")
    (out / "corrections.1.csv").write_text(CSV)
    log, run = out / ".app" / "run.log", ("POST", "/report/run", b"corrections.1.csv")
    killed = start(out, *waiting)
    assert Client(killed.address).ask(*run)[0] == 200
    killed.process.kill()
    killed.process.wait()
    [process] = runs_of(out)
    client = Client(start(out, *waiting).address)

    def state() -> dict:
        return json.loads(client.ask("GET", "/report/state")[2])

    wait_until(lambda: state()["line"] == "it waits", poll=0.1)
    assert state()["running"]
    status, _, answer = client.ask(*run)
    assert status == 400 and b"a run is under way" in answer
    assert runs_of(out) == [process] and log.read_text() == "it waits\n"
    assert client.ask("POST", "/report/stop", b"")[0] == 200
    wait_until(lambda: not state()["running"], poll=0.1)
    assert state()["code"] == 130 and state()["line"].startswith("ended: ")
    wait_until(lambda: not runs_of(out), poll=0.1)


def test_a_later_app_knows_how_a_run_ends(new_client, out, waiting, tmp_path):
    (out / "corrections.1.csv").write_text(CSV)
    earlier, later = new_client(words=waiting), new_client(words=waiting)
    earlier.post("/report/run", content="corrections.1.csv")
    assert later.get("/report/state").json()["running"]
    (tmp_path / "go").touch()
    assert wait_for_end(later)["code"] == 0 == wait_for_end(earlier)["code"]
    assert new_client().get("/report/state").json()["code"] == 0


@pytest.mark.parametrize("apps", [1, 2])
def test_of_runs_that_are_started_at_once_one_begins(apps, new_client, out, waiting):
    (out / "corrections.1.csv").write_text(CSV)
    clients = [new_client(words=waiting) for _ in range(apps)]
    at_once = threading.Barrier(4)

    def begin(number: int) -> int:
        at_once.wait()
        client = clients[number % apps]
        return client.post("/report/run", content="corrections.1.csv").status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(begin, range(4))) == [200, 400, 400, 400]
    wait_until(lambda: line_of(clients[0]) == "it waits", poll=0.1)
    wait_until(lambda: len(runs_of(out)) == 1, poll=0.1)
    assert (out / ".app" / "run.log").read_text() == "it waits\n"
    assert stop(clients[0], clients[-1])["code"] == 130


def test_a_page_of_photographs_knows_the_run_of_an_earlier_one(scenes, tmp_path, waiting):
    library("gradio")
    from starlette.testclient import TestClient

    from pipeline.app.finished import Finished
    from pipeline.app.page import build_app

    settings = {"clip": "demo", "classes": "[disc]", "output_dir": str(tmp_path / "out")}
    words = [f"{key}={value}" for key, value in settings.items()]

    def open_page() -> TestClient:
        return TestClient(build_app(settings, [str(scenes)], 2, words))

    first = open_page()
    assert not first.get("/report/state").json()["running"] and not (tmp_path / "out").exists()
    Finished(tmp_path / "out", waiting).start(waiting, tmp_path)
    for page in (first, open_page()):
        assert page.get("/report/state").json()["running"]
    assert stop(first, page)["code"] == 130


def test_a_killed_run_is_told_and_its_number_is_nobodys(new_client, out, waiting):
    (out / "corrections.1.csv").write_text(CSV)
    client = new_client(words=waiting)
    client.post("/report/run", content="corrections.1.csv")
    [process] = runs_of(out)
    process.kill()
    assert wait_for_end(client)["code"] == -signal.SIGKILL
    holder = out / ".app" / HOLDER
    assert json.loads(holder.read_text())["process"] == process.pid
    # After a restart of the machine the number is another process's.
    with subprocess.Popen(["sleep", "600"]) as other:
        holder.write_text(json.dumps({"process": other.pid}))
        assert new_client().post("/report/stop").json() == {}
        with FolderLock(out / ".app"):
            holder.write_text(json.dumps({"process": other.pid}))
            refused = new_client().post("/report/stop")
        assert "no app of this machine started this run" in refused.json()["error"]
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("by", ["its own app", "a later app", "an app that ignores Ctrl-C"])
def test_a_stopped_run_ends_as_with_ctrl_c(client, new_client, by):
    client.post("/report/save", content=CSV)
    before = signal.getsignal(signal.SIGINT)
    if "ignores" in by:  # a script has started it, with "&"
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    client.post("/report/run", content="corrections.1.csv")
    signal.signal(signal.SIGINT, before)
    state = stop(client, new_client() if by == "a later app" else client)
    assert state["code"] not in (0, None)


def test_the_settings_of_another_person_do_not_run(client, out):
    path = out / "config.yaml"
    text = re.sub(r"executor:\n  name: local", "executor:\n  name: dask", path.read_text())
    path.write_text(text)
    client.post("/report/save", content=CSV)
    client.post("/report/run", content="corrections.1.csv")
    state = wait_for_end(client)
    assert state["code"] == 2 and "executor=dask: give that to the app, too" in state["line"]
    path.write_text(re.sub(r"directory: .*", "directory: /gone", text))
    refused = client.post("/report/run", content="corrections.1.csv")
    assert "/gone, where the run was started, is gone" in refused.json()["error"]
