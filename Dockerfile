# syntax=docker/dockerfile:1

# Two stages: wheels are built and installed where pip is, and run where nothing but the interpreter and the gateway is.
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/gateway
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
# Byte code is compiled here, because the file system may be read-only there.
RUN /opt/gateway/bin/pip install . && /opt/gateway/bin/python -m compileall -q /opt/gateway/lib

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
