"""Which server has which checkpoint, and which checkpoints jobs wait for."""

import sqlalchemy as sql
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and let the index that finds models find their checkpoints."""
    op.create_table(
        "checkpoints",
        sql.Column("server", sql.String(32), primary_key=True),
        sql.Column("model", sql.Text, primary_key=True),
        sql.Column("digest", sql.String(64), primary_key=True),
        sql.Column("lease", sql.DateTime(timezone=True), nullable=False),
    )
    op.drop_index("ix_jobs_models", "jobs")
    op.create_index("ix_jobs_checkpoints", "jobs", ["status", "model", "digest", "number"])


def downgrade() -> None:
    """Remove it, and make the index as it was."""
    op.drop_index("ix_jobs_checkpoints", "jobs")
    op.create_index("ix_jobs_models", "jobs", ["status", "model", "number"])
    op.drop_table("checkpoints")
