"""A made-up next schema of the ledger: what an upgrade does must hold before there is one to test."""

from __future__ import annotations

import sys
from pathlib import Path

from image_sync.ledger import migrations, schema
from support import diary

NEXT = "0002"
_STEP = f'''"""A table more, and a column more in a large one."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    op.create_table("extra", sa.Column("name", sa.Text(), primary_key=True), sa.Column("value", sa.Text()))
    op.add_column("picture", sa.Column("colour", sa.Text(), nullable=False, server_default="grey"))
    op.create_index("picture_colour", "picture", ["target_id", "colour"])
    op.execute("INSERT INTO extra SELECT name, value FROM keyvalue")
'''


def release(folder: Path) -> None:
    """From now on this process is the next image-sync; its migration is written into the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "v0002_next.py").write_text(_STEP)
    migrations.VERSIONS = [*migrations.VERSIONS, str(folder)]
    schema.HEAD = NEXT


if __name__ == "__main__":  # the next image-sync opens a ledger: STATE FOLDER
    release(Path(sys.argv[2]))
    diary.Writer(Path(sys.argv[1]))
