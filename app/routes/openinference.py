"""The Open Inference Protocol's health and metadata."""

from fastapi import APIRouter

router = APIRouter(tags=["openinference"])
