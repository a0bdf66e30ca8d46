# The server with PyTorch's CPU build, run by a user without rights.  docs/serving.md says how it is used.
FROM python:3.12-slim AS build
RUN python -m venv /venv
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY scripts/install.py scripts/check_environment.py scripts/
COPY src src
# Not editable: the sources are not in the last stage.
RUN /venv/bin/python scripts/install.py serve say \
    && /venv/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.12-slim
RUN useradd --home-dir /polymodal --create-home --uid 10001 polymodal && install -d -o polymodal /weights
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH POLYMODAL_HOME=/weights PYTHONDONTWRITEBYTECODE=1
USER polymodal
WORKDIR /polymodal
VOLUME /weights
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"
STOPSIGNAL SIGTERM
ENTRYPOINT ["polymodal", "serve", "--host", "0.0.0.0", "--api-key-file", "/run/secrets/keys"]
CMD ["mini"]
