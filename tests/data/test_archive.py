"""Unpacking: once, safely, whole or not at all. The zips are real and written by the tests."""

import shutil
import stat
import zipfile

import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.archive import unpack

# Incompressible, so that a damaged byte is a damaged value and not a broken Huffman code.
FILES = {"set/train/a/1.png": bytes(range(256)) * 8, "set/sample.csv": b"name,target\n1,0\n"}


def write_zip(path, files=FILES, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
    }


def test_a_zip_is_unpacked_with_its_contents(tmp_path):
    root = unpack(write_zip(tmp_path / "set.zip"), tmp_path / "raw")
    assert root.parent == tmp_path / "raw"
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert found == FILES


def test_a_second_call_reuses_the_folder_without_touching_a_file(tmp_path):
    archive = write_zip(tmp_path / "set.zip")
    root = unpack(archive, tmp_path / "raw")
    before = tree(tmp_path / "raw")
    moved = archive.rename(tmp_path / "renamed.zip")
    assert unpack(moved, tmp_path / "raw") == root
    assert tree(tmp_path / "raw") == before


def test_a_second_call_unpacks_nothing(tmp_path):
    archive = write_zip(tmp_path / "set.zip")
    root = unpack(archive, tmp_path / "raw")
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF  # in the first member: unpacking it would fail
    archive.write_bytes(content)
    assert unpack(archive, tmp_path / "raw") == root


def test_what_the_disk_cannot_hold_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "set.zip")
    total = sum(map(len, FILES.values()))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=total - 1))
    with pytest.raises(UserError, match="Free some space"):
        unpack(archive, tmp_path / "raw")
    assert tree(tmp_path / "raw") == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=total))
    assert unpack(archive, tmp_path / "raw").is_dir()


def test_a_changed_zip_gets_a_new_folder_and_the_old_one_stays(tmp_path):
    archive = write_zip(tmp_path / "set.zip")
    old = unpack(archive, tmp_path / "raw")
    write_zip(archive, {**FILES, "set/sample.csv": b"name,target\n1,1\n"})
    new = unpack(archive, tmp_path / "raw")
    assert new != old
    assert (new / "set/sample.csv").read_bytes() == b"name,target\n1,1\n"
    assert (old / "set/sample.csv").read_bytes() == FILES["set/sample.csv"]


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "set/../../evil.png", "/evil.png", "..\\evil.png", "C:\\evil.png", "C:evil"],
)
def test_a_path_out_of_the_folder_is_refused_and_nothing_is_left(tmp_path, name):
    archive = write_zip(tmp_path / "set.zip", {**FILES, name: b"evil"})
    with pytest.raises(UserError, match="unsafe path"):
        unpack(archive, tmp_path / "raw")
    assert list(tmp_path.rglob("*")) == [archive]


def test_a_link_is_refused_and_nothing_is_left(tmp_path):
    archive = tmp_path / "set.zip"
    write_zip(archive)
    link = zipfile.ZipInfo("set/link")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as source:
        source.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="the link 'set/link'"):
        unpack(archive, tmp_path / "raw")
    assert list(tmp_path.rglob("*")) == [archive]


def test_more_than_the_limit_is_refused_and_exactly_the_limit_is_not(tmp_path):
    archive = write_zip(tmp_path / "set.zip")
    total = sum(map(len, FILES.values()))
    with pytest.raises(UserError, match="above the limit"):
        unpack(archive, tmp_path / "raw", max_bytes=total - 1)
    assert list(tmp_path.rglob("*")) == [archive]
    assert unpack(archive, tmp_path / "raw", max_bytes=total).is_dir()


def cut(raw):
    return raw[: len(raw) // 2]


def change_content(raw):
    """One byte of the first file, past its header: the zip's directory stays whole."""
    at = raw.index(b"1.png") + 200
    return raw[:at] + bytes([raw[at] ^ 255]) + raw[at + 1 :]


def encrypt(raw):
    """Set the encryption bit of every member, in local headers and in the directory."""
    changed = bytearray(raw)
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = raw.find(mark)
        while at >= 0:
            changed[at + offset] |= 1
            at = raw.find(mark, at + 1)
    return bytes(changed)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("damage", [cut, change_content, encrypt, lambda raw: b"no zip at all"])
def test_a_damaged_zip_is_one_sentence_and_nothing_is_left(tmp_path, damage, compression):
    archive = write_zip(tmp_path / "set.zip", compression=compression)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match=r"set\.zip") as caught:
        unpack(archive, tmp_path / "raw")
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.name != "raw"] == [archive]


def test_a_name_that_is_both_a_file_and_a_folder_is_refused(tmp_path):
    archive = write_zip(tmp_path / "set.zip", {"a": b"file", "a/b.png": b"below it"})
    with pytest.raises((UserError, OSError)):
        unpack(archive, tmp_path / "raw")
    assert [path for path in tmp_path.rglob("*") if path.name != "raw"] == [archive]
