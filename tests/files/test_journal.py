"""Journals that are torn, damaged, or left by the workers of a killed run."""

from __future__ import annotations

import json
import os
import random

import pytest

from pipeline.errors import UserError
from pipeline.files.journal import OF_FILES, Journal, part_path, read_entries


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "entries.jsonl", OF_FILES)
    for name in "bca":
        journal.append({"id": name, "content": "1", "tags": [0, 2], "scores": {"scores": "AAAA"}})
    journal.close()
    return journal


def test_a_line_with_any_byte_changed_counts_for_nothing(journal):
    whole = journal.path.read_bytes()
    lines = {line["id"]: line for line in read_entries(journal.path, OF_FILES)[0]}
    generator = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        position = generator.randrange(len(data))
        data[position] ^= 1 << generator.randrange(8)
        journal.path.write_bytes(bytes(data))
        found = {line["id"]: line for line in read_entries(journal.path, OF_FILES)[0]}
        assert all(lines.get(name) == line for name, line in found.items())
        assert len(found) >= 1, "a change costs the line it is in, or the two it divides"


def test_a_torn_line_costs_itself(journal):
    whole = journal.path.read_bytes()
    for length in range(0, len(whole), 7):
        journal.path.write_bytes(whole[:length])
        assert len(read_entries(journal.path, OF_FILES)[0]) == whole[: length + 1].count(b"\n")


def test_lines_without_a_checksum_count_for_nothing(journal):
    journal.path.write_text(json.dumps({"id": "x", "content": "1"}) + '\n{"id": "y"}\n["z"]\n')
    assert read_entries(journal.path, OF_FILES) == ([], 3)


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_a_journal_is_created_with_the_processs_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        journal = Journal(tmp_path / "entries.jsonl", OF_FILES)
        journal.append({"id": "a", "content": "1"})
        appended = journal.path.stat().st_mode & 0o777
        journal.append({"id": "a", "content": "2"})
        journal.compact()
    finally:
        os.umask(before)
    assert appended == journal.path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_compacting_sorts_and_takes_in_what_workers_wrote(journal, tmp_path):
    worker = Journal(part_path(tmp_path), OF_FILES)
    worker.append({"id": "a", "content": "2"})
    worker.append({"id": "d", "content": "1"})
    worker.close()
    assert worker.path.exists()
    again = Journal(journal.path, OF_FILES)
    assert list(again.entries) == ["b", "c", "a", "d"]
    again.compact()
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c", "d"]
    assert lines[0]["content"] == "2" and all("sum" in line for line in lines)
    assert not worker.path.exists()
    before = journal.path.stat().st_mtime_ns
    Journal(journal.path, OF_FILES).compact()
    assert journal.path.stat().st_mtime_ns == before, "nothing to do, nothing written"


def test_a_full_disk_is_said(tmp_path):
    journal = Journal(tmp_path / "entries.jsonl", OF_FILES)
    journal._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(UserError, match="No space left on device; fix this"):
        journal.append({"id": "a", "content": "1"})
    journal.close()


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_a_link(there, tmp_path):
    victim = tmp_path / "victim"
    if there:
        victim.write_text("own")
    journal = Journal(tmp_path / "entries.jsonl", OF_FILES)
    journal.path.symlink_to(victim)
    with pytest.raises(UserError, match="jsonl is a link, .*: remove it"):
        journal.append({"id": "a", "content": "1"})
    assert victim.read_text() == "own" if there else not victim.exists()


def test_a_pipe_in_place_of_a_journal_does_not_block(tmp_path):
    journal = Journal(tmp_path / "entries.jsonl", OF_FILES)
    os.mkfifo(journal.path)
    with pytest.raises(UserError, match="cannot write .*entries.jsonl"):
        journal.append({"id": "a", "content": "1"})
    Journal(journal.path, OF_FILES).compact()


def test_what_is_added_after_a_rewriting_is_in_the_new_file(journal):
    journal.append({"id": "d", "content": "1"})  # the file is open
    journal.compact()
    journal.append({"id": "e", "content": "1"})
    found, damaged = read_entries(journal.path, OF_FILES)
    assert ([line["id"] for line in found], damaged) == (["a", "b", "c", "d", "e"], 0)
