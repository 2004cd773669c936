# make demo       every step on a small example: from a folder of TIFFs to a served answer
#                 (DATA=<TCIA download> takes real images)
# make test       every test
# make test-fast  the tests that need no training, export or server; for the working hour
# make lint       style, types and import contracts
# make docs       the documentation site, in build/docs; checks its links
# make bench      times every stage but serving, in short; with peers if leuko_tf[bench] is installed
# make setup      the environment, in .venv; the other targets call it
# make lock       renews requirements.lock from pyproject.toml

SHELL := /bin/bash
BIN := .venv/bin
MADE_FROM := .venv/.made-from
# What an environment depends on: its place, and the files that it was made from.
INPUTS = { pwd; sha256sum requirements.lock pyproject.toml; }

PEERS_THERE = from importlib.util import find_spec as there; \
  exit(not all(map(there, ("torch", "onnx", "onnxruntime", "openvino"))))

.PHONY: demo test test-fast lint docs bench setup lock

demo: setup
	@$(BIN)/python -m leuko_tf.demo $(if $(DATA),--data "$(DATA)")

test: setup
	@$(BIN)/python -m pytest -n 2

test-fast: setup
	@$(BIN)/python -m pytest -n 2 -m "not slow"

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

docs: setup
	@$(BIN)/sphinx-build -E --fail-on-warning --keep-going --quiet -b html docs build/docs \
	  && $(BIN)/python docs/check_links.py build/docs \
	  && echo "open build/docs/index.html"

bench: setup
	@peers=$$($(BIN)/python -c '$(PEERS_THERE)' && echo --peers); \
	$(BIN)/python -m benchmarks pipeline train infer evaluate startup --short $$peers

setup:
	@if [ "$$($(INPUTS))" = "$$(cat $(MADE_FROM) 2>/dev/null)" ]; then exit 0; fi; set -e; \
	for python in $(PYTHON) python3 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; \
	  then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then echo "error: no Python 3.11 or 3.12 found; name one: make PYTHON=..." >&2; exit 1; fi; \
	if [ -e .venv ] && [ ! -e $(MADE_FROM) ]; then \
	  echo "error: there is a .venv that make did not make; move it away" >&2; exit 1; fi; \
	echo "making .venv with $$($$found --version): about 3 GB, a few minutes"; \
	rm -rf .venv; \
	if ! $$found -m venv .venv; then rm -rf .venv; \
	  echo "error: $$found cannot make an environment; on Debian and Ubuntu install python3-venv" >&2; exit 1; fi; \
	touch $(MADE_FROM); \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .; \
	$(INPUTS) > $(MADE_FROM)

lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra full --extra dev --extra docs --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --quiet --upgrade \
	  -o requirements.lock
