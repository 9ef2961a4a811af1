# make setup | reproduce | report | test | test-jax | test-latest | test-python | bench | docs | browser | dist | lab | lint | format
# | figure | lock | clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What is installed depends on these files alone; a change of any of them installs anew. Modules are compiled at once, as
# pip does: where Python does not keep what it compiles, each notebook would start 5 s later.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock setup.cfg pyproject.toml | git hash-object --stdin)
# Both ends of the declared JAX range, each with a Python that it installs on.
JAX_ENDS := 3.11:0.9.0 3.13:0.12.0.1
NEW_PYTHONS := python3.14 python3.15
DEBIAN := .venv-debian
COMMA := ,
SPACE := $() $()
JAX_TESTS := $(addprefix tests/test_,$(addsuffix .py,compat expansions kernels program random function_space loop two_layer two_layer_conv))

.PHONY: setup reproduce report test test-code test-notebooks test-jax test-latest test-python bench docs browser dist lab lint
.PHONY: format lock figure clean

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 15); \
	  sys.exit(None if ok else "Python 3.11 to 3.15 is needed; %s is %s. Name one: make PYTHON=python3.12 ..." \
	  % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	$(BIN)/python -m compileall -q nqm_tools
	@rm -f $(VENV)/.installed-*
	@touch $@

reproduce: $(STAMP)
	$(BIN)/nqm reproduce --scale quick --output reproduced

# From data/results; the README quotes its table.
report: $(STAMP)
	$(BIN)/nqm report --output report --quote README.md
	cp report/report.md data/results/README.md
	cp report/report.csv data/results/claims.csv

test: test-code test-notebooks

test-code: $(STAMP)
	$(BIN)/python -m pytest -q -rs -n auto --dist worksteal -p no:nbval

# One more than there are cores at a time: each waits for its kernel's start and end. More threads of BLAS than cores wait
# for each other. Numbers that are compared are printed to fewer digits than what XLA may round differently.
test-notebooks: $(STAMP)
	OMP_NUM_THREADS=1 XLA_FLAGS="$$($(BIN)/python tests/compiling.py)" $(BIN)/python -m pytest -q -n $$($(BIN)/python -c 'import os; print(os.cpu_count() + 1)') --dist loadfile --nbval-lax \
	  -p no:cacheprovider notebooks

test-jax: $(STAMP)
	@for end in $(JAX_ENDS); do \
	  env=$(VENV)-jax-$${end#*:}; \
	  echo "== Python $${end%%:*}, JAX $${end#*:}"; \
	  $(BIN)/uv venv --quiet --allow-existing --python $${end%%:*} $$env || exit 1; \
	  $(BIN)/uv pip install --quiet --python $$env/bin/python --override overrides.txt -e '.[test]' \
	    jax==$${end#*:} jaxlib==$${end#*:} || exit 1; \
	  $$env/bin/python -m pytest -q $(JAX_TESTS) || exit 1; \
	done

# The newest release of everything that setup.cfg and the Python of $(VENV) allow, where the lock may be older.
test-latest: $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-latest
	$(BIN)/uv pip install --quiet --python $(VENV)-latest/bin/python --override overrides.txt -e '.[test]'
	$(VENV)-latest/bin/python -m pytest -q $(JAX_TESTS) tests/test_dynamics.py

# Pythons that one's own machine may not have yet: from Debian's unstable suite, the lock and the newest of everything, on
# what is committed. As root, with debootstrap; MIRROR= names another mirror than its own, and the mounts end with the shell.
test-python:
	test -e $(DEBIAN)/usr/bin/make || debootstrap --variant=minbase \
	  --include=ca-certificates,git,make,$(subst $(SPACE),$(COMMA),$(addsuffix -venv,$(NEW_PYTHONS))) unstable $(DEBIAN) $(MIRROR)
	cp /etc/ssl/certs/ca-certificates.crt $(DEBIAN)/etc/ssl/certs/
	rm -rf $(DEBIAN)/src && git clone --quiet . $(DEBIAN)/src
	unshare --mount sh -ec 'mount -t proc proc $(DEBIAN)/proc; mount --rbind /dev $(DEBIAN)/dev; \
	  for python in $(NEW_PYTHONS); do \
	    echo "== $$python"; \
	    chroot $(DEBIAN) make -C /src PYTHON=$$python VENV=.venv-$$python setup; \
	    chroot $(DEBIAN) sh -c "cd /src && .venv-$$python/bin/python -m pytest -q $(JAX_TESTS) tests/test_dynamics.py"; \
	    chroot $(DEBIAN) make -C /src PYTHON=$$python VENV=.venv-$$python test-latest; \
	  done'

# Half an hour at paper scale; PyTorch joins in where it is installed (it is not in the lock).
bench: $(STAMP)
	$(BIN)/python -m benchmarks

# npm brings what pages need of others' scripts and fonts, so that they ask no other host.
docs/node_modules: docs/package.json
	npm install --prefix docs --no-package-lock --no-audit --no-fund --silent
	@touch $@

# The site, in docs/_build/html.
docs: $(STAMP) docs/node_modules
	rm -rf docs/_vendor && mkdir docs/_vendor
	cp -r docs/node_modules/katex/dist docs/_vendor/katex
	cp -r docs/node_modules/reveal.js/dist docs/_vendor/reveal
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	test -f docs/_build/html/playground/index.html -a -f docs/_build/html/slides/index.html

# What tests of the site in a browser need besides Chromium; without either they are skipped.
browser: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --override overrides.txt -e '.[browser]'

# The source distribution and the wheel, in dist/, and the wheel tried without the clone.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist
	.ci/installed $(BIN) dist

# Saving what was not changed leaves git clean: names and versions of this machine's Python are not saved.
lab: $(STAMP)
	$(BIN)/jupyter lab notebooks --ContentsManager.pre_save_hook=nqm_tools.notebooks.keep_metadata

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
	  --no-header --override overrides.txt --constraint constraints.txt --extra test --extra docs \
	  -o requirements.lock setup.cfg

clean:
	rm -rf dist docs/_build docs/_extra docs/_vendor docs/node_modules $(VENV) $(VENV)-jax-* $(VENV)-latest $(DEBIAN) reproduced build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
