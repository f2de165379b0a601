"""/jobs/events: one stream for all jobs of a client."""

from typing import Any

import msgspec
from fastapi import Request, Response

from app.dependencies import early_studio, jobs_of
from app.errors import InvalidRequest
from app.http import sse, vocabulary
from app.http.body import JSON, read_query
from app.http.routing import Router
from app.http.sse import EventStream
from app.jobs.job import Job
from app.jobs.snapshot import SnapshotEvent
from app.jobs.telling import PreviewData, ProgressData, QueuedData
from app.routes.jobs.schemas import JobOut

router = Router(tags=["jobs"])

_MOST_NAMED = 100  # jobs; an address has room for few more
_LAST = "last_event_id"
_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The `id` of the last event that the client was told: ends since are told.",
        "schema": {"type": "string", "pattern": r"^(\d{1,18}-\d{1,12})?$"},
    },
    {
        "name": _LAST,
        "in": "query",
        "description": "The same, for clients that cannot set the header, which goes before it.",
        "schema": {"type": "string", "pattern": r"^(\d{1,18}-\d{1,12})?$"},
    },
    {
        "name": "job",
        "in": "query",
        "description": "Only of the jobs with these ids.",
        "schema": {"type": "array", "items": {"type": "string"}, "maxItems": _MOST_NAMED},
    },
]
_CHANGES = msgspec.json.schema_components([QueuedData, ProgressData, PreviewData])[1]
_NAMES = ("snapshot", "queued", "progress", "preview", "succeeded", "failed", "canceled")
_DATA = [vocabulary.ref(SnapshotEvent), *_CHANGES.values(), vocabulary.ref(JobOut)]
_STREAM = {
    "description": "Events, without end.",
    "headers": vocabulary.headers("Cache-Control"),
    "content": {
        sse.MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["event", "id", "data"],
                "properties": {
                    "event": {"type": "string", "enum": list(_NAMES)},
                    "id": {"type": "string"},
                    "data": {
                        "type": "string",
                        "contentMediaType": JSON,
                        "contentSchema": {"oneOf": _DATA},
                    },
                },
            }
        }
    },
}


@router.get(
    "/jobs/events",
    operation_id="followJobs",
    summary="Follow all of one's own jobs",
    response_class=Response,
    responses={200: _STREAM, **vocabulary.problems(400, 422, 429, 503)},
    openapi_extra={"parameters": _PARAMETERS},
)
async def follow_jobs(request: Request) -> Response:
    """What becomes of the client's jobs: how things stand, and then every change.

    A reader that is slow is told the newest progress and previews, and every end.
    """
    values = read_query(request)
    last, jobs = values.pop(_LAST, None), values.pop("job", [])
    if values or isinstance(last, list):
        name = next(iter(values), _LAST)
        raise InvalidRequest({name: f"not allowed; allowed: {_LAST} once, and job"})
    named = jobs if isinstance(jobs, list) else [jobs]
    if len(named) > _MOST_NAMED:
        raise InvalidRequest({"job": f"must not be there more than {_MOST_NAMED} times"})
    studio, service = early_studio(request), await jobs_of(request)
    if request.method == "HEAD":
        return Response(headers=sse.HEADERS, media_type=sse.MEDIA_TYPE)
    root = request.scope.get("root_path", "")

    def show(job: Job) -> JobOut:
        return JobOut.of(job, None, service, root)

    last = request.headers.get("last-event-id") or last
    client = studio.asker.client
    events = service.hub.subscribe(client, last, show, named, studio.quiet)
    return await EventStream.begin(studio.permit.held(client, events))
