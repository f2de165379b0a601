"""/jobs: one's own jobs, their results and their end."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Path, Query, Request, Response

from app.dependencies import JobsDep, early_studio
from app.http import vocabulary
from app.http.body import JSON
from app.http.negotiation import all_lines
from app.http.preferences import APPLIED, RESPOND_ASYNC
from app.http.routing import Router
from app.jobs.job import Job, JobStatus
from app.jobs.keys import Answer, Keyed
from app.jobs.service import Asked, JobService
from app.jobs.store import Place
from app.routes.jobs.calls import webhooks_of
from app.routes.jobs.once import accepted, response_of
from app.routes.jobs.schemas import CallOut, JobList, JobOut

router = Router(tags=["jobs"])

_RETRY_SECONDS = 1  # after which to ask for a job again
_KEPT = "private, max-age=31536000, immutable"
_TOLD = {"description": "The job.", "headers": vocabulary.headers("Cache-Control", "Retry-After")}
_JOB_FAILS = vocabulary.problems(404, 422, 503)
_ID = Path(description="The id of a job.", max_length=64)
_FILE = {
    "description": "The file.",
    "headers": vocabulary.headers("Cache-Control", "ETag"),
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("image/png", "image/webp", "image/jpeg")
    },
}


async def begin(
    service: JobService, asked: Asked, keyed: Keyed | None, request: Request
) -> Response:
    """202: a job, and where to ask for it; the same again where the key came before."""
    root = request.scope.get("root_path", "")

    def told(job: Job, place: Place) -> Answer:
        headers = (
            ("content-type", JSON),
            ("location", f"{root}/jobs/{job.id}"),
            (APPLIED.lower(), RESPOND_ASYNC),
            ("retry-after", str(_RETRY_SECONDS)),
            ("cache-control", "no-store"),
            ("vary", "Accept, Prefer"),
        )
        body = JobOut.of(job, place, service, root).model_dump_json().encode()
        return Answer(202, headers, body)

    return response_of(await accepted(service, asked, keyed, told))


@router.get(
    "/jobs",
    operation_id="listJobs",
    summary="List one's own jobs, the newest first",
    responses={
        200: {"headers": vocabulary.headers("Cache-Control")},
        **vocabulary.problems(422, 503),
    },
)
async def list_jobs(
    request: Request,
    response: Response,
    service: JobsDep,
    status: Annotated[list[JobStatus], Query(description="Only jobs of these.")] = [],  # noqa: B006
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs per page.")] = 20,
    cursor: Annotated[
        str | None, Query(max_length=64, description="From `next` of the page before.")
    ] = None,
) -> JobList:
    """Jobs of this client: of its key, or of its address where it has none."""
    owner, root = early_studio(request).asker.client, request.scope.get("root_path", "")
    jobs = await service.store.list(owner, limit=limit + 1, before=cursor, statuses=status)
    more = None
    if len(jobs) > limit:
        told = [("cursor", jobs[limit - 1].id), ("limit", limit), *(("status", s) for s in status)]
        more = f"{root}/jobs?{urlencode(told)}"
    response.headers["Cache-Control"] = "no-store"
    return JobList(jobs=[JobOut.of(job, None, service, root) for job in jobs[:limit]], next=more)


@router.get(
    "/jobs/{job_id}",
    operation_id="getJob",
    summary="Tell how far a job is",
    responses={200: _TOLD, **_JOB_FAILS},
)
async def get_job(
    request: Request, response: Response, service: JobsDep, job_id: Annotated[str, _ID]
) -> JobOut:
    """Its place in the queue, its progress, and its result in the end."""
    job, place = await service.store.get(early_studio(request).asker.client, job_id)
    response.headers["Cache-Control"] = "no-store"
    if not job.status.ended:
        response.headers["Retry-After"] = str(_RETRY_SECONDS)
    told = JobOut.of(job, place, service, request.scope.get("root_path", ""))
    if told.webhook:
        calls = await webhooks_of(request).of(job.id)
        told.webhook.calls = [CallOut(**vars(call)) for call in calls]
    return told


@router.delete(
    "/jobs/{job_id}",
    operation_id="cancelJob",
    summary="Cancel a job",
    responses={200: _TOLD, **_JOB_FAILS},
)
async def cancel_job(
    request: Request, response: Response, service: JobsDep, job_id: Annotated[str, _ID]
) -> JobOut:
    """The job, which has ended by now. One that had ended before stays as it is."""
    job = await service.cancel(early_studio(request).asker.client, job_id)
    response.headers["Cache-Control"] = "no-store"
    return JobOut.of(job, None, service, request.scope.get("root_path", ""))


@router.get(
    "/jobs/{job_id}/images/{index}",
    operation_id="getJobImage",
    summary="Fetch a file of a job's result",
    response_class=Response,
    responses={
        200: _FILE,
        304: {"description": "The client already has this file."},
        307: {"description": "The file is at the signed address in `Location`."},
        **vocabulary.problems(404, 410, 422, 503),
    },
)
async def get_job_image(
    request: Request,
    service: JobsDep,
    job_id: Annotated[str, _ID],
    index: Annotated[int, Path(ge=0, le=15, description="Number of the image, from 0.")],
) -> Any:
    """The file as the request asked for it, or a PNG. It never changes."""
    owner = early_studio(request).asker.client
    picture, content = await service.results.read(owner, job_id, index)
    tag = f'"{picture.sha256}"'
    headers = {"ETag": tag, "Cache-Control": _KEPT}
    if isinstance(content, str):
        moved = {"Location": content, "Cache-Control": "no-store"}
        return Response(status_code=307, headers=moved)
    given = all_lines(request.headers, "if-none-match")
    if given.strip() == "*" or tag in given:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=picture.media_type)
