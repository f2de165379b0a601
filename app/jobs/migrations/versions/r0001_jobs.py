"""Jobs, their results, and the answers kept by Idempotency-Key."""

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sql.BigInteger().with_variant(sql.Integer(), "sqlite")
_TIME = sql.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "jobs",
        sql.Column("number", _BIG, primary_key=True, autoincrement=True),
        sql.Column("id", sql.String(32), nullable=False, unique=True),
        sql.Column("owner", sql.String(255), nullable=False),
        sql.Column("model", sql.Text, nullable=False),
        sql.Column("digest", sql.String(64), nullable=False),
        sql.Column("dialect", sql.String(16), nullable=False),
        sql.Column("request", sql.Text, nullable=False),
        sql.Column("work", sql.LargeBinary, nullable=False),
        sql.Column("images", sql.Integer, nullable=False),
        sql.Column("evaluations", sql.BigInteger, nullable=False),
        sql.Column("rank", sql.Integer, nullable=False),
        sql.Column("turn", sql.BigInteger, nullable=False),
        sql.Column("status", sql.String(16), nullable=False),
        sql.Column("created", _TIME, nullable=False),
        sql.Column("started", _TIME),
        sql.Column("ended", _TIME),
        sql.Column("ended_no", sql.BigInteger),
        sql.Column("error", sql.Text),
        sql.Column("told", sql.Text, nullable=False, server_default="[]"),
        sql.Column("expired", sql.Boolean, nullable=False, server_default=sql.false()),
        sql.Column("webhook", sql.Text),
        sql.Column("webhook_events", sql.Text),
        sql.Column("key", sql.String(255)),
        sql.Column("server", sql.String(32)),
        sql.Column("fence", sql.Integer, nullable=False, server_default="0"),
        sql.Column("lease", _TIME),
        sql.Column("losses", sql.Integer, nullable=False, server_default="0"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_claim", "jobs", ["status", "rank", "turn", "number"])
    op.create_index("ix_jobs_active", "jobs", ["status", "owner", "turn", "evaluations"])
    op.create_index("ix_jobs_owner", "jobs", ["owner", "number"])
    op.create_index("ix_jobs_ended", "jobs", ["owner", "ended_no"])
    op.create_index("ix_jobs_ended_at", "jobs", ["ended"])
    op.create_table(
        "results",
        sql.Column(
            "job", _BIG, sql.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True
        ),
        sql.Column("image", sql.Integer, primary_key=True),
        sql.Column("media_type", sql.String(32), nullable=False),
        sql.Column("size", sql.BigInteger, nullable=False),
        sql.Column("sha256", sql.String(64), nullable=False),
        sql.Column("path", sql.Text),
        sql.Column("content", sql.LargeBinary),
    )
    op.create_index("ix_results_size", "results", ["job", "size"])
    counters = op.create_table(
        "counters",
        sql.Column("name", sql.String(32), primary_key=True),
        sql.Column("value", sql.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "ended", "value": 0}])
    op.create_table(
        "idempotency_keys",
        sql.Column("owner", sql.String(255), primary_key=True),
        sql.Column("key", sql.String(255), primary_key=True),
        sql.Column("fingerprint", sql.String(64), nullable=False),
        sql.Column("created", _TIME, nullable=False),
        sql.Column("server", sql.String(32)),
        sql.Column("lease", _TIME),
        sql.Column("status", sql.Integer),
        sql.Column("headers", sql.Text),
        sql.Column("body", sql.LargeBinary),
    )
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created"])


def downgrade() -> None:
    """Remove them, and every job with them."""
    for table in ("idempotency_keys", "counters", "results", "jobs"):
        op.drop_table(table)
