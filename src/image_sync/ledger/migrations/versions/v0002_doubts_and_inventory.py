"""What was in doubt is remembered for sweeps, and what lay at the platform before is remembered for adoption."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns and tables."""
    op.add_column("target", sa.Column("strangers", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("batch", sa.Column("sweep_at", sa.Float()))
    op.add_column("batch", sa.Column("sweeps", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("batch_sweep", "batch", ["sweep_at"])
    op.add_column("run", sa.Column("doubts", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "doubt",
        sa.Column("batch_id", sa.String(length=32), nullable=False),
        sa.Column("picture_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"]),
        sa.PrimaryKeyConstraint("batch_id", "picture_id"),
    )
    op.create_table(
        "removal",
        sa.Column("target_id", _ID, nullable=False),
        sa.Column("remote_id", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["target_id"], ["target.id"]),
        sa.PrimaryKeyConstraint("target_id", "remote_id"),
    )
    op.create_table(
        "inventory",
        sa.Column("target_id", _ID, nullable=False),
        sa.Column("remote_id", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=16), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger()),
        sa.Column("counted", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["target_id"], ["target.id"]),
        sa.PrimaryKeyConstraint("target_id", "remote_id"),
    )
    op.create_index("inventory_digest", "inventory", ["target_id", "digest"])
