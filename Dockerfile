# The image: `docker build -t lora-training .`, or `make docker-build`, which also labels it. See docs/container.md.
#
# The torch wheels carry CUDA, so the base is any Debian or Ubuntu with Python >= 3.10 as `python3`.
ARG BASE=python:3.12-slim

# tools: what the build needs and the image does not.
FROM ${BASE} AS tools
RUN apt-get update -qq \
 && if ! python3 -c 'import ensurepip' 2> /dev/null; then venv=python3-venv; fi \
 && apt-get install -qq -y --no-install-recommends ca-certificates git tini $venv > /dev/null \
 && rm -rf /var/lib/apt/lists/*
# where pip and uv look, without a password in it: it is kept in the image's history
ARG PIP_INDEX_URL=
COPY requirements/uv.txt requirements/lora.txt /tmp/requirements/
RUN --mount=type=secret,id=ca \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca; fi \
 && if [ -n "$PIP_INDEX_URL" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; else unset PIP_INDEX_URL; fi \
 && python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --require-hashes \
    -r /tmp/requirements/uv.txt \
 && /opt/tools/bin/uv pip install --quiet --no-cache --require-hashes -p /opt/tools/bin/python \
    -r /tmp/requirements/lora.txt

# trees: upstream at its pins, from the build context where it is there, else from its host; patched and verified.
FROM tools AS trees
ARG PIP_INDEX_URL=
ENV LORA_HOME=/opt/lora PYTHONPATH=/opt/lora PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/lora
COPY .gitmodules ./
COPY patches/patches.lock patches/
COPY third_party third_party
COPY lora_training/__init__.py lora_training/errors.py lora_training/git_process.py lora_training/locks.py \
     lora_training/proc.py lora_training/repositories.py lora_training/tomls.py lora_training/workspace.py lora_training/
COPY lora_training/upstream lora_training/upstream
# a git configuration of your own says where a mirror is: --secret id=gitconfig,src=$HOME/.gitconfig
RUN --mount=type=secret,id=ca --mount=type=secret,id=gitconfig \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca GIT_SSL_CAINFO=/run/secrets/ca; fi \
 && if [ -f /run/secrets/gitconfig ]; then export GIT_CONFIG_GLOBAL=/run/secrets/gitconfig; fi \
 && if [ -z "$PIP_INDEX_URL" ]; then unset PIP_INDEX_URL; fi \
 && /opt/tools/bin/python -m lora_training.upstream.seal \
 && chmod -R u+w,a+rX,go-w third_party
COPY PATCHES.md ./
COPY patches patches
COPY lora_training lora_training
# back to pristine and up again, so that a patch that does not hold ends the build before anything large is installed;
# verified below, beside the packages that the runtime patches change
RUN /opt/tools/bin/python -m lora_training patch revert \
 && /opt/tools/bin/python -m lora_training patch apply \
 && rm -rf .lora third_party/.sync \
 && /opt/tools/bin/python -m compileall -q third_party/sd-scripts third_party/transformers/src \
    -x 'transformers/models/(?!(auto|bert|clip|gemma2|qwen2|qwen2_5_vl|qwen3|siglip|t5|umt5)/)'

FROM ${BASE} AS image
# such as "gcc libc6-dev" for torch.compile
ARG PACKAGES=
RUN if [ -n "$PACKAGES" ]; then \
      apt-get update && apt-get install -y --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi
ARG VENV=/opt/venv
ENV VIRTUAL_ENV=$VENV PATH=$VENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# The training packages: all that is large, and installed anew only when requirements/train.txt changes.
ARG PIP_INDEX_URL=
# uv's cache during the build; with podman and buildah it may be a folder of the host's, brought by --volume
ARG UV_CACHE=/var/cache/uv
ARG UV_LINK_MODE=copy
COPY requirements/train.txt /opt/lora/requirements/train.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=secret,id=ca \
    if [ -f /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi \
 && if [ -n "$PIP_INDEX_URL" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi \
 && export UV_CACHE_DIR="$UV_CACHE" UV_LINK_MODE="$UV_LINK_MODE" UV_NO_PROGRESS=1 \
 && /opt/tools/bin/uv venv --quiet --no-python-downloads -p python3 "$VENV" \
 && /opt/tools/bin/uv pip sync --quiet --require-hashes --compile-bytecode -p "$VENV/bin/python" \
    /opt/lora/requirements/train.txt

# Some bases leave out the standard library's bytecode, which could be written nowhere at run time.
RUN python3 -m compileall -q -x '/(test|tests|idlelib|lib2to3|site-packages|dist-packages)/' \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" || true

# Upstream, patched. transformers is installed in place, so that what is verified is what runs.
COPY --from=trees /opt/lora/third_party /opt/lora/third_party
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    UV_CACHE_DIR=/tmp/uv /opt/tools/bin/uv pip install --quiet --no-deps --no-build-isolation --offline \
    -p "$VENV/bin/python" -e /opt/lora/third_party/transformers && rm -rf /tmp/uv

# Ours: small, and last.
COPY --from=tools /usr/bin/tini-static /usr/local/bin/tini
WORKDIR /opt/lora
COPY .gitmodules LICENSE PATCHES.md README.md pyproject.toml ./
COPY configs configs
COPY patches patches
COPY lora_training lora_training
# what to call it in what it says to do next
ARG IMAGE=lora-training
# who it runs as, unless --user says otherwise
ARG USER_ID=1000
ARG GROUP_ID=1000
ENV LORA_HOME=/opt/lora \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LORA_CACHE=/cache/lora \
    LORA_IMAGE=$IMAGE \
    HF_HOME=/cache/huggingface \
    TORCH_HOME=/cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton \
    XDG_CACHE_HOME=/cache \
    HOME=/cache \
    USER=lora
# checked against what is here, so that the labels below cannot lie
ARG PIN_SD_SCRIPTS=
ARG PIN_TRANSFORMERS=
ARG PATCHES_SHA256=
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    UV_CACHE_DIR=/tmp/uv /opt/tools/bin/uv pip install --quiet --no-deps --no-build-isolation --offline \
    -p "$VENV/bin/python" -e /opt/lora \
 && chmod -R u+w,a+rX,go-w .gitmodules LICENSE *.md pyproject.toml configs patches lora_training requirements \
 && lora patch verify \
 && for pin in $PIN_SD_SCRIPTS $PIN_TRANSFORMERS; do grep -q "^commit = \"$pin\"$" patches/patches.lock || exit 1; done \
 && if [ -n "$PATCHES_SHA256" ]; then echo "$PATCHES_SHA256  patches/patches.lock" | sha256sum --check --quiet; fi \
 && python -m compileall -q lora_training \
 && rm -rf /tmp/uv .lora /cache \
 && echo "lora:x:$USER_ID:$GROUP_ID::/cache:/usr/sbin/nologin" >> /etc/passwd \
 && echo "lora:x:$GROUP_ID:" >> /etc/group \
 && mkdir -m 1777 /data /models /out /cache /cache/lora /cache/runs \
 && mkdir .lora && ln -s /cache/runs .lora/runs && ln -s /out output

ARG COMMIT=
LABEL org.opencontainers.image.title="lora-training" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$COMMIT" \
      lora.pin.sd-scripts="$PIN_SD_SCRIPTS" \
      lora.pin.transformers="$PIN_TRANSFORMERS" \
      lora.patches.sha256="$PATCHES_SHA256"
USER ${USER_ID}:${GROUP_ID}
VOLUME ["/cache", "/out"]
EXPOSE 6006 8765
HEALTHCHECK --interval=5m --timeout=60s --start-period=10s CMD ["lora", "patch", "verify"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "-s", "--", "lora"]
CMD ["train", "configs/smoke.toml"]
