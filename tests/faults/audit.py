"""Known faults of the packages we depend on: fails only where a version with a fix exists (``make audit``).

It asks the public advisory service, which CI here cannot reach: it is for releases, and for machines with a network.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> int:
    """Run pip-audit over the environment and judge what it says. Returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--strict", "--skip-editable", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        print(f"The audit could not be done:\n{done.stderr.strip()}", file=sys.stderr)
        return 2
    mendable = False
    for package in found:
        for fault in package.get("vulns", []):
            fixes = ", ".join(fault.get("fix_versions", []))
            mendable = mendable or bool(fixes)
            remedy = f"fixed in {fixes}" if fixes else "no fix yet"
            print(f"{package['name']} {package['version']}: {fault['id']}, {remedy}")
    print(f"{len(found)} packages looked at; {'some have' if mendable else 'none has'} a fault that an update mends.")
    return int(mendable)


if __name__ == "__main__":
    sys.exit(main())
