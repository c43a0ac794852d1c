"""The container is built by the commands that docs/installation.md tells people to type."""

from __future__ import annotations

import re

from tests import REPOSITORY
from tests.docs.pages import read_blocks

INSTALLATION = REPOSITORY / "docs" / "installation.md"


def read_runs(stage: str) -> list[str]:
    """Returns the commands of the RUN lines of a stage of the Dockerfile."""
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", "")
    stages = dict(re.findall(r"^FROM \S+(?: AS (\w+))?\n(.*?)(?=^FROM |\Z)", text, re.M | re.S))
    return re.findall(r"^RUN (.*)", stages[stage], re.M)


def test_the_image_is_built_as_the_page_says():
    (block,) = [b for b in read_blocks(INSTALLATION) if "python3-venv" in " ".join(b.commands)]
    typed = [command.replace("/opt/afseg/bin/pip", "pip") for command in block.commands]
    runs = [
        run.replace('"requirements/$LOCK"', "requirements/lock-py313.txt")
        for run in read_runs("build")
    ]
    assert runs == typed


def test_a_lock_is_the_one_argument():
    text = (REPOSITORY / "Dockerfile").read_text()
    assert re.findall(r"^ARG (.*)", text, re.M) == ["LOCK=lock-py313.txt"]
    given = re.findall(r"--build-arg LOCK=(\S+)", INSTALLATION.read_text())
    assert given == ["lock-cpu-py313.txt"]
    # Nothing in the image runs as root, and it runs the console command.
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER 1000$", last, re.M) and 'ENTRYPOINT ["afseg"]' in last
