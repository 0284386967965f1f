"""The training cache: leases, pruning, locks."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from provfl_cli.errors import InputError, RunError
from provfl_cli.store.cache import Entry, disk_usage, open_entry, prune


def fill(cache: Path, key: str, used: int, size: int = 1_000_000) -> Path:
    """An entry of `size` bytes, last used at time `used`."""
    with open_entry(cache, key, {"key": key}, 1000) as entry:
        (entry.rounds / "0001").mkdir()
        (entry.rounds / "0001" / "clients.safetensors").write_bytes(bytes(size))
    os.utime(entry.folder, (used, used))
    return entry.folder


def test_pruning_takes_what_was_used_longest_ago(tmp_path: Path) -> None:
    folders = {key: fill(tmp_path, key, used) for key, used in (("a", 300), ("b", 100), ("c", 200))}
    assert prune(tmp_path / "federations", 0.0021) == ["b"]
    assert not folders["b"].exists()
    assert prune(tmp_path / "federations", 0.0021) == []
    with open_entry(tmp_path, "c", {}, 1000):  # used again
        pass
    assert prune(tmp_path / "federations", 0.0011) == ["a"]


def test_an_entry_in_use_is_not_pruned(tmp_path: Path) -> None:
    old = fill(tmp_path, "old", 100)
    fill(tmp_path, "new", 200)
    with open_entry(tmp_path, "old", {}, 1000):
        os.utime(old, (100, 100))
        assert prune(tmp_path / "federations", 1e-9) == ["new"]
        with open_entry(tmp_path, "other", {}, 1e-9):  # prunes on its way in and out
            assert old.exists()
    assert old.exists()
    assert list((old / "leases").iterdir()) == []
    assert "old" in prune(tmp_path / "federations", 1e-9)


def hold_and_die(cache: Path) -> None:
    with open_entry(cache, "held", {}, 1000):
        os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_the_lease_of_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    folder = fill(tmp_path, "held", 100)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert len(list((folder / "leases").iterdir())) == 1
    assert prune(tmp_path / "federations", 1e-9) == ["held"]


def test_what_runs_ask_to_keep_adds_up(tmp_path: Path) -> None:
    with open_entry(tmp_path, "k", {}, 1) as entry:
        assert entry.kept() == set()
        entry.keep({3})
        entry.keep([1, 3, 15])
        assert Entry(entry.folder).kept() == {1, 3, 15}


def test_who_waits_is_told_once_and_goes_on_when_the_round_is_there(tmp_path: Path) -> None:
    told, looks = [], []

    def until() -> bool:
        looks.append(1)
        return len(looks) > 4

    with open_entry(tmp_path, "k", {}, 1) as entry:
        with entry.training(until=lambda: False, waiting=lambda: None) as ours:
            assert ours
            second = Entry(entry.folder).training(until=until, waiting=lambda: told.append(1))
            with second as theirs:
                assert not theirs
        assert len(told) == 1
        with entry.training(until=lambda: False, waiting=lambda: told.append(1)) as ours:
            assert ours
        assert len(told) == 1


def test_leftovers_are_cleared_by_who_trains_next(tmp_path: Path) -> None:
    with open_entry(tmp_path, "k", {}, 1) as entry:
        (entry.rounds / ".0003.partial").mkdir()
        (entry.rounds / ".0002.removed").mkdir()
        with entry.training(until=lambda: False, waiting=lambda: None):
            assert list(entry.rounds.iterdir()) == []


def test_hard_links_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(1000))
    os.link(tmp_path / "one", tmp_path / "two")
    assert disk_usage(tmp_path) == 1000


def test_an_unusable_cache_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"store\.cache=DIR"), open_entry(tmp_path / "file", "k", {}, 1):
        pass


STRANGE = (".DS_Store", "._0001", "Thumbs.db", "0001~", ".0001.swp", "notes")


def strew(folder: Path) -> set[str]:
    """Put what file managers, editors and file systems leave into a folder; returns the names of all that is there."""
    for name in STRANGE:
        (folder / name).write_bytes(b"\xff\x00")
    (folder / "lost+found").mkdir()
    (folder / "lost+found" / "big").write_bytes(bytes(3_000_000))
    return {path.name for path in folder.iterdir()}


def test_strange_files_in_a_cache_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, "a", 100)
    home = tmp_path / "federations"
    with open_entry(tmp_path, "k", {}, 1000) as entry:
        before = {folder: strew(folder) for folder in (entry.rounds, entry.folder, entry.folder / "leases", home)}
        (entry.rounds / ".0003.partial").mkdir()
        (entry.rounds / ".0004.removed").write_text("")  # a file, whoever made it
        with entry.training(until=lambda: False, waiting=lambda: None):
            assert entry.stored() == []
        entry.tidy(below=9)
        for folder, names in before.items():
            assert {path.name for path in folder.iterdir()} >= names
        assert {path.name for path in entry.rounds.iterdir()} == before[entry.rounds]
    assert sorted(prune(home, 1e-9)) == ["a", "k"]
    assert {path.name for path in home.iterdir()} == (before[home] | {".lock", ".locks"}) - {"a", "k"}


@pytest.mark.parametrize("text", ["", "{", "[1, ", "7", "null", '["x"]', "[[1]]", '{"rounds": [1]}', "\0\0"])
def test_a_damaged_list_of_rounds_to_keep_loses_none(text: str, tmp_path: Path) -> None:
    with open_entry(tmp_path, "k", {}, 1000) as entry:
        for number in (1, 2, 3):
            (entry.rounds / f"{number:04d}").mkdir()
        entry.keep({1})
        assert entry.kept() == {1}
        (entry.folder / "keep.json").write_text(text)
        entry.drop(below=9)
        assert entry.stored() == [1, 2, 3]
        entry.keep({3})
        assert entry.kept() == {1, 2, 3}


def test_a_changed_list_of_rounds_to_keep_is_found(tmp_path: Path) -> None:
    with open_entry(tmp_path, "k", {}, 1000) as entry:
        (entry.rounds / "0001").mkdir()
        entry.keep({1, 7})
        path = entry.folder / "keep.json"
        path.write_text(path.read_text().replace("[1", "[2"))
        assert entry.kept() == {1}, "all there are"
        path.write_text("[7]")  # as it was written before it had a checksum
        assert entry.kept() == {7}


@pytest.mark.parametrize("name", ["keep.json", "keep.lock", "train.lock"])
def test_a_folder_in_the_place_of_a_file_is_named(name: str, tmp_path: Path) -> None:
    with open_entry(tmp_path, "k", {}, 1000) as entry:
        (entry.folder / name).mkdir()
        with pytest.raises(RunError, match=name), entry.training(lambda: False, lambda: None):
            entry.keep({1})


@pytest.mark.parametrize("name", ["rounds", "leases", "training.json"])
def test_a_file_in_the_place_of_a_folder_is_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "federations" / "k"
    folder.mkdir(parents=True)
    if name == "training.json":
        (folder / name).mkdir()
    else:
        (folder / name).write_text("")
    with pytest.raises(RunError, match=r"cannot be used .*store\.cache=DIR"), open_entry(tmp_path, "k", {}, 1000):
        pass


@pytest.mark.parametrize("name", ["", "rounds"])
def test_nothing_is_written_or_deleted_through_a_link(name: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "0001").mkdir(parents=True)
    link = tmp_path / "cache" / "federations" / "abc" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link"), open_entry(tmp_path / "cache", "abc", {}, 1.0):
        pass
    assert [path.name for path in elsewhere.iterdir()] == ["0001"]


def test_a_pipe_in_a_cache_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "federations").mkdir()
    os.mkfifo(tmp_path / "federations" / ".locks")
    with pytest.raises(RunError, match="cannot be used"), open_entry(tmp_path, "abc", {}, 1.0):
        pass
