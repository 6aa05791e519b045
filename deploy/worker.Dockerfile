# The worker with the example apps. An app of your own: FROM this image, then COPY it into /app and set REFLEX_APP.
#   docker build -f deploy/worker.Dockerfile -t reflex-worker .
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# Neither of the two is in the final image or its history. Unset they mean the usual index; with a password in it, use
# the secrets instead (deploy/README.md).
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    UV_CACHE_DIR=/var/cache/uv \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy
# The first that honours --excludes for what a manifest itself asks for (deploy/install.sh).
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    pip install --no-cache-dir "uv>=0.12"
WORKDIR /src
COPY requirements.lock ./
COPY deploy/install.sh deploy/
COPY shared/pyproject.toml shared/
COPY worker/pyproject.toml worker/
RUN --mount=type=cache,target=/var/cache/uv \
    --mount=type=secret,id=uv_toml,target=/etc/uv/uv.toml \
    deploy/install.sh dependencies worker /opt/reflex
# The wheel of `shared` carries the migrations.
COPY migrations migrations
COPY shared shared
COPY worker worker
RUN --mount=type=cache,target=/var/cache/uv \
    --mount=type=secret,id=uv_toml,target=/etc/uv/uv.toml \
    deploy/install.sh packages worker /opt/reflex

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin reflex
COPY --from=build /opt/reflex /opt/reflex
# /app on the path: REFLEX_APP names a module below it, such as examples.orders.app.
ENV PATH=/opt/reflex/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
WORKDIR /app
COPY examples examples
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
# Exec form: SIGTERM reaches the process, not a shell that keeps it to itself.
ENTRYPOINT ["reflex"]
CMD ["worker"]
