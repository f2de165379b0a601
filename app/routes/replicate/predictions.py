"""Replicate's predictions: jobs that are created, polled, listed and cancelled in its words.

Every one is a job, also where the client waits for its end: it may leave and ask again.

https://replicate.com/docs/topics/predictions/create-a-prediction
"""

import time
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from fastapi import Path, Query, Request, Response

from app.dependencies import JobsDep, early_studio, jobs_of, studio_of
from app.errors import InvalidRequest, StoreUnavailable, UnknownJob
from app.generation import Studio
from app.http.body import JSON, read_body
from app.http.idempotency import fingerprint, key_of
from app.http.preferences import APPLIED, wants_job
from app.http.routing import Router
from app.http.warnings import warn
from app.jobs.job import Job
from app.jobs.keys import Answer, Keyed
from app.jobs.service import Asked, JobService
from app.jobs.store import Place
from app.jobs.webhooks.asking import REPLICATE
from app.jobs.work import request_of
from app.routes.jobs.calls import webhook_of
from app.routes.jobs.once import accepted, response_of
from app.routes.replicate import docs
from app.routes.replicate.asking import lifetime, preference_applied, waiting_time
from app.routes.replicate.schemas import PredictionInput, name_in, named
from app.routes.replicate.telling import DIALECT, Prediction, Predictions, told
from app.schemas.prompts import allowed_prompt, asked_of

router = Router(tags=["replicate"])

_PAGE = 100  # predictions, https://replicate.com/docs/reference/http#predictions.list
_BEFORE, _AFTER = "before", "after"  # the prediction where a page begins
_CURSOR = rf"^({_BEFORE}|{_AFTER})\.[A-Za-z0-9_-]{{1,32}}$"
_ID = Path(description="The id of a prediction.")


@router.post(
    "/v1/models/{owner}/{name}/predictions",
    operation_id="replicateCreatePrediction",
    summary="Draw images, for Replicate's clients",
    **docs.creation({}, docs.EXAMPLES, 404),
)
async def create_prediction(request: Request, owner: str, name: str) -> Response:
    """Draw `num_outputs` images of a prompt, or of the class it names. Any owner will do."""
    began = time.monotonic()
    studio = await early_studio(request).opened(model=name)
    values, _ = await read_body(request)
    return await _create(request, studio, f"{owner}/{name}", name, values, began)


@router.post(
    "/v1/predictions",
    operation_id="replicateCreateVersionPrediction",
    summary="Draw images with a version of a model, for Replicate's clients",
    **docs.creation({"version": docs.VERSION}, docs.EXAMPLES_BY_VERSION),
)
async def create_version_prediction(request: Request) -> Response:
    """As by a model's name; a model has one version, whose id is the checkpoint's SHA-256."""
    began = time.monotonic()
    studio = await studio_of(request)
    values, _ = await read_body(request)
    studio = await studio.opened(model=name_in(values.get("version")))
    owner, info = named(values.get("version"), studio.models)
    return await _create(request, studio, f"{owner}/{info.name}", info.name, values, began)


@router.get(
    "/v1/predictions",
    operation_id="replicateListPredictions",
    summary="List one's own predictions, for Replicate's clients",
    responses=docs.LISTED,
)
async def list_predictions(
    request: Request,
    response: Response,
    service: JobsDep,
    cursor: Annotated[
        str | None, Query(pattern=_CURSOR, description="From `next` or `previous` of a page.")
    ] = None,
) -> Predictions:
    """The newest first, a hundred per page, with addresses of files instead of the files."""
    side, _, begin = (cursor or "").partition(".")
    jobs = list(
        await service.store.list(
            early_studio(request).asker.client,
            limit=_PAGE + 1,
            before=begin if side == _BEFORE else None,
            after=begin if side == _AFTER else None,
            dialect=DIALECT,
        )
    )
    back, more = side == _AFTER, len(jobs) > _PAGE
    if more:
        del jobs[0 if back else -1]
    newer, older = more if back else side == _BEFORE, back or more  # are there any?
    base = str(request.base_url)
    here = f"{base}v1/predictions?cursor="
    response.headers["Cache-Control"] = "no-store"
    return Predictions(
        previous=f"{here}{_AFTER}.{jobs[0].id}" if jobs and newer else None,
        next=f"{here}{_BEFORE}.{jobs[-1].id}" if jobs and older else None,
        results=[Prediction.of(job, base, moved=service.moved(job)) for job in jobs],
    )


@router.get(
    "/v1/predictions/{prediction_id}",
    operation_id="replicateGetPrediction",
    summary="Tell how far a prediction is, for Replicate's clients",
    responses=docs.LOOKED_UP,
)
async def get_prediction(
    request: Request,
    response: Response,
    service: JobsDep,
    prediction_id: Annotated[str, _ID],
) -> Prediction:
    """Its status, and its output in the end."""
    job = await _own(request, service, prediction_id)
    response.headers["Cache-Control"] = "no-store"
    return await told(service, job, str(request.base_url))


@router.post(
    "/v1/predictions/{prediction_id}/cancel",
    operation_id="replicateCancelPrediction",
    summary="Cancel a prediction, for Replicate's clients",
    responses=docs.LOOKED_UP,
)
async def cancel_prediction(
    request: Request,
    response: Response,
    service: JobsDep,
    prediction_id: Annotated[str, _ID],
) -> Prediction:
    """The prediction, which has ended by now. One that had ended before stays as it is."""
    job = await _own(request, service, prediction_id)
    if not job.status.ended:
        job = await service.cancel(job.owner, job.id)
    response.headers["Cache-Control"] = "no-store"
    return await told(service, job, str(request.base_url))


async def _create(
    request: Request, studio: Studio, model: str, name: str, values: dict[str, Any], began: float
) -> Response:
    """A prediction of what `input` asks of the model of a name; `began`: when it was asked."""
    asked = _asked(request, studio, model, name, values)
    key, owner = key_of(request), studio.asker.client
    same = fingerprint(values, DIALECT, model, lifetime(request))
    keyed = None if key is None else Keyed(owner, key, same)
    seconds, service = waiting_time(request), await jobs_of(request)

    def begun(job: Job, _: Place) -> Answer:
        return _answer(request, job, Prediction.of(job, str(request.base_url)))

    first = await accepted(service, asked, keyed, begun)
    prediction_id = msgspec.json.decode(first.body)["id"]
    if not seconds:
        return response_of(first)
    left = seconds - (time.monotonic() - began)
    try:
        job, _ = await service.store.get(owner, prediction_id) if keyed else (None, None)
        if job is None or not job.status.ended:  # else its key came before
            job = await service.waiting.end(prediction_id, left)
        ended = job and await told(service, job, str(request.base_url))
    except (StoreUnavailable, UnknownJob):  # to be asked for later; its key outlived it
        return response_of(first)
    return response_of(_answer(request, job, ended) if job and ended else first)


def _asked(
    request: Request, studio: Studio, model: str, name: str, values: dict[str, Any]
) -> Asked:
    """What a request asks for, checked."""
    given = values.get("input")
    if not isinstance(given, dict):
        raise InvalidRequest({"input": "must be an object"})
    phrase = allowed_prompt(asked_of(name, studio.models))
    wanted = PredictionInput.parse(given, within="input", prompt=phrase)
    drawn = replace(wanted.to_request(name, studio), timeout=lifetime(request))
    known = PredictionInput.model_fields
    return Asked(
        studio.job(drawn),
        wanted.kind.media_type,
        {
            "model": model,
            "input": {field: value for field, value in given.items() if field in known},
            "base_url": str(request.base_url),  # for webhooks
        },
        DIALECT,
        wanted.quality,
        webhook_of(request, values, REPLICATE),
    )


def _answer(request: Request, job: Job, prediction: Prediction) -> Answer:
    """What creates a prediction is answered with; 202 if it goes on and the client knows of that.

    Replicate's clients take any status but `starting` for an end where they asked to wait.
    """
    if not job.status.ended:
        prediction = prediction.model_copy(update={"status": "starting"})
    headers = {
        "content-type": JSON,
        "location": prediction.urls.get,
        "cache-control": "no-store",
        "vary": "Prefer",
    }
    if drawn := request_of(job.work):
        headers["x-seed"] = str(drawn.params.seed)
    if applied := preference_applied(request, waiting_time(request)):
        headers[APPLIED] = applied
    warn(headers, job.told)
    lines = tuple((name.lower(), value) for name, value in headers.items())
    status = 202 if wants_job(request) and not job.status.ended else 201
    return Answer(status, lines, prediction.model_dump_json().encode())


async def _own(request: Request, service: JobService, prediction_id: str) -> Job:
    """A prediction of whoever asks; raises `UnknownJob`, `StoreUnavailable`."""
    job, _ = await service.store.get(early_studio(request).asker.client, prediction_id)
    if job.dialect != DIALECT:
        raise UnknownJob(f"there is no prediction {prediction_id[:40]!r} of yours")
    return job
