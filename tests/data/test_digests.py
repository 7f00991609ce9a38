"""Digests of files: those of the standard library, over the bytes of a file."""

import hashlib

from xraycomp.data.digests import sha256_file


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    for size in (0, 1, 300_000):
        content = bytes(i % 251 for i in range(size))
        (tmp_path / "a.bin").write_bytes(content)
        assert sha256_file(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()
