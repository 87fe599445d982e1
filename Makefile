# Everything that is installed goes to .venv, and nothing else is touched.
# PYTHON=… names another interpreter, ARGS=… is handed to pytest (make test ARGS='-k mixture').
PYTHONS := $(or $(PYTHON),python3.12 python3.11 python3.13 python3)
BIN     := .venv/bin
STAMP   := .venv/.installed
CPU     := --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lab export exercises clean-notebooks clean

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r t h; do printf '  make %-16s %s\n' "$$t" "$$h"; done

setup: $(STAMP)  ## Make .venv and install everything into it (minutes; nothing to do the second time)

demo: $(STAMP)  ## The small-scale study on this computer: a table, runs/demo/results.json and report.html
	$(BIN)/maxmin gpt2 --scale laptop --out runs/demo

test: $(STAMP)  ## Tests, and every notebook top to bottom at scale smoke
	MAXMIN_SCALE=smoke $(BIN)/python -m pytest tests -m 'not slow' $(ARGS)

test-all: $(STAMP)  ## The same and what is long (under an hour)
	MAXMIN_SCALE=smoke $(BIN)/python -m pytest tests $(ARGS)

.PHONY: test-newest audit
test-newest: .venv/bin/python  ## The part that needs no torch, with the newest releases that settings.ini allows, in .venv-newest
	.venv/bin/python -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --disable-pip-version-check -q -U numpy scipy pandas pyarrow matplotlib tqdm ipywidgets 'fastcore>=1.8,<2' safetensors pytest 'hypothesis>=6.100' 'cvxpy>=1.5' 'scikit-learn>=1.5'
	PYTHONPATH=. .venv-newest/bin/python -m pytest -q -p no:cacheprovider -m 'not slow' tests/test_preferences.py tests/test_rlhf.py tests/test_impossibility.py tests/test_mixture.py tests/test_welfare.py tests/test_maxmin.py tests/test_dro.py tests/test_general_utility.py

audit: $(STAMP)  ## Known vulnerabilities of what is installed, by pip-audit (needs a connection to pypi.org)
	.venv/bin/python -m venv --clear .venv-audit && .venv-audit/bin/python -m pip install --disable-pip-version-check -q pip-audit
	.venv-audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

lab: $(STAMP)  ## JupyterLab at the first chapter
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/00_preferences.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: site slides
site: .venv/.site  ## The notebooks as web pages in _docs/, with search and slides; checked for broken links
	$(BIN)/python .ci/website.py

slides: .venv/.site  ## Slides of every chapter and of the lecture in _docs/slides/
	$(BIN)/python .ci/slides.py

export: $(STAMP)  ## Notebooks to maxmin_nb/, nbs/index.ipynb to README.md
	$(BIN)/nbdev_export
	$(BIN)/python .ci/readme.py

exercises: $(STAMP)  ## nbs/solutions to nbs/exercises, without the solutions
	$(BIN)/python .ci/exercises.py

clean-notebooks: $(STAMP)  ## Notebooks without execution counts and widget state, as they are committed
	$(BIN)/nbdev_clean

clean:  ## Remove .venv and what was built or cached in this folder; runs/ stays
	rm -rf .venv _docs build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A virtual environment holds absolute paths: one that was moved or copied with its folder is made again.
ifneq ($(filter-out $(CURDIR),$(shell cat .venv/.made-in 2>/dev/null)),)
.PHONY: .venv/bin/python
endif

# The first interpreter that runs, is of the right version and can make a virtual environment.
.venv/bin/python:
	@for p in $(PYTHONS); do \
	  if $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then \
	    echo "Making .venv with $$($$p -c 'import sys; print(sys.executable, sys.version.split()[0])')"; \
	    $$p -m venv --clear .venv && echo '$(CURDIR)' > .venv/.made-in; exit; \
	  fi; \
	done; \
	echo 'No Python 3.11 to 3.13 with its modules venv and ensurepip was found; tried: $(PYTHONS).' >&2; \
	echo 'Install one (Debian, Ubuntu: apt install python3 python3-venv) or name one: make setup PYTHON=/path/to/python3.12' >&2; \
	exit 1

# Where there is no NVIDIA GPU, torch is its CPU build (a tenth of the size); what torch needs comes with the rest.
$(STAMP): .venv/bin/python settings.ini setup.py constraints.txt
	@if nvidia-smi -L >/dev/null 2>&1; then f=''; else f='$(CPU)'; fi; set -x; \
	  $(BIN)/python -m pip install --disable-pip-version-check $$f --no-deps torch -c constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

.venv/.site: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[site]' -c constraints.txt
	@touch $@
