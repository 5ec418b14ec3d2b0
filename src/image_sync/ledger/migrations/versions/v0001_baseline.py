"""The first tables: ``database`` makes them from ``schema`` where there are none, so there is nothing to do here."""

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing: see above."""
