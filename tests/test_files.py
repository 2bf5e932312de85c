"""Files appear whole or not at all."""

from __future__ import annotations

import pytest

from elit_edge.errors import RequestError
from elit_edge.files import appearing_file, refuse_existing


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path):
    path = tmp_path / "x.bin"
    with appearing_file(path, replace=False) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" whole")
    assert path.read_bytes() == b"half whole"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_content_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with appearing_file(path, replace=True) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"old"], ids=["no file before", "a file before"])
@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_block_early_leaves_things_as_they_were(raised, before, tmp_path):
    path = tmp_path / "x.bin"
    if before is not None:
        path.write_bytes(before)

    def write_half():
        with appearing_file(path, replace=True) as file:
            file.write(b"half")
            raise raised

    with pytest.raises(raised):
        write_half()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if before is None else [before])


def test_an_existing_file_is_refused_before_the_block_runs(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    ran = False
    with pytest.raises(RequestError, match="--force"), appearing_file(path, replace=False):
        ran = True
    assert not ran
    assert path.read_bytes() == b"old"


def place_without_folder(folder):
    return folder / "none" / "x.bin"


def place_below_a_file(folder):
    (folder / "file").write_bytes(b"")
    return folder / "file" / "x.bin"


def place_of_a_folder(folder):
    (folder / "x.bin" / "inside").mkdir(parents=True)
    return folder / "x.bin"


@pytest.mark.parametrize("place", [place_without_folder, place_below_a_file, place_of_a_folder])
def test_a_place_that_cannot_be_written_is_named_and_left_as_it_was(place, tmp_path):
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestError, match="choose another place") as caught, appearing_file(path, replace=True):
        pass
    assert str(path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_file_may_be_read_by_whoever_may_read_its_neighbours(tmp_path):
    neighbour, path = tmp_path / "neighbour", tmp_path / "x.bin"
    neighbour.write_bytes(b"")
    with appearing_file(path, replace=False):
        pass
    assert path.stat().st_mode == neighbour.stat().st_mode


def test_a_name_that_is_free_is_not_refused(tmp_path):
    refuse_existing(tmp_path / "x.bin", replace=False)


@pytest.mark.parametrize("make", ["touch", "mkdir"])
def test_a_name_that_is_taken_is_refused_unless_it_is_to_be_replaced(make, tmp_path):
    path = tmp_path / "x.bin"
    getattr(path, make)()
    with pytest.raises(RequestError, match=r"x\.bin exists; choose another name, or --force"):
        refuse_existing(path, replace=False)
    refuse_existing(path, replace=True)
