"""What a configuration needs to know, and the file that says it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_sync import config
from image_sync.config.problems import printable
from image_sync.errors import ConfigError, UsageError


@dataclass(slots=True)
class Answers:
    """What is known so far; ``apart`` names the credentials that go into files of their own."""

    platform: str = "mvi"
    endpoint: str | None = None
    credentials: dict[str, Any] = field(default_factory=dict)
    apart: dict[str, Path] = field(default_factory=dict)
    sagemaker: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    dataset: str | None = None
    threshold: dict[str, int] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)

    def data(self) -> bytes:
        """The configuration file."""
        if self.platform == "sagemaker":
            where: dict[str, Any] = {"sagemaker": self.sagemaker}
        else:
            where = {"credentials": {"endpoint": self.endpoint, **self.credentials}}
        document = {
            "_comment": "Written by image-sync init; every further key is described by: image-sync schema",
            **({} if self.platform == "mvi" else {"platform": self.platform}),
            **where,
            "threshold": self.threshold,
            "dataset": {"name": self.dataset},
            "model": self.model,
            "folders": self.folders,
        }
        return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")

    def write(self, output: Path, *, force: bool) -> config.Settings:
        """Write the file, unless it could not be used. Raises ConfigError, UsageError."""
        try:
            config.parse(self.data(), output)
        except ConfigError as error:
            raise ConfigError(error.what, hint="Nothing was written") from None
        with contextlib.ExitStack() as undo:
            for name, file in self.apart.items():
                fresh, content = not file.exists(), f"{self.credentials[name]}\n".encode()
                if fresh or file.read_bytes() != content:
                    _put(file, content, force=force)
                self.credentials[name] = {"credential": file.name}
                if fresh:
                    undo.callback(file.unlink, missing_ok=True)
            _put(output, self.data(), force=force)
            undo.pop_all()
        return config.load(output)


def _put(path: Path, data: bytes, *, force: bool) -> None:
    """Make the file appear whole, readable only by its owner; never over another one unless forced."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(f"{printable(str(path.parent))} cannot be written to: {error.strerror}") from None
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if not force:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # a rename alone would overwrite
        temporary.replace(path)
    except FileExistsError:
        raise UsageError(f"{printable(str(path))} exists already", hint="Use --force to overwrite it") from None
    except OSError as error:
        raise UsageError(f"{printable(str(path))} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
