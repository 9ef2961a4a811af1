# make setup | reproduce | report | test | test-jax | bench | lab | lint | format | figure | lock | clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What is installed depends on these files alone; a change of any of them installs anew.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock setup.cfg pyproject.toml | git hash-object --stdin)
# Both ends of the declared JAX range, each with a Python that it installs on.
JAX_ENDS := 3.11:0.9.0 3.13:0.12.0.1
JAX_TESTS := $(addprefix tests/test_,$(addsuffix .py,compat expansions kernels program function_space loop two_layer two_layer_conv))

.PHONY: setup reproduce report test test-jax bench lab lint format lock figure clean

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(None if ok else "Python 3.11, 3.12 or 3.13 is needed; %s is %s. Name one: make PYTHON=python3.12 ..." \
	  % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

reproduce: $(STAMP)
	$(BIN)/nqm reproduce --scale quick --output reproduced

# From data/results; the README quotes its table.
report: $(STAMP)
	$(BIN)/nqm report --output report --quote README.md
	cp report/report.md data/results/README.md

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist worksteal
	$(BIN)/python -m pytest -q -n auto --dist loadfile --nbval-lax -p no:cacheprovider notebooks

test-jax: $(STAMP)
	@for end in $(JAX_ENDS); do \
	  env=$(VENV)-jax-$${end#*:}; \
	  echo "== Python $${end%%:*}, JAX $${end#*:}"; \
	  $(BIN)/uv venv --quiet --allow-existing --python $${end%%:*} $$env || exit 1; \
	  $(BIN)/uv pip install --quiet --python $$env/bin/python --override overrides.txt -e '.[test]' \
	    jax==$${end#*:} jaxlib==$${end#*:} || exit 1; \
	  $$env/bin/python -m pytest -q $(JAX_TESTS) || exit 1; \
	done

# Half an hour at paper scale; PyTorch joins in where it is installed (it is not in the lock).
bench: $(STAMP)
	$(BIN)/python -m benchmarks

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The picture in the README, from the notebook that computes it.
figure: reproduce
	cp reproduced/figures/00_start_here_3.png notebooks/figures/best_test_loss.png

lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --no-header --override overrides.txt --extra test \
	  -o requirements.lock setup.cfg

clean:
	rm -rf $(VENV) $(VENV)-jax-* reproduced build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
