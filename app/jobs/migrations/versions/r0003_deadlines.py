"""When a job is to be done, and which models jobs wait for."""

import sqlalchemy as sql
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and what finds jobs by it and by their models."""
    op.add_column("jobs", sql.Column("deadline", sql.DateTime(timezone=True)))
    op.create_index("ix_jobs_late", "jobs", ["status", "deadline"])
    op.create_index("ix_jobs_models", "jobs", ["status", "model", "number"])


def downgrade() -> None:
    """Remove them."""
    op.drop_index("ix_jobs_models", "jobs")
    op.drop_index("ix_jobs_late", "jobs")
    op.drop_column("jobs", "deadline")
