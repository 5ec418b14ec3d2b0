"""What others make of the same files and the same server.

Run as a program it is one of two yardsticks, and prints the seconds that it took: ``stream`` pushes all files through
one socket, ``multipart`` sends them as forms of 100, with requests and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import requests

_BATCH = 100
_PIECE = 65_536


def stream(url: str, root: Path) -> None:
    """Read every file and push it through one socket, as the body of one request."""
    files = sorted(_files(root))
    total = sum(path.stat().st_size for path in files)
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 80)) as line:
        line.sendall(f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {total}\r\n\r\n".encode())
        for path in files:
            line.sendall(path.read_bytes())
        # Answered only when the whole body before it has been read.
        line.sendall(f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := line.recv(_PIECE):
            answer += piece
    if answer.count(b"HTTP/1.1 200") != 2:
        raise SystemExit(f"the server said {answer[:200]!r}")


def multipart(url: str, root: Path, batch: int, threads: int) -> None:
    """Send every file in forms of so many, folder by folder: no checking, no hashing, nothing remembered."""
    jobs = []
    for folder in sorted({path.parent for path in _files(root)}):
        files = sorted(_files(folder))
        jobs += [files[begin : begin + batch] for begin in range(0, len(files), batch)]
    with requests.Session() as session, ThreadPoolExecutor(threads) as pool:
        session.trust_env = False
        list(pool.map(lambda files: _post(session, url, files), jobs))


def _post(session: requests.Session, url: str, files: Sequence[Path]) -> None:
    form = [("files", (path.name, path.read_bytes(), "image/jpeg")) for path in files]
    answer = session.post(url, files=form, timeout=60)
    answer.raise_for_status()
    if len(answer.json()["resultList"]) != len(files):
        raise SystemExit(f"the server said {answer.text[:200]}")


def _files(root: Path) -> Iterator[Path]:
    return (Path(folder, name) for folder, _, names in os.walk(root) for name in names)


def main() -> None:
    """One yardstick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=("stream", "multipart"))
    parser.add_argument("url")
    parser.add_argument("root", type=Path)
    parser.add_argument("--batch", type=int, default=_BATCH)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    if arguments.peer == "stream":
        stream(arguments.url, arguments.root)
    else:
        multipart(arguments.url, arguments.root, arguments.batch, arguments.threads)
    json.dump(time.perf_counter() - begun, sys.stdout)


if __name__ == "__main__":
    main()
