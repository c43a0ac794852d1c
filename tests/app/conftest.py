"""The app as a command starts it, and its pages in Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.datasets.scenes import load_world, render_scene
from tests.app.started import Started
from tests.report.browsing import browser  # noqa: F401  the fixture

SCENES = 6


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A folder with scenes of the demo, and a file that is none."""
    root = tmp_path_factory.mktemp("app") / "scenes"
    root.mkdir()
    for index in range(SCENES):
        scene = render_scene(load_world("demo"), "val", index)
        Image.fromarray(scene.image).save(root / f"{index}.png")
    (root / "broken.png").write_bytes(b"nothing")
    return root


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    """Starts apps, which end with the test."""
    started = []

    def begin(*words: object, **options: object) -> Started:
        started.append(Started(*words, **options))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.end()
