"""Several processes that torchrun started, seen from one of them."""

import signal

import pytest

from pipeline.commands import command_line
from pipeline.errors import UserError
from pipeline.segmenter.distributed import explain_lost_process, process_count, process_rank
from tests.segmenter.tiny_training import run_stage_in, training_stage

GROUP = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("missing", GROUP)
def test_variables_of_a_batch_system_make_no_group(monkeypatch, missing):
    """With RANK=1 alone, a run would neither write nor lock, and would print nothing."""
    set_all(monkeypatch, {**GROUP, "WORLD_SIZE": "" if missing == "RANK" else "2"})
    monkeypatch.delenv(missing)
    assert (process_count(), process_rank()) == (1, 0)


def test_variables_of_torchrun_make_a_group(monkeypatch):
    set_all(monkeypatch, GROUP)
    assert (process_count(), process_rank()) == (2, 1)


def test_the_end_of_another_process_is_a_sentence():
    lost = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"
    said = "another process of this training ended, or cannot be reached: run the same command"
    with pytest.raises(UserError, match=said), explain_lost_process():
        raise RuntimeError(lost)
    with pytest.raises(RuntimeError, match="a fault of ours"), explain_lost_process():
        raise RuntimeError("a fault of ours")


def test_processes_look_at_a_folder_when_the_first_one_holds_it(pairs, tmp_path, monkeypatch):
    """Else the others would wait for the first, which found the training of another run."""
    stage = training_stage(pairs, [], iterations=2)

    def wait_while_another_run_ends(device):
        monkeypatch.setattr("pipeline.segmenter.stage.join", lambda device: None)
        run_stage_in(training_stage(pairs, [], iterations=2), tmp_path / "other")
        (tmp_path / "other" / "segmenter" / stage.key).rename(tmp_path / "out")

    monkeypatch.setattr("pipeline.segmenter.stage.join", wait_while_another_run_ends)
    from pipeline.engine.store import Store

    writer = stage.writer(Store(tmp_path))
    writer.path = writer.results.path = tmp_path / "out"
    assert stage.run(writer) == 0


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_answered_once(number, code, rank, monkeypatch, capsys):
    set_all(monkeypatch, {**GROUP, "RANK": str(rank)})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
    with pytest.raises(SystemExit) as ended:
        command_line.answer(lambda _: signal.raise_signal(number))
    assert ended.value.code == code
    assert capsys.readouterr().err.count("\n") == 1 - rank


def test_an_error_of_all_processes_is_told_by_the_first(monkeypatch):
    """Torchrun ends the others while they wait."""
    waited = []
    monkeypatch.setattr(command_line.time, "sleep", waited.append)

    def refused(_):
        raise UserError("no masks")

    for rank in ("0", "1"):
        set_all(monkeypatch, {**GROUP, "RANK": rank})
        with pytest.raises(SystemExit):
            command_line.answer(refused)
    assert len(waited) == 1
