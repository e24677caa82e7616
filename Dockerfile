# One image for every service: `order-saga api`, `orchestrator`, `balance`, `assets`, `webhooks`, `migrate`, `topics`.
# It needs no BuildKit. Nothing in the final stage is written to at run time: it runs with a read-only root file system.

FROM python:3.12-slim AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
ENV PATH=/opt/order-saga/bin:$PATH
WORKDIR /build
RUN python -m venv /opt/order-saga

# The dependencies are a layer of their own: a change of the code leaves it in the cache.
# With the pip that a lock file names, and nothing but what the lock files list: see Makefile.
COPY requirements-pip.lock requirements-runtime.lock ./
RUN pip install --quiet --no-deps --require-hashes -r requirements-pip.lock \
    && pip install --quiet --no-deps --require-hashes -r requirements-runtime.lock

COPY . .
RUN python -m deploy.release.packages dist \
    && pip install --quiet --no-deps --no-index dist/*.whl \
    && pip uninstall --quiet --yes setuptools pip


FROM python:3.12-slim

RUN groupadd --gid 10001 order-saga \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin order-saga

COPY --from=builder /opt/order-saga /opt/order-saga

ENV PATH=/opt/order-saga/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HTTP_HOST=0.0.0.0 \
    HTTP_PORT=8000 \
    LOG_FORMAT=json

USER 10001:10001
EXPOSE 8000

# http.client and not urllib, which would ask a proxy named in the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['HTTP_PORT']), timeout=4); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["order-saga"]
CMD ["--help"]
