"""Configuration files as a whole: the predecessor's, every key's limits, everything wrong told at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from image_sync.config import Settings, load, parse
from image_sync.errors import EXIT_CONFIG, ConfigError
from support.configuration import document, mistakes, settings, warnings, write

DATA = Path(__file__).parent / "data"
SECRET = "S3CRET-canary"


def filled(name: str, folder: Path) -> str:
    """A document of the predecessor with its placeholders replaced, otherwise unchanged."""
    text = (DATA / name).read_text()
    for placeholder, value in (("url", "https://mvi.example.com"), ("username", "ann"), ("password", SECRET)):
        text = text.replace(f"<{placeholder}>", value)
    for name_ in ("one", "two"):
        text = text.replace("<path to root image folder>", str(folder / name_), 1)
    return text


@pytest.mark.parametrize("name", ["predecessor_example.json", "predecessor_template.json"])
def test_the_predecessors_documents_load_unchanged(tmp_path: Path, name: str) -> None:
    """README's complete example and the template of the predecessor mean what they say once they are filled in."""
    loaded = load(write(tmp_path, filled(name, tmp_path)), {"HOME": "/home/ann"})

    assert loaded.credentials.endpoint == "https://mvi.example.com:8000"
    assert loaded.credentials.username == "ann"
    assert loaded.credentials.password
    assert loaded.credentials.password.get_secret_value() == SECRET
    assert (loaded.threshold.upload, loaded.threshold.training) == (10, 3)
    assert (loaded.skip_duplicates, loaded.time) == (True, 10)
    assert (loaded.dataset.name, loaded.dataset.action) == ("classifier", "append")
    assert (loaded.model.name, loaded.model.action, loaded.model.strategy) == ("classifier", "retrain", {})
    assert loaded.folders == (tmp_path / "one", tmp_path / "two")
    assert loaded.categories == {"buildings": "buildings"}


def test_a_missing_comma_is_told_with_its_place(tmp_path: Path) -> None:
    """The predecessor's other example lacks two commas: both are told by line and column, and nothing else is."""
    text = filled("predecessor_hidden_example.json", tmp_path)

    with pytest.raises(ConfigError) as raised:
        load(write(tmp_path, text), {})

    assert [line.removeprefix(str(tmp_path)) for line in raised.value.what.splitlines()] == [
        "/configuration.json:21:24: a comma is missing here; every entry but the last ends with one",
        "/configuration.json:29:29: a comma is missing here; every entry but the last ends with one",
    ]


def test_the_predecessors_other_example_loads_with_its_commas(tmp_path: Path) -> None:
    """With the two commas added it loads, comments, trailing comma and all."""
    lines = filled("predecessor_hidden_example.json", tmp_path).splitlines()
    lines[20] += ","
    lines[28] += ","

    loaded = load(write(tmp_path, "\n".join(lines)), {})

    assert loaded.recursive
    assert loaded.model.action == "retrain"
    assert loaded.folders == (Path("/Users/ann/projects/powerai-data-sync/images"),)


def test_untouched_placeholders_are_mistakes(tmp_path: Path) -> None:
    """A template that was copied but not filled in is refused, placeholder by placeholder."""
    with pytest.raises(ConfigError) as raised:
        load(write(tmp_path, (DATA / "predecessor_example.json").read_text()), {})

    lines = raised.value.what.splitlines()
    assert len(lines) == 5
    assert all("placeholder" in line for line in lines)
    assert raised.value.exit_code == EXIT_CONFIG


def test_five_mistakes_are_five_lines(tmp_path: Path) -> None:
    """Everything wrong is told at once, in the order of the file: file, line, key, value, remedy."""
    text = """{
  "credentials": {"endpoint": "ftp://mvi", "pasword": "S3CRET-canary"},
  "treshold": {},
  "threshold": {"upload": "3"},
  "time": true,
  "dataset": {"name": "classifier"}, "folders": ["pictures"]
}"""
    path = write(tmp_path, text)

    with pytest.raises(ConfigError) as raised:
        load(path, {})

    assert raised.value.what.splitlines() == [
        f'{path}:2: credentials.endpoint: "ftp://mvi" begins with ftp://; write https:// or http://',
        f'{path}:2: credentials.pasword: is not a known key; did you mean "password"?',
        f'{path}:3: treshold: is not a known key; did you mean "threshold"?',
        f'{path}:4: threshold.upload: "3" is not a whole number; write one without quotation marks, such as 3',
        f"{path}:5: time: true is not a number; write one without quotation marks, such as 10",
    ]


def test_mistakes_of_writing_and_of_meaning_are_told_together(tmp_path: Path) -> None:
    """A missing comma, a key given twice and an infinite number do not hide a wrong value elsewhere."""
    path = write(
        tmp_path, '{"time": NaN\n"time": 3,\n"threshold": {"train": 0},\n"dataset": {"name": "d"}, folders: ["p"]}'
    )

    with pytest.raises(ConfigError) as raised:
        load(path, {"VAPI_BASE_URI": "https://mvi"})

    assert [line.removeprefix(f"{path}:").split(";")[0] for line in raised.value.what.splitlines()] == [
        "1:10: NaN is not a number that can be counted with",
        "1:13: a comma is missing here",
        "2:1: this key is given twice, first in line 1",
        "3: threshold.train: 0 is too small",
    ]


def test_defaults(tmp_path: Path) -> None:
    """What a file leaves out has the documented default."""
    loaded = settings(tmp_path)

    assert loaded.platform == "mvi"
    assert (loaded.threshold.upload, loaded.threshold.training) == (1, 10)
    assert (loaded.skip_duplicates, loaded.recursive, loaded.time, loaded.shutdown) == (True, True, 10, 20)
    assert (loaded.category_from, loaded.deletions) == ("first", "keep")
    assert (loaded.model.name, loaded.model.action, loaded.model.nn_arch) == ("classifier", "train", None)
    assert (loaded.model.grace, loaded.model.cooldown, loaded.model.max_per_day, loaded.model.poll) == (
        600,
        0,
        None,
        15,
    )
    assert (loaded.watch.mode, loaded.watch.settle, loaded.watch.rescan, loaded.watch.poll) == ("auto", 2, 300, 10)
    assert (loaded.watch.validation, loaded.watch.max_pixels, loaded.watch.max_bytes) == (
        "header",
        50_000_000,
        200 << 20,
    )
    assert (loaded.upload.batch_files, loaded.upload.batch_bytes, loaded.upload.grace) == (500, 32 << 20, 180)
    assert (loaded.upload.names, loaded.upload.parallel, loaded.upload.max_wait, loaded.upload.timeout) == (
        "key",
        4,
        300,
        60,
    )
    assert loaded.credentials.verify_tls
    assert loaded.warnings == ()


NUMBERS: list[tuple[str, Any, bool]] = [
    ("threshold.upload", 1, True),
    ("threshold.upload", 0, False),
    ("threshold.upload", -1, False),
    ("threshold.upload", 2.5, False),
    ("threshold.upload", True, False),
    ("threshold.upload", "3", False),
    ("threshold.upload", " 5_0 ", False),
    ("threshold.upload", "٣", False),
    ("threshold.upload", None, False),
    ("threshold.upload", 10**12, False),
    ("threshold.training", 10**9, True),
    ("threshold.training", 10**9 + 1, False),
    ("time", 0, True),
    ("time", 0.5, True),
    ("time", -0.1, False),
    ("time", 10**12, False),
    ("time", "10", False),
    ("time", False, False),
    ("skip_duplicates", 0, True),
    ("skip_duplicates", 1, True),
    ("skip_duplicates", False, True),
    ("skip_duplicates", 2, False),
    ("skip_duplicates", "1", False),
    ("skip_duplicates", 1.0, False),
    ("skip_duplicates", None, False),
    ("recursive", True, True),
    ("recursive", "yes", False),
    ("credentials.port", 8000, True),
    ("credentials.port", "8000", True),
    ("credentials.port", None, True),
    ("credentials.port", 0, False),
    ("credentials.port", "0", False),
    ("credentials.port", 65536, False),
    ("credentials.port", "99999", False),
    ("credentials.port", "-1", False),
    ("credentials.port", "٨٠", False),
    ("credentials.port", 80.0, False),
    ("credentials.port", True, False),
    ("credentials.verify_tls", 1, False),
    ("model.max_per_day", None, True),
    ("model.max_per_day", 1, True),
    ("model.max_per_day", 0, False),
    ("model.poll", 0, False),
    ("watch.settle", 0, True),
    ("watch.rescan", 0.5, False),
    ("watch.poll", 0.05, False),
    ("upload.parallel", 32, True),
    ("upload.parallel", 33, False),
    ("upload.batch_files", 0, False),
    ("upload.timeout", 0, False),
]


@pytest.mark.parametrize(("key", "value", "good"), NUMBERS)
def test_numbers(tmp_path: Path, key: str, value: Any, good: bool) -> None:
    """A number must be one, be whole where it counts things, and lie in its range; switches take 0 and 1 too."""
    section, _, name = key.rpartition(".")
    base = document(tmp_path).get(section, {})
    changes = {section: {**base, name: value}} if section else {name: value}

    if good:
        loaded = settings(tmp_path, **changes)
        found = getattr(getattr(loaded, section) if section else loaded, name)
        assert found == (int(value) if isinstance(value, str) else value)
    else:
        (mistake,) = mistakes(tmp_path, **changes)
        assert mistake.startswith(f"{key}: ")
        assert "write" in mistake


def test_a_threshold_may_be_called_train(tmp_path: Path) -> None:
    """`train` is `training`; both with one value are fine, both with two values are a mistake."""
    assert settings(tmp_path, threshold={"train": 7}).threshold.training == 7
    assert settings(tmp_path, threshold={"train": 7, "training": 7}).threshold.training == 7
    assert mistakes(tmp_path, threshold={"train": 7, "training": 8}) == [
        "threshold: has both training and train, with different values; keep training"
    ]


def test_an_upload_threshold_above_the_training_threshold_is_told(tmp_path: Path) -> None:
    """It works, but surprises: so it is a warning."""
    (warning,) = warnings(tmp_path, threshold={"upload": 20, "training": 5})

    assert warning.startswith("threshold.upload: 20 is more than the 5 of threshold.training")


@pytest.mark.parametrize("value", ["none", "nothing", None])
def test_no_training_has_three_names(tmp_path: Path, value: str | None) -> None:
    """`none`, `nothing` and null all mean: only upload."""
    assert settings(tmp_path, model={"action": value}).model.action == "none"


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"folder": ["x"]}, 'folder: is not a known key; did you mean "folders"?'),
    ({"Threshold": {}}, 'Threshold: is not a known key; did you mean "threshold"?'),
    ({"threshold": {"trian": 1}}, 'threshold.trian: is not a known key; did you mean "train"?'),
    ({"comment": "x"}, 'comment: is not a known key; did you mean "_comment"?'),
    ({"batch_files": 3}, "batch_files: is not a known key here; did you mean upload.batch_files?"),
    ({"model": {"folders": []}}, 'model.folders: is not a known key here; "folders" stands at the outermost level'),
    ({"watch": {"a b": 1}}, 'watch["a b"]: is not a known key; known here are mode, settle, rescan'),
]


@pytest.mark.parametrize(("changes", "expected"), UNKNOWN)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    """A misspelt or misplaced key is a mistake that says what was probably meant."""
    (mistake,) = mistakes(tmp_path, **changes)

    assert mistake.startswith(expected)


def test_comments_may_stand_anywhere(tmp_path: Path) -> None:
    """Keys that begin with an underscore, and $schema, are ignored in every section."""
    changes = document(tmp_path, **{"$schema": "x", "_comment": ["a"], "model": {"strategy": {"_why": None}, "_x": {}}})
    changes["credentials"]["_comment"] = "x"
    changes["categories"] = {"_comment": "x", "a": "b"}

    loaded = load(write(tmp_path, changes), {})

    assert loaded.categories == {"a": "b"}
    assert loaded.model.strategy == {}


NAMES: list[tuple[str, bool]] = [
    ("classifier", True),
    ("Prüfung \N{GEAR} 日本", True),
    ('a/b, "c"', True),
    ("CON", True),
    ("", False),
    ("   ", False),
    (" x", False),
    ("x ", False),
    ("x\ny", False),
    ("x\0", False),
    ("\ud800", False),
    ("x" * 200, True),
    ("x" * 201, False),
    ("<name_of_model>", False),
]


@pytest.mark.parametrize(("name", "good"), NAMES)
def test_names(tmp_path: Path, name: str, good: bool) -> None:
    """Datasets, models and categories take any printable name up to 200 characters without spaces at its ends."""
    for changes in ({"dataset": {"name": name}}, {"model": {"name": name}}, {"categories": {"folder": name}}):
        if good:
            settings(tmp_path, **changes)
        else:
            (mistake,) = mistakes(tmp_path, **changes)
            assert mistake.isprintable()


def test_names_are_compared_in_one_form(tmp_path: Path) -> None:
    """A name typed on macOS (decomposed) and one typed elsewhere (composed) are the same name."""
    assert settings(tmp_path, dataset={"name": "Pru\N{COMBINING DIAERESIS}fung"}).dataset.name == "Prüfung"


TWINS = [
    {"a": "Crack", "b": "crack"},
    {"Pru\N{COMBINING DIAERESIS}fung": "a", "Prüfung": "b"},
]


@pytest.mark.parametrize("categories", TWINS)
def test_category_twins_are_mistakes(tmp_path: Path, categories: dict[str, str]) -> None:
    """Two categories or folders that a person cannot tell apart are refused, naming both."""
    (mistake,) = mistakes(tmp_path, categories=categories)

    assert mistake.startswith("categories: has the ")


@pytest.mark.parametrize(
    "categories", [{"a/b": "x"}, {"..": "x"}, {"": "x"}, {"a\nb": "x"}, {"a": 3}, {"a": ""}, ["a"]]
)
def test_categories_map_folder_names_to_names(tmp_path: Path, categories: Any) -> None:
    """Keys must be names of folders, values names of categories."""
    (mistake,) = mistakes(tmp_path, categories=categories)

    assert mistake.startswith("categories")


def test_two_folders_may_share_a_category(tmp_path: Path) -> None:
    """Several folder names may mean one category."""
    assert settings(tmp_path, categories={"a": "x", "b": "x"}).categories == {"a": "x", "b": "x"}


STRATEGY: list[tuple[dict[str, Any], str, str | None]] = [
    ({"max_iter": 100}, "", None),
    ({"max_iter": 99}, "", "model.strategy.max_iter: 99 is outside the documented range, 100 to 10000"),
    ({"max_iter": 50_000}, "", "model.strategy.max_iter: 50000 is outside the documented range, 100 to 10000"),
    ({"max_iter": 50_000}, "frcnn", None),
    ({"learning_rate": 0}, "", "model.strategy.learning_rate: 0 is outside the documented range, more than 0 to 0.01"),
    ({"learning_rate": 0.01}, "", None),
    (
        {"weight_decay": 0.5},
        "",
        "model.strategy.weight_decay: 0.5 is outside the documented range, more than 0 to less",
    ),
    ({"ratio": 0.4}, "", "model.strategy.ratio: 0.4 is outside the documented range, 0.5 to 1"),
    ({"test_iter": 0}, "", "model.strategy.test_iter: 0 is outside"),
    ({"momentum": 1.0}, "", None),
    ({"max_iter": "1500"}, "", 'model.strategy.max_iter: "1500" is not a number'),
    ({"max_iter": True}, "", "model.strategy.max_iter: true is not a number"),
    ({"anything": "else"}, "", None),
]


@pytest.mark.parametrize(("strategy", "nn_arch", "warning"), STRATEGY)
def test_strategy_is_passed_on_with_doubts(
    tmp_path: Path, strategy: dict[str, Any], nn_arch: str, warning: str | None
) -> None:
    """Hyper-parameters are kept as they are; what lies outside IBM's documented range is a warning."""
    loaded = settings(tmp_path, model={"strategy": strategy, **({"nn_arch": nn_arch} if nn_arch else {})})

    assert loaded.model.strategy == strategy
    assert [line.split(": ", 1)[1][: len(warning or "")] for line in loaded.warnings] == ([warning] if warning else [])


@pytest.mark.parametrize("value", [[1], {"a": 1}, None])
def test_strategy_holds_single_values(tmp_path: Path, value: Any) -> None:
    """Lists, objects and null are no hyper-parameters."""
    (mistake,) = mistakes(tmp_path, model={"strategy": {"x": value}})

    assert mistake.startswith("model.strategy.x: ")


ARCHITECTURES = [
    ("frcnn", True, 0),
    ("yolo_v3", True, 0),
    ("detectron2", True, 1),
    ("googlenet", False, 1),
    (None, False, 0),
]


@pytest.mark.parametrize(("nn_arch", "detection", "doubts"), ARCHITECTURES)
def test_architectures(tmp_path: Path, nn_arch: str | None, detection: bool, doubts: int) -> None:
    """Known detectors make a detection task; unknown architectures are passed on with a warning."""
    loaded = settings(tmp_path, model={"nn_arch": nn_arch})

    assert (loaded.model.nn_arch, loaded.model.is_detection) == (nn_arch, detection)
    assert len(loaded.warnings) == doubts


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("latest", True),
        ("none", True),
        (None, True),
        ("1f0c-ab_9", True),
        ("<pretrained_model_id>", False),
        ("../x", False),
    ],
)
def test_a_pretrained_model_is_an_id(tmp_path: Path, value: str | None, good: bool) -> None:
    """The id becomes part of an address, so it holds nothing that could change the address."""
    if good:
        assert settings(tmp_path, model={"pretrained_model": value}).model.pretrained_model == value
    else:
        assert mistakes(tmp_path, model={"pretrained_model": value})[0].startswith("model.pretrained_model: ")


def test_keys_of_later_versions_are_accepted_with_a_warning(tmp_path: Path) -> None:
    """A file written for a later version still runs; a wrong shape is a mistake even so."""
    assert warnings(tmp_path, status={"listen": "127.0.0.1:8080"}, notify=["mailto://x"]) == [
        "status: belongs to a later version; this one ignores it",
        "notify: belongs to a later version; this one ignores it",
    ]
    assert mistakes(tmp_path, status=True, notify={}) == [
        "status: true is not an object; write { ... } with keys in it",
        "notify: an object is not a list; write another value",
    ]


SHAPES = [
    (b"", "the file is empty"),
    (b"null", "holds only null; write an object"),
    (b"[]", "holds only a list; write an object"),
    (b'"x"', 'holds only "x"; write an object'),
    (b"{}{}", ":1:3: there is text after the end of the document"),
    (b'{"credentials": {', ":1:17: this { has no }"),
    (b"\xff\xfe\x00\x00{\x00\x00\x00", "is written in UTF-32; save the file as UTF-8"),
    ('{"dataset": "Prüfung"}'.encode("latin-1"), "a byte that is not UTF-8 (0xfc in line 1); save the file as UTF-8"),
    ('{"a": 1}'.encode("utf-16-le"), "holds zero bytes"),
    (b"\xff\xfe{", "begins like UTF-16 but does not go on so"),
    (b" " * (1024 * 1024 + 1), "is larger than 1048576 bytes"),
    (b"[" * 100_000, "nested deeper than 64 levels"),
    (b'{"a":' * 100_000, "nested deeper than 64 levels"),
    (b'{"time": ' + b"9" * 5000 + b"}", "this number has 5000 characters"),
    (b'{"time": 1e999}', "this number is too large"),
]


@pytest.mark.parametrize(("content", "expected"), SHAPES)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, expected: str) -> None:
    """Whatever a file holds, the answer is a sentence that says what it is."""
    with pytest.raises(ConfigError) as raised:
        load(write(tmp_path, content), {})

    assert expected in raised.value.what.splitlines()[0] + raised.value.what.splitlines()[-1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """UTF-8 with or without a byte order mark, and UTF-16 with one, as Notepad writes them, are read alike."""
    text = json.dumps(document(tmp_path, dataset={"name": "Prüfung"}), ensure_ascii=False)

    assert load(write(tmp_path, text.encode(encoding)), {}).dataset.name == "Prüfung"


def test_a_missing_file_points_to_init(tmp_path: Path) -> None:
    """Whoever has no file yet learns how to get one."""
    with pytest.raises(ConfigError, match=r"does not exist\. `image-sync init` writes"):
        load(tmp_path / "no.json", {})


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A folder, a pipe without a writer and a device are refused at once."""
    os.mkfifo(tmp_path / "pipe")

    for path, expected in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a reg"),
    ):
        with pytest.raises(ConfigError, match=expected):
            load(path, {})


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    """Without the permission to read it, the message gives the system's reason."""
    path = write(tmp_path, document(tmp_path), mode=0)
    user = os.geteuid()
    if user == 0:  # root may read everything: be somebody else meanwhile
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            load(path, {})
    finally:
        os.seteuid(user)


def test_a_secret_that_others_can_read_is_told(tmp_path: Path) -> None:
    """Permissions matter when the file holds a secret, and only then."""
    path = write(tmp_path, document(tmp_path), mode=0o640)
    assert load(path, {}).warnings == (
        f"{path}: it holds a secret and can be read by other users; run: chmod 600 {path}",
    )

    without = document(tmp_path, credentials={"endpoint": "https://mvi.example.com", "api_key": {"env": "KEY"}})
    assert load(write(tmp_path, without, mode=0o644), {"KEY": SECRET}).warnings == ()


def test_a_file_that_all_can_change_is_refused(tmp_path: Path) -> None:
    """Whoever can change the configuration can send pictures anywhere: world-writable files are refused."""
    path = write(tmp_path, document(tmp_path), mode=0o666)

    with pytest.raises(ConfigError, match="can be changed by every user of this machine; run: chmod 600"):
        load(path, {})


def test_settings_are_frozen(tmp_path: Path) -> None:
    """Nothing changes settings after they are read."""
    loaded = settings(tmp_path)

    with pytest.raises(ValueError, match="frozen"):
        loaded.time = 3


def test_settings_can_be_made_without_a_file() -> None:
    """An object that is no file's content can be validated too, for other parts' tests."""
    made = Settings.model_validate(
        {"credentials": {"endpoint": "http://127.0.0.1:8000"}, "dataset": {"name": "d"}, "folders": ["/data"]}
    )

    assert made.credentials.endpoint == "http://127.0.0.1:8000"


def test_parse_reads_bytes_as_if_they_were_the_file(tmp_path: Path) -> None:
    """What is about to be written can be checked before it is."""
    data = json.dumps(document(tmp_path, folders=["pictures"])).encode()

    assert parse(data, tmp_path / "new.json", {}).folders == (tmp_path / "pictures",)


def test_max_wait_below_time_is_told(tmp_path: Path) -> None:
    """The quiet time can then never pass: a warning says so."""
    assert warnings(tmp_path, time=10, upload={"max_wait": 5}) == [
        "upload.max_wait: 5 is less than time, which then never passes"
    ]


def test_messages_cannot_drive_a_terminal(tmp_path: Path) -> None:
    """Control characters of a key or value are shown escaped."""
    for changes in (
        {"categories": {"\x1b]0;x\x07/": "a"}},
        {"a\x1b\n": 1},
        {"dataset": {"name": "d", "action": "\x9b"}},
    ):
        (mistake,) = mistakes(tmp_path, **changes)
        assert mistake.isprintable()
