# The valuation API: the `serve` extra and nothing else.
#
# docker build -f docker/api.Dockerfile -t tasador-api .
#
# Base images are pinned by version tag: a digest could not be looked up where this file was written.
# Pin it in your own copy with `docker buildx imagetools inspect python:3.11.14-slim-bookworm`.

FROM python:3.11.14-slim-bookworm AS builder
# A compiler for the optional C kernel; it stays in this stage. Debian's archive keeps one version of
# a package only, so a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# What is installed of requirements/lock.txt; S3 wants `--extra s3` too, and 30 MB more.
ARG EXTRAS="--extra serve --extra signing --extra gcs"
WORKDIR /build
COPY requirements/ requirements/
COPY pyproject.toml README.md LICENSE hatch_build.py ./
# The environment has no pip of its own. EXTRAS is several words.
# hadolint ignore=SC2086
RUN pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
    && python -m venv --without-pip /opt/tasador \
    && uv pip install --no-cache --python /opt/tasador/bin/python --require-hashes \
        -c requirements/lock.txt -r pyproject.toml $EXTRAS
COPY src/ src/
# The libraries' own tests are 25 MB of the environment; what makes and converts ONNX models, and the
# sources of compiled modules, 9 MB more. No service needs any of them.
RUN uv pip install --no-cache --python /opt/tasador/bin/python --no-deps \
        --build-constraints requirements/lock.txt . \
    && find /opt/tasador -type d -name tests -prune -exec rm -rf {} + \
    && find /opt/tasador -type d -path "*/onnxruntime/*" \
        \( -name transformers -o -name tools -o -name quantization \) -prune -exec rm -rf {} + \
    && find /opt/tasador -type f \( -name "*.pyx" -o -name "*.pxd" -o -name "*.pyi" -o -name "*.h" \) -delete

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="tasador-api" \
      org.opencontainers.image.description="Valuations over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=builder /opt/tasador /opt/tasador
# Written to: the workspace, and /tmp. Everything else may be read-only.
# The import writes the bytecode of what the service uses, Python's own modules too: without it each
# start compiles them, a second of two. Bytecode of all that is installed would be 80 MB more.
RUN install -d -o 10001 -g 10001 /srv/tasador/workspace /srv/tasador/trust \
    && /opt/tasador/bin/python -c "import httptools, jinja2, onnxruntime, uvicorn, uvloop, tasador.cli.app, tasador.ops.service, tasador.scoring.appraise, tasador.serving.app"
WORKDIR /srv/tasador
ENV PATH=/opt/tasador/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TASADOR_SERVER__HOST=0.0.0.0 \
    TASADOR_SERVER__PORT=8000
USER 10001:10001
VOLUME ["/srv/tasador/workspace"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: a service without a model waits for one and must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['TASADOR_SERVER__PORT']}/health/live\", timeout=2)"]
ENTRYPOINT ["tasador"]
CMD ["serve"]
