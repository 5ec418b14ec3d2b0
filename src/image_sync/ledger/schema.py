"""The tables. A change here needs a migration in ``migrations/versions`` and a new ``HEAD``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    case,
    literal_column,
    select,
    text,
)

HEAD = "0001"
"""The newest migration: the schema that this version of image-sync reads and writes."""

metadata = MetaData()


class Word(TypeDecorator[str]):
    """A state's name: an enumeration on our side, plain text in the database."""

    impl = String(16)
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """The word itself, whichever kind of string it came as."""
        return None if value is None else str(value)


class Raw(LargeBinary):
    """Bytes that go to and from the driver as they are: wrapping a million names takes time, and no driver needs it."""

    cache_ok = True

    def bind_processor(self, *_: object) -> None:
        """None is needed."""

    def result_processor(self, *_: object) -> None:
        """None is needed."""


def word(state: str) -> ColumnElement[Any]:
    """A state's name written out in a statement, for the sake of indexes that hold only rows in that state."""
    return literal_column(f"'{state}'", Word)


_Id = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER is SQLite's row id

# Names and flags: the ledger's own id, requests of the command line to a running daemon.
keyvalue = Table(
    "keyvalue",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

# Where pictures go: one row per platform, server and dataset setting that was ever used with this ledger.
target = Table(
    "target",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("platform", String(32), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("setting", Text, nullable=False),  # dataset.name as configured
    Column("action", Word, nullable=False),
    Column("dataset_name", Text, nullable=False),
    Column("dataset_id", Text, nullable=False, default=""),  # empty until the platform told it
    # Pictures up to this id have passed the upload threshold.
    Column("cleared_to", _Id, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    # Files in the dataset that are none of ours, as the last reading of the platform's listing found.
    Column("foreign_files", Integer, nullable=False, default=0, server_default="0"),
    UniqueConstraint("platform", "endpoint", "setting", "action"),
)

root = Table(
    "root",
    metadata,
    Column("path", Raw, primary_key=True),
    Column("mode", Word, nullable=False),
    Column("state", Word, nullable=False),
    Column("reason", Text, nullable=False),
    Column("settling", Integer, nullable=False),
    Column("looked_at", Float, nullable=False),
)

folder = Table(
    "folder",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("path", Raw, nullable=False, unique=True),
    Column("root", Raw, nullable=False, index=True),
    Column("category", Text),
    # The file system and the root in which all its files were last seen; empty: a file that is missing proves nothing.
    Column("ground", Text, nullable=False, default="", server_default=""),
)

# One path: what the last look at it said. ``stamp`` columns are what stat gave.
file = Table(
    "file",
    metadata,
    Column("folder_id", _Id, ForeignKey("folder.id"), primary_key=True),
    Column("name", Raw, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("ctime_ns", BigInteger, nullable=False),
    Column("inode", String(20), nullable=False),  # may exceed a signed 64-bit integer
    Column("state", Word, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("sha256", String(64), nullable=False, default=""),
    Column("suffix", String(8), nullable=False, default=""),
    Column("seen_at", Float, nullable=False),
    # What the file is to the picture of its content: the one that is sent, a copy, or a contradiction.
    Column("role", Word, nullable=False, default=""),
    Column("picture_id", _Id),
    # Only written while annotations are used: what their files' stamps come to, and what is marked.
    Column("annotation", String(24), nullable=False, server_default=""),
    Column("annotation_text", String(64), nullable=False, server_default=""),
    Index("file_picture", "picture_id"),
    Index("file_aside", "state", sqlite_where=text("state <> 'sound'")),
    Index("file_conflict", "role", sqlite_where=text("role = 'conflict'")),
    sqlite_with_rowid=False,  # a folder's files lie side by side, and there is one tree less to keep
)

picture = Table(
    "picture",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("target_id", _Id, ForeignKey("target.id"), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("copy", Integer, nullable=False, default=0),  # above 0 only with skip_duplicates off
    Column("category", Text, nullable=False),  # as the folders say
    Column("sent_category", Text, nullable=False, default=""),  # as the platform has it
    Column("key", String(100), nullable=False),
    Column("plain", Integer, nullable=False, default=0, server_default="0"),  # 1: the key does not hold the digest
    Column("size", BigInteger, nullable=False),
    Column("state", Word, nullable=False),
    Column("batch_id", String(32), nullable=False, default=""),
    Column("remote_id", Text, nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    # How often it was refused for what may pass; and of a refused one: when it is tried again by itself (Unix time).
    Column("refusals", Integer, nullable=False, default=0, server_default="0"),
    Column("retry_at", Float),
    Column("training_id", _Id),  # the training that counted it
    Column("ready_at", Float, nullable=False),
    Column("confirmed_at", Float),
    Column("orphaned_at", Float),  # when its last file was deleted
    # Half of the digest makes an index of a third of the size; a picture of another content with the same half counts
    # as a copy. A key that holds the digest and the number of the copy needs no index to be the only one.
    Index("picture_content", "target_id", text("substr(sha256, 1, 16)"), "copy", unique=True),
    Index("picture_plain", "target_id", "key", unique=True, sqlite_where=text("plain = 1")),
    # Most pictures are confirmed for good: an index that leaves them out costs a third of one that does not. SQLite
    # uses it only for a condition that is written like its own, see ``word``.
    Index("picture_ready", "target_id", "category", "id", sqlite_where=text("state = 'ready'")),
    Index("picture_refused", "target_id", "retry_at", sqlite_where=text("state = 'refused'")),
    Index("picture_batch", "batch_id", sqlite_where=text("batch_id <> ''")),
    Index("picture_copy", "target_id", sqlite_where=text("copy > 0")),
    Index("picture_orphaned", "target_id", "orphaned_at", sqlite_where=text("orphaned_at IS NOT NULL")),
    sqlite_autoincrement=True,  # ids only grow: the quiet time and ``cleared_to`` rest on it
)

# How many there are of each kind, see ``counters.py``.
file_count = Table(
    "file_count",
    metadata,
    Column("folder_id", _Id, primary_key=True, autoincrement=False),
    Column("state", Word, primary_key=True),
    Column("role", Word, primary_key=True),
    Column("files", BigInteger, nullable=False),
)

picture_count = Table(
    "picture_count",
    metadata,
    Column("target_id", _Id, primary_key=True, autoincrement=False),
    Column("state", Word, primary_key=True),
    Column("category", Text, primary_key=True),
    Column("sent_category", Text, primary_key=True),
    Column("counted", Integer, primary_key=True, autoincrement=False),  # 1: a training has counted them
    Column("pictures", BigInteger, nullable=False),
)

# What annotations say, each kept once under the SHA-256 of its text; ``labels`` is a JSON list.
annotation_text = Table(
    "annotation_text",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("text", Text, nullable=False),
    Column("labels", Text, nullable=False),
)

# What is to be marked in a picture, and what the platform has or refused of it: fingerprints.
annotation = Table(
    "annotation",
    metadata,
    Column("picture_id", _Id, ForeignKey("picture.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("target_id", _Id, nullable=False),
    Column("wanted", String(64), nullable=False),
    Column("sent", String(64), nullable=False, server_default=""),
    Column("refused", String(64), nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    # 1: the picture is at the platform, and what is wanted is neither sent nor refused.
    Column("due", Integer, nullable=False, server_default="0"),
)
# Partial on PostgreSQL, too, like all such: see ``database``. Said here, it would load that dialect into every process.
for _name, _which in (("annotation_due", text("due = 1")), ("annotation_refused", text("refused <> ''"))):
    Index(_name, annotation.c.target_id, annotation.c.picture_id, sqlite_where=_which)

# The labels of what the platform has marked in a picture; and how many pictures carry each.
label = Table(
    "label",
    metadata,
    Column("picture_id", _Id, ForeignKey("picture.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("label", Text, primary_key=True),
    Column("target_id", _Id, nullable=False),
)

label_count = Table(
    "label_count",
    metadata,
    Column("target_id", _Id, primary_key=True, autoincrement=False),
    Column("label", Text, primary_key=True),
    Column("pictures", BigInteger, nullable=False),
)

batch = Table(
    "batch",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("target_id", _Id, ForeignKey("target.id"), nullable=False),
    Column("category", Text, nullable=False),
    Column("state", Word, nullable=False),
    Column("files", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("claimed_at", Float, nullable=False),
    Column("not_before", Float),  # absence at the platform is not believed earlier
    Column("ended_at", Float),
    # When a batch that was in doubt is looked at again for second copies; NULL: no more.
    Column("sweep_at", Float),
    Column("sweeps", Integer, nullable=False, default=0, server_default="0"),
    Index("batch_state", "target_id", "state"),
    Index("batch_sweep", "sweep_at"),
)

# What a batch held when it fell into doubt: its pictures may be in other batches when it is swept.
doubt = Table(
    "doubt",
    metadata,
    Column("batch_id", String(32), ForeignKey("batch.id"), primary_key=True),
    Column("picture_id", _Id, primary_key=True),
)

# Stored pictures that are to be removed: written down before, because their picture is forgotten in the same stroke.
pending_removal = Table(
    "pending_removal",
    metadata,
    Column("target_id", _Id, ForeignKey("target.id"), primary_key=True),
    Column("remote_id", String(128), primary_key=True),
)

# Pictures that lay at the platform before this ledger knew of them, until a file with their content is found.
remote_index = Table(
    "remote_index",
    metadata,
    Column("target_id", _Id, ForeignKey("target.id"), primary_key=True),
    Column("remote_id", String(128), primary_key=True),
    Column("digest", String(16), nullable=False),  # first half of the SHA-256, from the name
    Column("key", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("size", BigInteger),
    Column("counted", Integer, nullable=False),  # 1: a training has seen it
    Index("remote_index_digest", "target_id", "digest"),
)

# Pictures to which a person gave another category at the platform than it was told last: theirs is kept.
kept = Table(
    "kept",
    metadata,
    Column("picture_id", _Id, ForeignKey("picture.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("category", Text, nullable=False),
)

# What the platform was told by a ledger that was set aside: a listed category that differs is a person's.
told = Table(
    "told",
    metadata,
    Column("target_id", _Id, ForeignKey("target.id"), primary_key=True),
    Column("remote_id", String(128), primary_key=True),
    Column("category", Text, nullable=False),
)

training = Table(
    "training",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("target_id", _Id, ForeignKey("target.id"), nullable=False),
    Column("name", Text, nullable=False, unique=True),
    Column("state", Word, nullable=False),
    Column("task_id", Text, nullable=False, default=""),
    Column("base", Text, nullable=False, default=""),
    Column("pictures", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("not_before", Float),
    Column("iteration", Integer, nullable=False, default=0),
    Column("iterations", Integer, nullable=False, default=0),
    Column("loss", Float),
    Column("accuracy", Float),
    Column("remaining", Float),
    Column("reason", Text, nullable=False, default=""),
    Column("doubts", Integer, nullable=False, default=0, server_default="0"),  # how often its start was in doubt
    Column("base_name", Text, nullable=False, default="", server_default=""),
    Column("retry_of", _Id),  # the failed training that it repeats
    Column("owed", Word, nullable=False, default="", server_default=""),  # what is still to be done about it
    Column("fate", Word, nullable=False, default="", server_default=""),  # what became of its model
    Column("fate_reason", Text, nullable=False, default="", server_default=""),
    Index("training_state", "target_id", "state"),
)

# How a training went: one row for each look that found it further on.
metric = Table(
    "metric",
    metadata,
    Column("training_id", _Id, ForeignKey("training.id"), primary_key=True),
    Column("iteration", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("loss", Float),
    Column("accuracy", Float),
)

# What a training contains.
training_content = Table(
    "training_content",
    metadata,
    Column("training_id", _Id, ForeignKey("training.id"), primary_key=True),
    Column("category", Text, primary_key=True),
    Column("pictures", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
)

# A picture is in every training from ``picture.training_id`` on, under the category that it has now; but for these
# ranges, in which it had another one, or after which it was removed. Ids of trainings, both ends included.
membership = Table(
    "membership",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("target_id", _Id, ForeignKey("target.id"), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("category", Text, nullable=False),
    Column("first_training", _Id, nullable=False),
    Column("last_training", _Id, nullable=False),
    Index("membership_content", "target_id", "sha256"),
)

# What keeps a stage from its work at the moment: shown by ``status`` until it passes.
stage_error = Table(
    "stage_error",
    metadata,
    Column("stage", String(32), primary_key=True),
    Column("what", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("since", Float, nullable=False),
)

_contradicted = select(file.c.picture_id).where(file.c.picture_id == picture.c.id, file.c.role == "conflict").exists()
READY_OR_HELD = case((_contradicted, "held"), else_="ready")
"""The state of a picture that is to be sent: held back while its files contradict each other."""

half_digest: ColumnElement[Any] = literal_column("substr(picture.sha256, 1, 16)", String)
"""The half of a picture's digest that its key holds, as the index of contents says it."""
