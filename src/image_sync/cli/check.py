"""``image-sync check``: everything that can be proved before the daemon runs, and what it would do now."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from image_sync.cli import options
from image_sync.cli.present import counted
from image_sync.cli.removals import expected
from image_sync.cli.session import SECRETS, ledger_of, platform_of, settings_of
from image_sync.config import Settings
from image_sync.config.model import is_detection
from image_sync.daemon.assemble import watch_rules
from image_sync.domain import Tally
from image_sync.errors import EXIT_CONFIG, EXIT_DONE, EXIT_LEDGER, ImageSyncError, Unreadable, UsageError
from image_sync.ledger import Ledger
from image_sync.ledger.database import full
from image_sync.ledger.lock import holder_of
from image_sync.log import show_path, show_text
from image_sync.platforms.base import Platform
from image_sync.tracker import Thresholds, thresholds_of, training_verdict, upload_verdict
from image_sync.watcher.events import watch_limit
from image_sync.watcher.folders import open_folder, remote_filesystem
from image_sync.watcher.image_check import ImageCheck, examine
from image_sync.watcher.rules import Filter, Rules, not_taken

_STORED = "stored"
_MOST_READ = 5000
"""So many new files are read; of more only the names are counted."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``code`` is the exit code it would cause; 0 when it is as it should be."""

    subject: str
    text: str
    hint: str = ""
    code: int = EXIT_DONE
    warning: bool = False


@dataclass(slots=True)
class _Found:
    """What lies in one folder of the configuration."""

    pictures: int = 0
    bare: int = 0
    """New pictures that wait for their annotations."""
    annotated: int = 0
    """New pictures with a category that need not wait."""
    sorted: int = 0
    """Those that wait and lie in a category folder."""
    holding: int = 0
    """Folders with pictures in them."""
    folders: int = 0
    unreadable: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    """Pictures of formats that are not taken, and links to folders."""


class _News:
    """What the daemon has not seen yet, looked at as it would: broken files, copies and conflicts are no pictures.

    Args:
        ledger: of the configuration.
        rules: what counts as a picture.
        skip_duplicates: the setting.
    """

    def __init__(self, ledger: Ledger, rules: Rules, *, skip_duplicates: bool) -> None:
        self.ledger = ledger
        self._rules = rules
        self._skip_duplicates = skip_duplicates
        self._current = ledger.current()
        self._read = 0
        self._broken: list[tuple[bytes, str]] = []
        self._categories: dict[str, set[str]] = {}
        """Of each content that was read."""
        self._others: Counter[str] = Counter()
        """Files of which only the name counts."""

    @property
    def exact(self) -> bool:
        """Whether every new file was read."""
        return self._read <= _MOST_READ

    def known(self, folder: bytes) -> Collection[bytes]:
        """The files of a folder that need no look: none, where the records belong to another dataset."""
        return self.ledger.files.known(folder)[1] if self._current else ()

    def add(self, category: str, folder: bytes, names: Iterable[bytes]) -> None:
        """These new files lie in this folder."""
        for name in names:
            self._read += 1
            if not self.exact:
                self._others[category] += 1
                continue
            path = folder.rstrip(b"/") + b"/" + name
            try:
                verdict = self._examined(path)
            except OSError as error:
                verdict = ImageCheck(fault=f"it cannot be read: {error.strerror}")
            if verdict.fault:
                self._broken.append((path, verdict.fault))
            elif self._skip_duplicates:
                self._categories.setdefault(verdict.sha256, set()).add(category)
            else:
                self._others[category] += 1

    def sound(self) -> Counter[str]:
        """New pictures of each category that would be sent."""
        found = Counter(self._others)
        for digest, categories in self._categories.items():
            if len(categories) == 1 and not self.ledger.history.matching(digest):
                found.update(categories)
        return found

    def findings(self) -> Iterator[Finding]:
        """What is wrong with new files."""
        if self._broken:
            path, fault = self._broken[0]
            text = f"{len(self._broken)} new files cannot be used, such as {show_path(path)}: {fault}"
            hint = "The daemon sets them aside; `image-sync list` names them then."
            yield Finding("pictures", text, hint, warning=True)
        if conflicts := sum(len(categories) > 1 for categories in self._categories.values()):
            text = f"{conflicts} new pictures lie in several categories at once"
            yield Finding("pictures", text, "Keep each in one category, and delete its other copies.", warning=True)

    def _examined(self, path: bytes) -> ImageCheck:
        descriptor = os.open(path, _OPEN)
        try:
            size = os.fstat(descriptor).st_size
            found = examine(descriptor, size, os.path.basename(path), self._rules, threading.Event())
        finally:
            os.close(descriptor)
        return found or ImageCheck(fault="it was not read")


def check(
    config: options.Config = options.CONFIG,
    as_json: options.Json = False,
    policy: Annotated[
        bool, typer.Option("--policy", help="Only print the rights that AWS has to give (platform sagemaker).")
    ] = False,
) -> None:
    """Prove that the configuration works: file, state, folders, server, login. Changes nothing anywhere."""
    settings = settings_of(config)
    if policy:
        typer.echo(json.dumps(_policies(settings), indent=2))
        return
    findings = [Finding("configuration", f"{config} is valid")]
    findings += [Finding("configuration", warning, warning=True) for warning in settings.warnings]
    with ledger_of(settings) as ledger, platform_of(settings, called=False) as platform:
        findings += _state(settings)
        filters = Filter(watch_rules(settings, platform.traits))
        news = _News(ledger, watch_rules(settings, platform.traits), skip_duplicates=settings.skip_duplicates)
        for folder in settings.folders:
            findings += _folder(settings, os.fsencode(folder), filters, news)
        findings += news.findings()
        new = news.sound()
        findings += [
            Finding("removals", f"{one.subject}: {one.text}", warning=True)
            for one in expected(settings, ledger, filters)
        ]
        if settings.platform == "mobius":
            from image_sync.cli.mobius import without_tag  # late: the other platforms have no tags

            refused = without_tag(settings, sorted(new))
            findings += [Finding("categories", error.what, error.hint, EXIT_CONFIG) for error in refused]
        proofs = list(_aws(settings)) if settings.platform == "sagemaker" else []
        findings += proofs
        findings += [Finding("configuration", line, SECRETS, EXIT_CONFIG) for line in settings.unread]
        if not settings.unread and not any(finding.code for finding in proofs):
            findings += _server(settings, platform, ledger)
        known = Counter({name: counts.ready for name, counts in ledger.census().categories.items()})
        thresholds = thresholds_of(settings, platform.traits)
        exact = news.exact and not any(finding.subject == _STORED for finding in findings)
        would = _would(ledger.tally(), known, new, thresholds, exact=exact and settings.annotations.mode == "none")
        if any(finding.code for finding in findings):
            would = "Nothing would be done until what failed above is fixed."
    code = next((finding.code for finding in findings if finding.code), EXIT_DONE)
    if as_json:
        rows = [asdict(finding) | {"ok": not finding.code} for finding in findings]
        rights = {"policy": _policies(settings)} if settings.platform == "sagemaker" else {}
        typer.echo(json.dumps({"ok": not code, "findings": rows, "would": would, **rights}, indent=2))
    else:
        console = Console(highlight=False)
        for finding in findings:
            console.print(_line(finding), soft_wrap=True)
            if finding.hint:
                console.print(Text(f"{'':19}{show_text(finding.hint)}"), soft_wrap=True)
        console.print(Text(would), soft_wrap=True)
        if any(finding.code and "--policy" in finding.hint for finding in findings):
            console.print("\nThese rights are needed:")
            console.print_json(json.dumps(_policies(settings)))
    raise typer.Exit(code)


def _line(finding: Finding) -> Text:
    mark, style = ("note", "yellow") if finding.warning else ("ok", "green")
    if finding.code:
        mark, style = "FAIL", "bold red"
    return Text.assemble((f"{mark:5}", style), f"{finding.subject:14}", show_text(finding.text))


def _state(settings: Settings) -> Iterator[Finding]:
    holder = holder_of(settings.state)
    if holder is not None:
        yield Finding("daemon", f"runs as {holder}")
    if not isinstance(settings.state, Path):
        return
    there = next(parent for parent in (settings.state, *settings.state.parents) if parent.exists())
    if os.access(there, os.W_OK | os.X_OK):
        hint = "Free some space: nothing can be written down, so nothing would be sent." if full(there) else ""
        text = f"the disk of {settings.state} is full" if hint else f"kept in {settings.state}"
        yield Finding("state", text, hint, EXIT_LEDGER if hint else 0)
    else:
        yield Finding(
            "state",
            f"{settings.state} cannot be written by this user",
            "Run the check as the user that runs the daemon, or point `state` at another folder.",
            EXIT_LEDGER,
        )


def _folder(settings: Settings, root: bytes, filters: Filter, news: _News) -> Iterator[Finding]:
    shown = show_path(root)
    if not os.path.isdir(root):
        hint = "Make it, or mount it; the daemon waits for it."
        yield Finding("folder", f"{shown} does not exist", hint, EXIT_CONFIG)
        return
    if not os.access(root, os.R_OK | os.X_OK):
        hint = "Give the user that runs image-sync the right to read it."
        yield Finding("folder", f"{shown} may not be read by this user", hint, EXIT_CONFIG)
        return
    found = _walk(root, filters, news, _annotated(settings, root, filters))
    for told in not_taken(found.passed_over):
        yield Finding("folder", f"{shown}: {told}", warning=True)
    remote, limit = remote_filesystem(root), watch_limit()
    if settings.watch.mode == "polling":
        how = "looked at every few seconds, as configured"
    elif remote and settings.watch.mode == "auto":
        how = f"looked at every {settings.watch.poll:g} s: {remote} does not report changes"
    elif limit is not None and found.folders > limit:
        how = f"looked at every {settings.watch.poll:g} s: more folders than the system lets us watch ({limit})"
        hint = "Raise the limit: sysctl fs.inotify.max_user_watches=524288"
        yield Finding("folder", f"{shown} has {found.folders} folders", hint, warning=True)
    else:
        how = "watched by events"
    yield Finding(
        "folder", f"{shown}: {counted(found.pictures, 'picture')} in {counted(found.holding, 'folder')}, {how}"
    )
    if found.sorted and not found.annotated and not news.ledger.tally().labelled:
        arch = settings.model.nn_arch
        text = f"`model.nn_arch` {arch!r} learns from boxes, and none of the {found.sorted} pictures here has any"
        hint = (
            "They lie in category folders: to learn categories, take `model.nn_arch` out (image-sync.py never sent "
            "it). To learn where objects are, put an annotation beside each picture; they wait until then."
        )
        yield Finding("annotations", text, hint, warning=True)
    elif found.bare:
        wait = "picture waits for its annotation" if found.bare == 1 else "pictures wait for their annotations"
        yield Finding(
            "annotations", f"{found.bare} new {wait}", "`image-sync annotations check` tells which.", warning=True
        )
    if found.unreadable:
        hint = "Give the user that runs image-sync the right to read them."
        yield Finding("folder", f"{found.unreadable} folders below {shown} cannot be read", hint, EXIT_CONFIG)


def _annotated(settings: Settings, root: bytes, filters: Filter) -> Callable[[bytes, list[bytes]], Collection[bytes]]:
    """Says which of a folder's pictures need not wait for an annotation."""
    if settings.annotations.mode != "required":
        return lambda _, names: names
    from image_sync.annotations import Finder, chosen  # late: most configurations never need it

    finder = Finder(root, partial(open_folder, root), filters.file, formats=chosen(settings.annotation_format))
    return finder.beside


def _walk(
    root: bytes,
    filters: Filter,
    news: _News,
    annotated: Callable[[bytes, list[bytes]], Collection[bytes]],
) -> _Found:
    found = _Found()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            found.unreadable += 1
            continue
        found.folders += 1
        known = news.known(folder)
        category = filters.category(root, folder).name
        pictures = []
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if filters.admits(root, folder.rstrip(b"/") + b"/" + entry.name):
                    waiting.append(entry.path)
            elif filters.file(entry.name) and entry.is_file(follow_symlinks=False):
                pictures += [] if filters.excluded(root, folder, entry.name) else [entry.name]
            else:
                filters.pass_over(found.passed_over, entry)
        found.pictures += len(pictures)
        found.holding += bool(pictures)
        fresh = [] if category is None else [name for name in pictures if name not in known]
        if category is None or not fresh:
            continue
        try:
            ready = set(fresh).intersection(annotated(folder, pictures))
        except Unreadable:
            found.unreadable += 1
            continue
        found.bare += len(fresh) - len(ready)
        found.annotated += len(ready)
        found.sorted += 0 if folder == root else len(fresh) - len(ready)
        news.add(category, folder, sorted(ready))
    return found


def _server(settings: Settings, platform: Platform, ledger: Ledger) -> Iterator[Finding]:
    try:
        platform.sign_in()
        yield Finding("server", f"{settings.address} answers and accepts us")
        dataset = platform.pictures.find_dataset(settings.dataset.name)
        stored = platform.pictures.count(dataset) if dataset is not None and not ledger.tally().confirmed else None
    except ImageSyncError as error:
        yield Finding("server", error.what, error.hint, error.exit_code)
        return
    if settings.dataset.action == "create":
        yield Finding("dataset", f"a new one will be made from the name {settings.dataset.name!r}")
    elif dataset is None:
        yield Finding("dataset", f"{settings.dataset.name!r} does not exist yet; the first upload makes it")
    else:
        yield Finding("dataset", f"{dataset.name!r} is there ({dataset.id})")
        if stored:
            text = f"{stored} pictures are in the dataset already; those that were sent from here are not sent again"
            yield Finding(_STORED, text, warning=True)


def _aws(settings: Settings) -> Iterator[Finding]:
    from image_sync.platforms.sagemaker.access import steps
    from image_sync.platforms.sagemaker.api import Api

    api = Api(settings.sagemaker, timeout=settings.upload.timeout)
    try:
        for step in steps(settings.sagemaker, api, detection=is_detection(settings.model.nn_arch)):
            yield Finding(step.subject, step.text, step.hint, step.code, step.warning)
    finally:
        api.close()


def _policies(settings: Settings) -> dict[str, Any]:
    if settings.platform != "sagemaker":
        raise UsageError("--policy is for the platform sagemaker", hint=f"This one is {settings.platform}.")
    from image_sync.platforms.sagemaker.access import policies

    return policies(settings.sagemaker)


def _would(tally: Tally, known: Counter[str], new: Counter[str], thresholds: Thresholds, *, exact: bool) -> str:
    """One sentence: what the daemon would do now, and why.

    Args:
        tally: the ledger's counts.
        known: pictures per category that the ledger holds ready.
        new: pictures per category that it has not seen yet.
        thresholds: what all these are held against.
        exact: False: some of the new ones may turn out broken, known or badly annotated.
    """
    waiting = tally.ready + sum(new.values())
    upload = upload_verdict(replace(tally, ready=waiting), thresholds, quiet_for=float("inf"))
    after = tally
    if upload.due:
        trainable = Counter(tally.trainable) + known + new
        after = replace(tally, ready=0, cleared=0, untrained=tally.untrained + waiting, trainable=dict(trainable))
        most = "" if exact or not new else "at most "
        first = f"upload {most}{waiting + tally.cleared} picture(s) ({waiting} / {thresholds.upload})"
    else:
        first = f"upload nothing ({waiting} / {thresholds.upload}: {upload.reason})"
    if thresholds.min_labelled is not None and upload.due:
        return f"Now it would {first}; whether a training follows depends on what is marked in the pictures."
    training = training_verdict(after, thresholds, now=time.time())
    counted = f"{training.have} / {training.need}: {training.reason}"
    second = f"then start a training ({counted})" if training.due else f"not train ({counted})"
    return f"Now it would {first} and {second}."
