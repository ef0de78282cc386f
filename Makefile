# make run: the demo, to an HTML report. make test: everything. Both set themselves up in .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := $(shell find ptlib -name '*.py' -o -name '*.csv' -o -name '*.safetensors')
DEMO := runs/demo

.PHONY: run test notebooks clean

run: $(DEMO)/00_quickstart.html $(DEMO)/05_baselines.html
	@echo
	@echo "Report: file://$(CURDIR)/$(DEMO)/05_baselines.html"

# The HTML page is written last and under another name first: it exists only where its notebook ran through.
$(DEMO)/%.html: notebooks/%.ipynb $(SOURCES) $(INSTALLED)
	@mkdir -p $(DEMO)
	$(BIN)/papermill --progress-bar $< $(DEMO)/$*.ipynb -p out $(DEMO)
	$(BIN)/jupyter nbconvert --log-level WARN --to html --no-input --output $*.partial.html $(DEMO)/$*.ipynb
	@mv $(DEMO)/$*.partial.html $@

test: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest

# Run every tutorial notebook in place, so that the outputs that readers browse are those of today's code.
notebooks: $(INSTALLED)
	for n in notebooks/*.ipynb; do $(BIN)/papermill --no-progress-bar $$n $$n || exit 1; done

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	@touch $@

clean:
	rm -rf .venv runs
