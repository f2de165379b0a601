# Two stages: install into a virtual environment, then copy it into a clean image.
#   docker build -t darkroom .                               CPU, with OpenVINO
#   docker build -t darkroom --build-arg LOCK=core --build-arg TORCH=cuda .     for an NVIDIA GPU
#   docker build -t darkroom --build-arg PYTHON=python:3.11-slim .   on the newest base image there is
#   docker run -p 127.0.0.1:8000:8000 --read-only --tmpfs /tmp -v darkroom:/var/lib/darkroom darkroom
#
# The index of all platforms of python:3.11-slim on 2026-10-06: Python 3.11.17 on Debian 13.
ARG PYTHON=python:3.11-slim@sha256:0dd364ba7e10242f07755449e3a3d0e35f9efd987952737b90def6709ab0c5ce

FROM ${PYTHON} AS build
ARG LOCK=serve
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/darkroom
WORKDIR /src
# The libraries first: a change of code does not fetch PyTorch again.
COPY pyproject.toml ./
COPY requirements requirements
RUN /opt/darkroom/bin/python requirements/install.py "${LOCK}" "${TORCH}"
COPY README.md LICENSE ./
COPY app app
COPY models models
RUN /opt/darkroom/bin/python -m pip install --no-deps --no-build-isolation .

FROM ${PYTHON}
ARG TORCH=cpu
# Kernels for a GPU are compiled at the first start, and what launches them by a compiler of C.
# Jobs are in SQLite, whose library a base image may lack.
RUN if [ "${TORCH}" = cuda ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; \
    fi && \
    if ! python -c "import sqlite3"; then \
        apt-get update && apt-get install -y --no-install-recommends libsqlite3-0; \
    fi && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/darkroom /opt/darkroom
# The store of jobs, for user 10001, and for any other user id with group 0, as OpenShift has them:
# what one of them makes there belongs to group 0, so another one can take over.
RUN mkdir /var/lib/darkroom && chown 10001:0 /var/lib/darkroom && chmod 2770 /var/lib/darkroom
ENV PATH=/opt/darkroom/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TRITON_CACHE_DIR=/tmp/triton \
    DARKROOM_STATE_FOLDER=/var/lib/darkroom \
    DARKROOM_HOST=::
# By number, so that an orchestrator can tell it is not root.
USER 10001:10001
VOLUME /var/lib/darkroom
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; port = int(os.environ.get('DARKROOM_PORT') or os.environ.get('PORT') or 8000); server = http.client.HTTPConnection('127.0.0.1', port, timeout=4); server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
CMD ["darkroom", "serve"]
