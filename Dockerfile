# Two stages: install into a virtual environment, then copy it into a clean image.
#   docker build -t darkroom .                    CPU (and CUDA, where the torch wheel brings it)
#   docker run -p 8000:8000 darkroom
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/darkroom
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY app app
COPY models models
RUN /opt/darkroom/bin/pip install -c requirements.lock .

FROM python:${PYTHON}-slim
COPY --from=build /opt/darkroom /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DARKROOM_HOST=0.0.0.0 \
    DARKROOM_PORT=8000
# By number, so that an orchestrator can tell it is not root.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"DARKROOM_PORT\"]}/readyz', timeout=4)"]
CMD ["darkroom", "serve"]
