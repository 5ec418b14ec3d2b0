"""What Alembic runs: the migrations, on the connection and in the transaction that the ledger hands it."""

from alembic import context

from image_sync.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
