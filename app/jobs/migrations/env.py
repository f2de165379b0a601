"""What Alembic runs: every revision on the connection that it was given, in one transaction."""

from alembic import context

from app.jobs.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
