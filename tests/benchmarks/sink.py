"""The server that everybody uploads to: nginx from Debian, which reads a form, answers its names, and forgets it.

Bodies are read whole into memory that is kept, and never reach a disk. The lists that image-sync asks for are fixed.
Each upload's time and names go into a log, from which it is seen what arrived, when, and whether anything came twice.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

CATEGORIES = 10
DATASET = "bench"
_MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
_PACKAGES = ("nginx-light", "libnginx-mod-http-js")
_LARGEST = "512m"
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""Memory that is given back to the system after each request has to be cleared by it for the next: that alone would
cost more than reading the request."""
_CONFIGURATION = """
{user}
load_module {module};
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  lingering_time 600s;
  default_type application/json;
  access_log off;
  js_path {scripts};
  js_import sink from sink.js;
  js_var $names;
  log_format arrival '$msec $names';
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location = /stream {{ return 200; }}
    location ~ ^/\\d+/api/datasets$ {{ return 200 '[{dataset}]'; }}
    location ~ ^/\\d+/api/datasets/{name}$ {{ return 200 '{dataset}'; }}
    location ~ ^/\\d+/api/datasets/{name}/categories$ {{ return 200 '{categories}'; }}
    location ~ ^/\\d+/api/(dltasks|trained-models)/?$ {{ return 200 '[]'; }}
    location ~ ^/(?<size>\\d+)/api/datasets/{name}/files$ {{
      client_body_buffer_size {largest};
      client_body_in_single_buffer on;
      access_log {folder}/arrivals.log arrival;
      js_content sink.upload;
    }}
  }}
}}
"""


class Arrival(NamedTuple):
    """One upload, as the server saw it."""

    at: float
    """Unix time, to the millisecond, at which its last byte had come and it was answered."""
    names: tuple[str, ...]


class Sink:
    """A running nginx; a context manager.

    Args:
        folder: where it keeps its files, made here.
        say: told what is installed, should nginx be missing.
    """

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        self._folder = folder
        _install(say)
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        configuration = folder / "nginx.conf"
        configuration.write_text(self._configuration())
        self._log = folder / "arrivals.log"
        with (folder / "said").open("wb") as said:
            self._process = subprocess.Popen(
                ["nginx", "-p", str(folder), "-c", str(configuration)],
                env={**os.environ, **_MEMORY},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def __enter__(self) -> Self:
        pause, until = threading.Event(), time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except ConnectionError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"nginx did not start: {(self._folder / 'said').read_text()}") from None
                pause.wait(0.02)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def endpoint(self, size: int) -> str:
        """The address of the server, for pictures of so many bytes each."""
        return f"http://127.0.0.1:{self._port}/{size}"

    @property
    def stream(self) -> str:
        """An address that takes one body of any length and does nothing with it."""
        return f"http://127.0.0.1:{self._port}/stream"

    @property
    def mark(self) -> int:
        """A place in the log: what arrives from now on comes behind it."""
        return self._log.stat().st_size

    def arrivals(self, mark: int) -> list[Arrival]:
        """The uploads that arrived since then, and were logged whole."""
        with self._log.open("rb") as log:
            log.seek(mark)
            whole, _, _ = log.read().rpartition(b"\n")
        lines = (line.split() for line in whole.decode().splitlines())
        return [Arrival(float(words[0]), tuple(words[1:])) for words in lines if words]

    def _configuration(self) -> str:
        dataset = {"_id": DATASET, "name": DATASET, "created_at": 1_700_000_000_000, "total_file_count": 0}
        return _CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "",  # the folder is ours alone
            module=_MODULE,
            folder=self._folder,
            scripts=Path(__file__).parent,
            port=self._port,
            name=DATASET,
            dataset=json.dumps(dataset),
            categories=json.dumps([{"_id": f"id-{name}", "name": name} for name in categories()]),
            largest=_LARGEST,
        )


def categories() -> list[str]:
    """The categories that the server knows."""
    return [f"c{number}" for number in range(CATEGORIES)]


def _install(say: Callable[[str], object]) -> None:
    if shutil.which("nginx") and _MODULE.exists():
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *_PACKAGES]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(f"nginx with its JavaScript module is needed. On Debian and Ubuntu: sudo {' '.join(command)}")
    say(" ".join(command))
    # A service that is started by the installation would take a port, and nobody would stop it.
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"nginx could not be installed: {done.stderr.strip()}\nIs the list of packages up to date?")
