"""Files and folders that are there whole or not at all."""

import pytest

from xraycomp.data.files import atomic_folder, atomic_path


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("other")
        raise RuntimeError
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("a.txt", "half")]


def test_a_folder_that_another_process_finished_first_is_kept(tmp_path):
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "mine").touch()
        with atomic_folder(tmp_path / "a") as other:
            (other / "first").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["first"]


def test_a_folder_that_cannot_take_its_name_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OSError, match="a"), atomic_folder(tmp_path / "a") as temporary:
        (temporary / "mine").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
