"""The tables of the store; `migrations` makes them, and a test compares the two."""

from datetime import UTC, datetime

import sqlalchemy as sql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

METADATA = sql.MetaData()
BIG = sql.BigInteger().with_variant(sql.Integer(), "sqlite")  # SQLite counts up only an INTEGER


class Utc(TypeDecorator[datetime]):
    """A time in UTC; SQLite forgets the zone."""

    impl = sql.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """A time as it is stored."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """A time as it was meant."""
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value)


JOBS = sql.Table(
    "jobs",
    METADATA,
    sql.Column("number", BIG, primary_key=True, autoincrement=True),
    sql.Column("id", sql.String(32), nullable=False, unique=True),
    sql.Column("owner", sql.String(255), nullable=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("digest", sql.String(64), nullable=False),
    sql.Column("dialect", sql.String(16), nullable=False),
    sql.Column("request", sql.Text, nullable=False),  # JSON
    sql.Column("work", sql.LargeBinary, nullable=False),
    sql.Column("images", sql.Integer, nullable=False),
    sql.Column("evaluations", sql.BigInteger, nullable=False),  # of all images together
    sql.Column("rank", sql.Integer, nullable=False),  # minus the priority
    sql.Column("turn", sql.BigInteger, nullable=False),  # see store.py
    sql.Column("status", sql.String(16), nullable=False),
    sql.Column("created", Utc, nullable=False),
    sql.Column("started", Utc),
    sql.Column("ended", Utc),
    sql.Column("ended_no", sql.BigInteger),
    sql.Column("error", sql.Text),
    sql.Column("told", sql.Text, nullable=False, server_default="[]"),  # JSON
    sql.Column("expired", sql.Boolean, nullable=False, server_default=sql.false()),
    sql.Column("webhook", sql.Text),
    sql.Column("webhook_events", sql.Text),  # JSON
    sql.Column("key", sql.String(255)),
    # Who draws it: only a server that is named here, with this fence, may write its end.
    sql.Column("server", sql.String(32)),
    sql.Column("fence", sql.Integer, nullable=False, server_default="0"),
    sql.Column("lease", Utc),
    sql.Column("losses", sql.Integer, nullable=False, server_default="0"),  # servers that died
    sql.Column("deadline", Utc),
    sql.Index("ix_jobs_claim", "status", "rank", "turn", "number"),
    sql.Index("ix_jobs_active", "status", "owner", "turn", "evaluations"),
    sql.Index("ix_jobs_late", "status", "deadline"),
    sql.Index("ix_jobs_checkpoints", "status", "model", "digest", "number"),
    sql.Index("ix_jobs_owner", "owner", "number"),
    sql.Index("ix_jobs_ended", "owner", "ended_no"),
    sql.Index("ix_jobs_ended_at", "ended"),
    sqlite_autoincrement=True,  # a number never comes again
)
CHECKPOINTS = sql.Table(  # what servers can draw with, while jobs wait or run
    "checkpoints",
    METADATA,
    sql.Column("server", sql.String(32), primary_key=True),
    sql.Column("model", sql.Text, primary_key=True),
    sql.Column("digest", sql.String(64), primary_key=True),
    sql.Column("lease", Utc, nullable=False),
)
RESULTS = sql.Table(
    "results",
    METADATA,
    sql.Column("job", BIG, sql.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    sql.Column("image", sql.Integer, primary_key=True),
    sql.Column("media_type", sql.String(32), nullable=False),
    sql.Column("size", sql.BigInteger, nullable=False),
    sql.Column("sha256", sql.String(64), nullable=False),
    sql.Column("path", sql.Text),  # in the folder or bucket, if it is not here
    sql.Column("content", sql.LargeBinary),
    sql.Index("ix_results_size", "job", "size"),
)
COUNTERS = sql.Table(
    "counters",
    METADATA,
    sql.Column("name", sql.String(32), primary_key=True),
    sql.Column("value", sql.BigInteger, nullable=False),
)
KEYS = sql.Table(
    "idempotency_keys",
    METADATA,
    sql.Column("owner", sql.String(255), primary_key=True),
    sql.Column("key", sql.String(255), primary_key=True),
    sql.Column("fingerprint", sql.String(64), nullable=False),
    sql.Column("created", Utc, nullable=False),
    sql.Column("server", sql.String(32)),  # that is at work on it, until the lease ends
    sql.Column("lease", Utc),
    sql.Column("status", sql.Integer),  # of the answer, once it is there
    sql.Column("headers", sql.Text),  # JSON
    sql.Column("body", sql.LargeBinary),
    sql.Column("size", sql.BigInteger, nullable=False, server_default="0"),  # of the last two
    sql.Index("ix_idempotency_keys_created", "created"),
    sql.Index("ix_idempotency_keys_size", "owner", "size"),
)
WEBHOOK_DELIVERIES = sql.Table(
    "webhook_deliveries",
    METADATA,
    sql.Column("id", sql.String(40), primary_key=True),  # the header `webhook-id`
    sql.Column("job", sql.String(32), nullable=False),  # its id; it may be forgotten before
    sql.Column("owner", sql.String(255), nullable=False),
    sql.Column("event", sql.String(16), nullable=False),
    sql.Column("url", sql.Text, nullable=False),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("body", sql.Text, nullable=False),  # JSON
    sql.Column("created", Utc, nullable=False),
    sql.Column("state", sql.String(16), nullable=False),  # waiting, delivered or failed
    sql.Column("attempts", sql.Integer, nullable=False),  # that were begun
    sql.Column("due", Utc, nullable=False),  # the next; while one is made, when it is given up
    sql.Column("status", sql.Integer),  # of the last answer
    sql.Column("error", sql.Text),
    sql.Column("ended", Utc),
    sql.Index("ix_webhook_deliveries_due", "state", "attempts", "due"),
    sql.Index("ix_webhook_deliveries_job", "job"),
    sql.Index("ix_webhook_deliveries_ended", "ended"),
)
