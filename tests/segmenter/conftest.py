import pytest
import torch
from tiny_training import CLASS_NAMES, PALETTE, tiny_settings, write_pairs


@pytest.fixture(autouse=True)
def one_thread():
    """More threads than free cores would slow these tiny networks a hundredfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, pairs):
    """The undisturbed run: its directory and the losses that it reported."""
    from pipeline.segmenter.train import train

    work_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    reports = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(
        tiny_settings(),
        pairs,
        CLASS_NAMES,
        PALETTE,
        work_dir,
        seed=3,
        on_iteration=lambda *report: reports.append(report),
    )
    torch.set_num_threads(threads)
    return work_dir, reports
