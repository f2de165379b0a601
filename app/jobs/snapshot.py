"""The first event of a stream: which jobs are open."""

from pydantic import BaseModel, Field


class OpenJob(BaseModel):
    """A job that has not ended."""

    id: str
    status: str = Field(description="`queued` or `running`.")


class SnapshotEvent(BaseModel):
    """How things stand when a stream begins; the newest of every open job follows."""

    resumed: bool = Field(
        description="Whether the stream goes on where `Last-Event-ID` left off. If not, jobs that "
        "are not listed may have ended without an event: ask for them one by one."
    )
    jobs: list[OpenJob] = Field(description="The client's jobs that have not ended, newest first.")
