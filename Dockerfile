# ccrop in a container; docs/troubleshooting.md says how to build and use it.
ARG BASE=python:3.11-slim
FROM ${BASE}

# Empty for pip's own index, whose builds of torch need an NVIDIA driver or run on the CPU; or the
# index of builds for a CPU alone, which are smaller by some 4 GB.
ARG TORCH_INDEX=""
ARG EXTRAS=fast,jit
ENV PATH=/opt/ccrop/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /build
# Versions to install again are taken from constraints.txt where there is one; LICENSE always is.
COPY LICENSE constraints.tx[t] ./
# The environment sees the packages of the base, so that a base with torch keeps its own.
RUN touch constraints.txt \
    && python3 -m venv --system-site-packages /opt/ccrop \
    && pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        "torch>=2.7" "torchvision>=0.22"

COPY README.md pyproject.toml setup.py ./
COPY ccrop_pipeline ccrop_pipeline
COPY cli cli
RUN pip install --constraint constraints.txt ".[$EXTRAS]" \
    && pip list --format=freeze --exclude ccrop-pipeline > /opt/ccrop/constraints.txt \
    && useradd --uid 10001 --no-create-home --home-dir /cache ccrop \
    && install --directory --mode=1777 /cache /work

# Also for `docker run --user`: any user may write to the caches.
ENV HOME=/cache USER=ccrop XDG_CACHE_HOME=/cache
USER 10001
WORKDIR /work
ENTRYPOINT ["ccrop"]
CMD ["--help"]
