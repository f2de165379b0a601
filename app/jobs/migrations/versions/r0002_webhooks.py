"""Calls to webhooks that are to be made, and what came of them."""

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sql.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "webhook_deliveries",
        sql.Column("id", sql.String(40), primary_key=True),
        sql.Column("job", sql.String(32), nullable=False),
        sql.Column("owner", sql.String(255), nullable=False),
        sql.Column("event", sql.String(16), nullable=False),
        sql.Column("url", sql.Text, nullable=False),
        sql.Column("host", sql.String(255), nullable=False),
        sql.Column("body", sql.Text, nullable=False),
        sql.Column("created", _TIME, nullable=False),
        sql.Column("state", sql.String(16), nullable=False),
        sql.Column("attempts", sql.Integer, nullable=False),
        sql.Column("due", _TIME, nullable=False),
        sql.Column("status", sql.Integer),
        sql.Column("error", sql.Text),
        sql.Column("ended", _TIME),
    )
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["state", "attempts", "due"])
    op.create_index("ix_webhook_deliveries_job", "webhook_deliveries", ["job"])
    op.create_index("ix_webhook_deliveries_ended", "webhook_deliveries", ["ended"])


def downgrade() -> None:
    """Remove it, and every call that is not made yet."""
    op.drop_table("webhook_deliveries")
