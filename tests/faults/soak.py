"""Two hundred kills among faults of every kind, on real processes: ``python tests/faults/soak.py --help``.

Not part of the test run: it takes some minutes. Ends with 1 if anything was lost, doubled, misplaced or trained on more
or less often than due.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(_TESTS))

from support.soak import Plan, Soak, clear  # noqa: E402 - found through the path set above


def main() -> int:
    """One run; 0 if nothing went wrong."""
    arguments = _arguments()
    plan = Plan(
        seed=arguments.seed,
        pictures=arguments.pictures,
        categories=arguments.categories,
        faults=arguments.faults,
        kills=arguments.kills,
        threshold=arguments.threshold or max(20, arguments.pictures // 25),
    )
    folder = Path(tempfile.mkdtemp(prefix="image-sync-soak-"))
    print(f"seed {plan.seed}, in {folder}", flush=True)
    with _server(folder / "server", plan.seed) as url:
        outcome = Soak(plan, folder / "plant", url, say=lambda text: print(text, flush=True)).run()
    print(outcome.table(plan))
    if outcome.good and not arguments.keep:
        clear(folder)
    print("good" if outcome.good else f"NOT good: see {folder}")
    return 0 if outcome.good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--categories", type=int, default=20)
    parser.add_argument("--faults", type=float, default=0.05, help="share of the uploads that meet a fault")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--threshold", type=int, default=0, help="pictures until a training; 0: 25 trainings in all")
    parser.add_argument("--keep", action="store_true", help="leave everything where it is")
    return parser.parse_args()


@contextmanager
def _server(data: Path, seed: int) -> Iterator[str]:
    serve = ("serve", "--port", "0", "--data", str(data), "--fault-seed", str(seed))
    command = [sys.executable, "-m", "support.soak_server", *serve]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VAPI_")}
    environ["PYTHONPATH"] = str(_TESTS)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit(f"the server did not start: {line!r}")
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
