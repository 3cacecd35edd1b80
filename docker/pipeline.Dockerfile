# The pipeline, the watcher and the MLflow server: everything that trains, judges and registers.
#
# docker build -f docker/pipeline.Dockerfile -t tasador-pipeline .
# docker run --rm -v tasador:/srv/tasador/workspace tasador-pipeline run dataset=diamonds
#
# Base images are pinned by version tag, see api.Dockerfile.

FROM python:3.11.14-slim-bookworm AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ARG EXTRAS="--extra train --extra serve --extra signing --extra alerts --extra gcs --extra s3"
WORKDIR /build
COPY requirements/ requirements/
COPY pyproject.toml README.md LICENSE hatch_build.py ./
# The environment has no pip of its own. EXTRAS is several words.
# hadolint ignore=SC2086
RUN pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
    && python -m venv --without-pip /opt/tasador \
    && uv pip install --no-cache --compile-bytecode --python /opt/tasador/bin/python --require-hashes \
        -c requirements/lock.txt -r pyproject.toml $EXTRAS
COPY src/ src/
RUN uv pip install --no-cache --compile-bytecode --python /opt/tasador/bin/python --no-deps \
        --build-constraints requirements/lock.txt .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="tasador-pipeline" \
      org.opencontainers.image.description="Trains, watches and retrains valuation models" \
      org.opencontainers.image.licenses="Apache-2.0"
# For LightGBM's threads.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /srv/tasador/workspace /srv/tasador/trust
COPY --from=builder /opt/tasador /opt/tasador
# A project's own contracts are mounted at /srv/tasador/conf, its tables wherever they name them.
WORKDIR /srv/tasador
ENV PATH=/opt/tasador/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME ["/srv/tasador/workspace"]
STOPSIGNAL SIGTERM
# A job, not a service: what runs as one (the watcher, MLflow) has its check in compose.yaml.
HEALTHCHECK NONE
ENTRYPOINT ["tasador"]
CMD ["run"]
