"""Replicate's predictions API."""

from fastapi import APIRouter

router = APIRouter(tags=["replicate"])
