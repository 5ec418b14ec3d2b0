"""Counts that the database keeps, and an index less to keep."""

import sqlalchemy as sa
from alembic import op

from image_sync.ledger import counts

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables and triggers, and count what is there."""
    op.drop_index("picture_untrained", "picture")
    op.create_table(
        "place_count",
        sa.Column("folder_id", _ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("folder_id", "state", "role"),
    )
    op.create_table(
        "picture_count",
        sa.Column("target_id", _ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("sent_category", sa.Text(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target_id", "state", "category", "sent_category", "counted"),
    )
    counts.install(op.get_bind(), "place_count", "picture_count")
