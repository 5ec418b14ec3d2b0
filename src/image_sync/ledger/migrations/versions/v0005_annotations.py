"""What is marked in pictures, and what of it the platform has."""

import sqlalchemy as sa
from alembic import op

from image_sync.ledger import counts

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns, tables and triggers."""
    op.add_column("place", sa.Column("annotation", sa.String(length=24), nullable=False, server_default=""))
    op.add_column("place", sa.Column("marks", sa.String(length=64), nullable=False, server_default=""))
    op.create_table(
        "marks",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
    op.create_table(
        "annotation",
        sa.Column("picture_id", _ID, autoincrement=False, nullable=False),
        sa.Column("target_id", _ID, nullable=False),
        sa.Column("wanted", sa.String(length=64), nullable=False),
        sa.Column("sent", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("refused", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("reason", sa.Text(), nullable=False, server_default=""),
        sa.Column("due", sa.Integer(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["picture_id"], ["picture.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("picture_id"),
    )
    for name, column in (("annotation_due", "due = 1"), ("annotation_refused", "refused <> ''")):
        which = sa.text(column)
        op.create_index(name, "annotation", ["target_id", "picture_id"], sqlite_where=which, postgresql_where=which)
    op.create_table(
        "label",
        sa.Column("picture_id", _ID, autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("target_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(["picture_id"], ["picture.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("picture_id", "label"),
    )
    op.create_table(
        "label_count",
        sa.Column("target_id", _ID, autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target_id", "label"),
    )
    counts.install(op.get_bind(), "label_count")
