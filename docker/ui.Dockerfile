# The web app; it talks to the API only.
#
# docker build -f docker/ui.Dockerfile -t tasador-ui .
#
# Base images are pinned by version tag, see api.Dockerfile.

FROM python:3.11.14-slim-bookworm AS builder
ARG EXTRAS="--extra ui"
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
LABEL org.opencontainers.image.title="tasador-ui" \
      org.opencontainers.image.description="Web app of the valuation API" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=builder /opt/tasador /opt/tasador
WORKDIR /srv/tasador
ENV PATH=/opt/tasador/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    STREAMLIT_BROWSER_GATHER_USAGE_STATS=false
USER 10001:10001
EXPOSE 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=2)"]
ENTRYPOINT ["tasador"]
CMD ["ui", "--host", "0.0.0.0", "--port", "8501"]
