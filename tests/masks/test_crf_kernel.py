"""The compiled CRF gives the bits of pydensecrf, or leaves the work to it."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from pipeline.engine import compiler, progress
from pipeline.engine.pool import ProcessPool, spread
from pipeline.masks import crf
from pipeline.masks.crf import CrfKernel, CrfOptions, by_pydensecrf, dense_crf
from tests.small_runs import draw_photograph


@pytest.fixture(scope="module")
def kernel() -> CrfKernel:
    found = crf._kernel()
    if found is None:
        pytest.skip(
            "the kernel cannot be compiled here, or its bits differ from those of pydensecrf"
        )
    return found


def energies(labels: int, height: int, width: int, scale: float = 8.0) -> np.ndarray:
    random = np.random.default_rng(labels * height)
    return random.random((labels, height, width), np.float32) * np.float32(scale)


@pytest.mark.parametrize("labels", range(2, 25))
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (47, 33), (16, 20)])
def test_bits_are_those_of_pydensecrf(kernel, labels, size):
    random = np.random.default_rng(labels)
    unary, image = energies(labels, *size), random.integers(0, 256, (*size, 3), np.uint8)
    expected = by_pydensecrf(unary, image, CrfOptions())
    np.testing.assert_array_equal(kernel(unary, image, CrfOptions()), expected)


def test_pixels_that_pydensecrf_fills_up_with_count(kernel):
    """It takes four pixels at a time; those beyond the image are black, and have neighbours."""
    image = np.full((3, 3, 3), 8, np.uint8)
    image[0] = 4
    unary = energies(3, 3, 3)
    expected = by_pydensecrf(unary, image, CrfOptions())
    np.testing.assert_array_equal(kernel(unary, image, CrfOptions()), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"iterations": 1},
        {"gaussian_sxy": 3, "gaussian_compat": 0.7},
        {"gaussian_compat": 0, "bilateral_compat": 0},
        {"bilateral_sxy": 121, "bilateral_srgb": 5, "bilateral_compat": 5},
        {"bilateral_sxy": 1e6, "bilateral_srgb": 1e6},
        {"bilateral_sxy": 7.3, "bilateral_srgb": 0.9},
    ],
)
@pytest.mark.parametrize("labels", [2, 5])
def test_bits_are_the_same_with_other_constants(kernel, options, labels):
    unary, image = energies(labels, 40, 37), draw_photograph(1, 40, 37)
    expected = by_pydensecrf(unary, image, CrfOptions(**options))
    np.testing.assert_array_equal(kernel(unary, image, CrfOptions(**options)), expected)


def test_extreme_energies_and_flat_images(kernel):
    image = np.zeros((20, 30, 3), np.uint8)
    for scale in (0.0, 1e-30, 500.0, 1e30):
        for labels in (3, 6, 15):
            unary = energies(labels, 20, 30, scale)
            expected = by_pydensecrf(unary, image, CrfOptions())
            np.testing.assert_array_equal(kernel(unary, image, CrfOptions()), expected)


def test_what_is_kept_of_an_image_serves_those_of_its_size_alone(kernel):
    """Sizes of as many pixels, other standard deviations, and threads that alternate."""
    cases = [((24, 36), 1.0), ((36, 24), 1.0), ((24, 36), 2.0), ((24, 36), 1.0), ((12, 72), 1.0)]
    given = [
        (energies(3, *size), draw_photograph(n, *size), CrfOptions(gaussian_sxy=deviation))
        for n, (size, deviation) in enumerate(cases)
    ]
    expected = [by_pydensecrf(*case) for case in given]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            for found, wanted in zip(pool.map(lambda case: kernel(*case), given), expected):
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("labels", "options"), [(25, {}), (3, {"bilateral_sxy": 0.06})])
def test_what_a_kernel_does_not_compute_is_left_to_pydensecrf(kernel, labels, options):
    unary, image = energies(labels, 50, 60), draw_photograph(0, 50, 60)
    options = CrfOptions(**options)
    assert kernel(unary, image, options) is None
    scores = np.exp(-unary)
    clipped = -np.log(np.clip(scores, np.float32(1e-5), np.float32(1)))
    np.testing.assert_array_equal(
        dense_crf(image, scores, options), by_pydensecrf(clipped, image, options)
    )


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Looks for the kernel anew, in an empty cache, and counts what pydensecrf computes."""
    calls = []
    compute = crf.by_pydensecrf
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "notes", {})
    monkeypatch.setattr(crf, "compiled", compiler.compiled.__wrapped__)
    monkeypatch.setattr(crf, "_kernel", cache(crf._kernel.__wrapped__))
    monkeypatch.setattr(
        crf, "by_pydensecrf", lambda *given: calls.append(given[0].shape) or compute(*given)
    )
    return calls


def check_fallback(counted: list, capsys: pytest.CaptureFixture, reason: str) -> None:
    """Checks that pydensecrf computes, and that one note says why."""
    for _ in range(2):
        dense_crf(draw_photograph(0, 9, 8), np.exp(-energies(3, 9, 8)), CrfOptions())
    assert counted[-2:] == [(3, 9, 8)] * 2
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and "slower" in note and reason in note


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-compiler", "no C++ compiler"),
        ("{script}", "Exec format error"),
        ("c++ '", "No closing quotation"),
        ("true", "wrote no file"),
        ("false", "wrote no file"),
        ("sh -c 'echo because; exit 3'", "because"),
    ],
)
def test_a_compiler_that_cannot_be_used_leaves_the_work_to_pydensecrf(
    counted, monkeypatch, tmp_path, capsys, command, reason
):
    script = tmp_path / "compiler"
    script.write_bytes(b"\x00no program")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", command.format(script=script))
    check_fallback(counted, capsys, reason)


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_kernel_that_cannot_be_loaded_leaves_the_work_to_pydensecrf(
    counted, monkeypatch, capsys, content
):
    monkeypatch.setattr(crf, "compiled", lambda *_, **__: content)
    check_fallback(counted, capsys, "could not be loaded")


def fall_back(number: int) -> int:
    os.environ["CXX"] = "no-such-compiler"
    crf._kernel.cache_clear()
    dense_crf(draw_photograph(0, 9, 8), np.exp(-energies(3, 9, 8)), CrfOptions())
    return number


def test_of_several_processes_the_one_that_takes_the_results_notes_it(monkeypatch, capfd):
    monkeypatch.setattr(progress, "notes", {})
    pool = ProcessPool(2)
    try:
        assert len([*spread(pool, fall_back, range(6))]) == 6
    finally:
        pool.close(at_once=True)
    assert capfd.readouterr().err.count("no C++ compiler") == 1


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.zeros((4, 5, 3), np.uint8), "Bad shape"),
        (np.zeros((9, 8), np.uint8), "number of dimensions"),
        (np.zeros((9, 8, 4), np.uint8), "RGB"),
        (np.zeros((9, 8, 3), np.float32), "dtype"),
    ],
    ids=["size", "grey", "four channels", "float"],
)
def test_an_image_of_another_form_is_left_to_pydensecrf_which_refuses_it(kernel, image, why):
    scores = np.exp(-energies(3, 9, 8))
    assert kernel(energies(3, 9, 8), image, CrfOptions()) is None
    with pytest.raises(ValueError, match=why):
        dense_crf(image, scores, CrfOptions())


def test_a_kernel_of_other_bits_is_not_used(kernel, counted, monkeypatch, capsys):
    monkeypatch.setattr(crf, "compiled", compiler.compiled)
    scores, image = np.exp(-energies(3, 9, 8)), draw_photograph(0, 9, 8)
    right = dense_crf(image, scores, CrfOptions())
    assert counted and (3, 9, 8) not in counted
    counted.clear()
    compute = CrfKernel.__call__
    monkeypatch.setattr(
        CrfKernel, "__call__", lambda self, *given: np.nextafter(compute(self, *given), 2)
    )
    crf._kernel.cache_clear()
    np.testing.assert_array_equal(dense_crf(image, scores, CrfOptions()), right)
    check_fallback(counted, capsys, "other bits than pydensecrf")


@pytest.mark.parametrize("shape", [(0, 9, 8), (2, 0, 8), (2, 9, 0)])
def test_scores_of_nothing_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        dense_crf(np.zeros((*shape[1:], 3), np.uint8), np.zeros(shape, np.float32), CrfOptions())


@pytest.mark.parametrize("name", ["gaussian_sxy", "bilateral_sxy", "bilateral_srgb"])
@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan"), 1e-7])
def test_a_standard_deviation_on_which_pydensecrf_ends_the_process_is_refused(name, value):
    scores = np.exp(-energies(3, 9, 8))
    with pytest.raises(ValueError, match=name):
        dense_crf(draw_photograph(0, 9, 8), scores, CrfOptions(**{name: value}))


def test_too_little_memory_is_an_error_of_python(kernel, monkeypatch):
    """The lattice of a petabyte of pixels; nothing of them is read."""
    compute = kernel._compute

    def enlarged(unary, image, constants, labels, height, width, *others):
        return compute(unary, image, constants, labels, *[ctypes.c_int64(2**24)] * 2, *others)

    monkeypatch.setattr(kernel, "_compute", enlarged)
    with pytest.raises(MemoryError):
        kernel(energies(3, 9, 8), draw_photograph(0, 9, 8), CrfOptions())
    monkeypatch.undo()
    expected = by_pydensecrf(energies(3, 9, 8), draw_photograph(0, 9, 8), CrfOptions())
    found = kernel(energies(3, 9, 8), draw_photograph(0, 9, 8), CrfOptions())
    np.testing.assert_array_equal(found, expected)
