"""Several commands, one after the other."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from support.daemon import Plant, program


def one_by_one(plant: Plant, *calls: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    """What each command says; ``-c`` is added."""
    return [plant.call(*call) for call in calls]


def forked(calls: Sequence[Sequence[str]], environ: Mapping[str, str]) -> list[subprocess.CompletedProcess[str]]:
    """What each command line says."""
    return [program(*call, environ=environ, timeout=90) for call in calls]
