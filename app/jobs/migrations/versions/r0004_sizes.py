"""How large the answers are that are kept by Idempotency-Key."""

import sqlalchemy as sql
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, fill it, and add what sums it up."""
    size = sql.Column("size", sql.BigInteger, nullable=False, server_default="0")
    op.add_column("idempotency_keys", size)
    op.execute(
        "UPDATE idempotency_keys SET size = length(headers) + length(body) WHERE status IS NOT NULL"
    )
    op.create_index("ix_idempotency_keys_size", "idempotency_keys", ["owner", "size"])


def downgrade() -> None:
    """Remove them."""
    op.drop_index("ix_idempotency_keys_size", "idempotency_keys")
    op.drop_column("idempotency_keys", "size")
