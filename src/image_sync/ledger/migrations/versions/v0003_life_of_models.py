"""How trainings go, what they contain, and what becomes of their models."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns and tables."""
    op.add_column("run", sa.Column("base_name", sa.Text(), nullable=False, server_default=""))
    op.add_column("run", sa.Column("retry_of", _ID))
    op.add_column("run", sa.Column("owed", sa.String(length=16), nullable=False, server_default=""))
    op.add_column("run", sa.Column("fate", sa.String(length=16), nullable=False, server_default=""))
    op.add_column("run", sa.Column("fate_reason", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "point",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("iteration", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("loss", sa.Float()),
        sa.Column("accuracy", sa.Float()),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("run_id", "iteration"),
    )
    op.create_table(
        "content",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("pictures", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("run_id", "category"),
    )
    op.create_table(
        "stretch",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("target_id", _ID, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("first_run", _ID, nullable=False),
        sa.Column("last_run", _ID, nullable=False),
        sa.ForeignKeyConstraint(["target_id"], ["target.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("stretch_content", "stretch", ["target_id", "sha256"])
