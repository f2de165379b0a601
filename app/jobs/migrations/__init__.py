"""How the store came to have its tables: Alembic's revisions, run when it is opened."""
