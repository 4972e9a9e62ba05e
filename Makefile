# The commands below set everything up by themselves in .venv; nothing is installed outside it.
#   make quickstart   train on the built-in photographs, minutes on two CPU cores
#   make test         the test suite
#   make bench        how fast it is on this machine, beside diffusers and WebDataset; about ten minutes
PYTHON ?= python3
BIN := .venv/bin
CHECKED := modules datamodules evaluation workflow assets benchmarks *.py

.PHONY: quickstart test bench lint format clean

quickstart: .venv/installed
	$(BIN)/python train.py --config configs/quickstart.yaml

# A process a core, at most four: each holds torch. A file's tests stay together, for what they share; tests/conftest.py says which come first.
test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench: .venv/installed
	$(BIN)/python -m benchmarks

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CHECKED)

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

# The mark is written last, so that an installation that was stopped is done again.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) lacks its venv module. On Debian and Ubuntu: sudo apt install python3-venv (or python3.X-venv for another Python)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@uv=$$(command -v uv) || { uv=$(BIN)/uv; test -x $$uv || $(BIN)/python -m pip install --quiet uv; }; \
	  set -x; $$uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --requirement pyproject.toml --group dev
	touch $@
