# The gateway, and the `reflex` command for migrations: no worker, no agent, no model library.
#   docker build -f deploy/gateway.Dockerfile -t reflex-gateway .
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
COPY gateway/pyproject.toml gateway/
RUN --mount=type=cache,target=/var/cache/uv \
    --mount=type=secret,id=uv_toml,target=/etc/uv/uv.toml \
    deploy/install.sh dependencies gateway /opt/reflex
# The wheel of `shared` carries the migrations.
COPY migrations migrations
COPY shared shared
COPY gateway gateway
RUN --mount=type=cache,target=/var/cache/uv \
    --mount=type=secret,id=uv_toml,target=/etc/uv/uv.toml \
    deploy/install.sh packages gateway /opt/reflex

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin reflex
COPY --from=build /opt/reflex /opt/reflex
# It listens to whoever reaches the container, so it does not start until REFLEX_ACCESS says whom it lets in: `keys`, or
# `open-to-all`.
ENV PATH=/opt/reflex/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    REFLEX_HOST=0.0.0.0 \
    REFLEX_PORT=8000
WORKDIR /app
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ['REFLEX_PORT']), timeout=2); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
# Exec form: SIGTERM reaches the process, not a shell that keeps it to itself.
ENTRYPOINT ["reflex"]
CMD ["gateway"]
