# syntax=docker/dockerfile:1

# Two stages: wheels are built and installed where pip is, and run where nothing but the interpreter and the gateway is.
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/gateway
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
# The request path is compiled, which takes two minutes once and more than half off each request. Byte code is made of the rest,
# because the file system may be read-only there.
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=1 /opt/gateway/bin/pip install . && /opt/gateway/bin/python -m compileall -q /opt/gateway/lib

FROM python:3.12-slim
LABEL org.opencontainers.image.title="resilience-gateway" \
      org.opencontainers.image.description="A resilience gateway for AI APIs" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PATH=/opt/gateway/bin:$PATH
COPY --from=build /opt/gateway /opt/gateway
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
# The container listens where its configuration says: beyond loopback only with `clients` or `open: true` in the file.
EXPOSE 8080 9901
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 CMD ["gateway", "health"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
