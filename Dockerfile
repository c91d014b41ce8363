# The node in an image: as another user than root, on a file system that is read-only but for /data and /tmp.
FROM python:3.11-slim-trixie AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/satroute UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /src
RUN pip install --no-cache-dir uv==0.13.8
# What others wrote changes seldom, and is a layer of its own.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-default-groups --no-install-project
COPY relays relays
COPY router_client router_client
COPY node node
RUN uv sync --locked --no-default-groups --no-editable

# What backups of books in PostgreSQL take, of the version of compose.yml's server; the rest of its client would be 60 MB.
FROM debian:trixie-slim AS postgres
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/*

FROM python:3.11-slim-trixie
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libpq5 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 satroute \
    && useradd --uid 10001 --gid satroute --home-dir /data --no-create-home --shell /usr/sbin/nologin satroute \
    && install --directory --owner satroute --group satroute --mode 0700 /data \
    && install --directory --owner 10002 --group satroute --mode 0750 /var/lib/onion
COPY --from=postgres /usr/lib/postgresql/17/bin/pg_dump /usr/lib/postgresql/17/bin/pg_restore /usr/local/bin/
COPY --from=build /opt/satroute /opt/satroute
ENV PATH=/opt/satroute/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOME=/data DATA_DIR=/data HOST=0.0.0.0 PORT=8000
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["satroute"]
CMD ["serve"]
