# Two stages: install into a virtual environment, then copy it into a clean image.
#   docker build -t darkroom .                    CPU, with OpenVINO
#   docker build -t darkroom --build-arg EXTRAS= .   without it: for a GPU
#   docker run -p 8000:8000 darkroom
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ARG EXTRAS=[cpu]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/darkroom
WORKDIR /src
COPY pyproject.toml requirements.lock LICENSE ./
# The libraries first, around empty packages: a change of code does not fetch PyTorch again.
RUN mkdir app models && touch README.md app/__init__.py models/__init__.py \
    && /opt/darkroom/bin/pip install -c requirements.lock ".${EXTRAS}"
COPY README.md ./
COPY app app
COPY models models
RUN rm -rf build && /opt/darkroom/bin/pip install --no-deps --force-reinstall .

FROM ${PYTHON}
COPY --from=build /opt/darkroom /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DARKROOM_HOST=0.0.0.0
# By number, so that an orchestrator can tell it is not root.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; port = int(os.environ.get('DARKROOM_PORT') or os.environ.get('PORT') or 8000); server = http.client.HTTPConnection('127.0.0.1', port, timeout=4); server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
CMD ["darkroom", "serve"]
