"""README and the pages on models and on boxes: what they print, and their commands, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

from image_sync_server.mvi.server import MviServer
from support import plates

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS, DETECTION = ((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("models", "detection"))
ADDRESS = "http://127.0.0.1:8080"
"""What the pages call the server; each test has one of its own."""
PIECE = re.compile(
    r"<!-- (?:file (?P<file>\S+)|runs) -->\n```(?:json|sh)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def follow(text: str, folder: Path, url: str) -> str:
    """Write the files and run the commands of a text in their order; what they print."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("VAPI_", "NOTIFY_"))}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    said = []
    for piece in PIECE.finditer(text):
        if piece["file"]:
            assert ADDRESS in piece["text"]
            (folder / piece["file"]).write_text(piece["text"].replace(ADDRESS, url))
            continue
        done = subprocess.run(
            ["sh", "-eu", "-c", piece["text"]],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{piece['text']}\n{done.stdout}"
        assert "Traceback" not in done.stdout
        said.append(done.stdout)
    return "\n".join(said)


def is_drawn(path: Path) -> bool:
    """Whether it is a picture with something in it."""
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(1 << 24) or ()) > 10


def test_the_page_leads_from_pictures_to_a_deployed_model(tmp_path: Path, server: MviServer) -> None:
    """Each command works: pictures are trained on, a model is judged, deployed, asked, plotted, exported."""
    shutil.copytree(ROOT / "images", tmp_path / "images")
    said = follow(MODELS, tmp_path, server.url)

    assert "Now it would upload 60 picture(s)" in said
    assert "deployed: no other model of this name was deployed" in said
    assert "continues from plates-" in said
    assert re.search(r"images/scratch/\S+ +scratch +0\.\d", said)
    assert re.search(r"plates-\S+ \(in category good", said)
    answers = json.loads((tmp_path / "predictions.json").read_text())
    assert {answer["predictions"][0]["category"] for answer in answers} == {"good"}
    assert is_drawn(tmp_path / "training.png")
    assert is_drawn(tmp_path / "models.png")
    assert zipfile.is_zipfile(tmp_path / "plates.zip")
    assert "is imported, its id is" in said


def test_the_page_about_boxes_leads_to_objects_found(tmp_path: Path, server: MviServer) -> None:
    """Each command works: boxes are checked, uploaded, learned, found on pictures, and written as COCO and YOLO."""
    pictures = plates.make(tmp_path / "plates", 40, 1)
    said = follow(DETECTION, tmp_path, server.url)

    assert "model.deployed" in said
    assert re.search(r"plates/plate-0001\.jpg +(dent|hole|screw) +[01]\.\d", said)
    assert is_drawn(tmp_path / "found/plate-0001-boxes.png")
    assert is_drawn(tmp_path / "boxes.png")
    (coco,) = (tmp_path / "plates-coco").rglob("*.json")
    assert len(json.loads(coco.read_text())["images"]) == len(pictures)
    assert len(list((tmp_path / "plates-yolo").rglob("*.jpg"))) == len(pictures)


def test_status_prints_what_readme_shows(tmp_path: Path, server: MviServer) -> None:
    """Sixty pictures sent and trained on, nine that wait and a broken one: the lines are those of README's example."""
    (shown,) = re.findall(r"```console\n\$ image-sync status\n(.*?)```", README, re.DOTALL)
    folder = tmp_path / "pictures"
    for kind in ("good", "scratch", "spot"):
        shutil.copytree(ROOT / "images" / kind, folder / kind)
    whole = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert whole is not None
    quick = {"time": 0.2, "watch": {"settle": 0.2}, "model": {"poll": 0.2, "strategy": {"max_iter": 50}}}
    configuration = json.loads(whole[1]) | {"credentials": {"endpoint": server.url}, "state": "state"} | quick
    (tmp_path / "configuration.json").write_text(json.dumps(configuration))
    again = "<!-- runs -->\n```sh\nimage-sync run --once\n```\n"
    follow(again, tmp_path, server.url)
    for kind, number in (("good", 4), ("scratch", 3), ("spot", 2)):
        for path in sorted((ROOT / "images" / kind).iterdir())[:number]:
            with Image.open(path) as image:
                image.resize((90, 90)).save(folder / kind / f"new-{path.name}")
    (folder / "good/plate-0061.jpg").write_bytes((ROOT / "images/good/plate-0011.jpg").read_bytes()[:2000])
    said = follow(
        again.replace("--once", "--once || true") + again.replace("run --once", "status"), tmp_path, server.url
    )

    said = said.replace(str(tmp_path), "/srv/line1").replace(server.url, "http://127.0.0.1:18080")
    told = [line.rstrip() for line in said.splitlines()]
    passing = re.compile(r"^(daemon|dataset|training|  +plates-)")
    lines = [line for line in shown.splitlines() if not passing.match(line)]
    assert len(lines) > 12
    assert [line for line in lines if line not in told] == []
    assert "training  0 / 24, short by 24: " in said
    assert "training  0 / 24, short by 24: " in shown


def test_every_command_of_the_pages_is_run() -> None:
    """But for the server, which the tests start themselves, no block of commands stands there unmarked."""
    for text in (MODELS, DETECTION):
        blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        run = [piece["text"] for piece in PIECE.finditer(text) if not piece["file"]]

        assert [block for block in blocks if block not in run] in ([], ["image-sync serve\n"])
        assert run
