"""AUTOMATIC1111's web UI API."""

from fastapi import APIRouter

router = APIRouter(tags=["automatic1111"])
