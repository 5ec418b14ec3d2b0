"""On which file system and in which root a folder was seen, and what the watcher found that it does not take."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Deletions that were noted before count no more: nobody knows that they were meant."""
    op.add_column("folder", sa.Column("ground", sa.Text(), nullable=False, server_default=""))
    op.add_column("picture", sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("picture", sa.Column("retry_at", sa.Float()))
    which = sa.text("orphaned_at IS NOT NULL")
    columns = ["target_id", "orphaned_at"]
    op.create_index("picture_orphaned", "picture", columns, sqlite_where=which, postgresql_where=which)
    op.execute("UPDATE picture SET orphaned_at = NULL")
    for name in ("place_state", "picture_state", "picture_queue", "picture_batch"):
        op.drop_index(name, name.partition("_")[0])
    for name, *columns, condition in (
        ("place_aside", "state", "state <> 'sound'"),
        ("place_conflict", "role", "role = 'conflict'"),
        ("picture_queue", "target_id", "id", "state = 'ready'"),
        ("picture_kind", "target_id", "category", "id", "state = 'ready'"),
        ("picture_refused", "target_id", "retry_at", "state = 'refused'"),
        ("picture_batch", "batch_id", "batch_id <> ''"),
    ):
        which = sa.text(condition)
        op.create_index(name, name.partition("_")[0], columns, sqlite_where=which, postgresql_where=which)
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "kept",
        sa.Column(
            "picture_id", big, sa.ForeignKey("picture.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
        ),
        sa.Column("category", sa.Text(), nullable=False),
    )
    op.create_table(
        "told",
        sa.Column("target_id", big, sa.ForeignKey("target.id"), primary_key=True),
        sa.Column("remote_id", sa.String(128), primary_key=True),
        sa.Column("category", sa.Text(), nullable=False),
    )
