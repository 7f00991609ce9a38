"""Makes a Python process as poor as a kernel without internet.

The rehearsal copies this module to a folder of PYTHONPATH under the name ``sitecustomize``, which
every Python process loads when it starts, child processes too; only then does it do anything.
Python's own library alone may be used here.
"""

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

NOT_ON_KAGGLE = ("kaggle", "kagglehub", "kagglesdk", "slugify", "tyro")
"""What code inside a kernel may not lean on: the clients log in, the flag parser is not there."""


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in NOT_ON_KAGGLE:
            message = f"No module named {name!r}: code inside a kernel must do without it"
            raise ModuleNotFoundError(message, name=name)
        if name != "xraycomp":
            return None
        spec = PathFinder.find_spec(name, path)
        # The bundle is unpacked to a temporary folder; any other xraycomp is not what is sent.
        home = Path(os.environ["TMPDIR"]).resolve()
        if spec is None or home not in Path(spec.origin or "").resolve().parents:
            raise ModuleNotFoundError("No module named 'xraycomp' outside the bundle", name=name)
        return spec


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        _refuse_unless_local(args[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        _refuse_unless_local((args[0],))


def _refuse_unless_local(address: Any) -> None:
    # Only internet addresses are tuples that start with a text.
    host = address[0] if isinstance(address, tuple) and address else None
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host in ("", "localhost", socket.gethostname()):
        return
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
        if ip.is_loopback or ip.is_unspecified:
            return
    except ValueError:
        pass
    raise OSError(errno.ENETUNREACH, f"Network is unreachable: a kernel has no internet ({host})")


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _Finder)
    sys.addaudithook(_audit)  # cannot be taken away again, unlike a patched function
