"""OpenAI's Images API."""

from fastapi import APIRouter

router = APIRouter(tags=["openai"])
