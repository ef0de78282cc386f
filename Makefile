# make run: the demo, to an HTML report. make test: everything. Both set themselves up in .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := $(shell find ptlib -name '*.py' -o -name '*.csv' -o -name '*.safetensors')
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb notebooks/zoo/*.ipynb notebooks/benchmarks/*.ipynb))
DEMO := runs/demo

.PHONY: run test notebooks clean

run: $(DEMO)/00_quickstart.html $(DEMO)/05_baselines.html
	@echo
	@echo "Report: file://$(CURDIR)/$(DEMO)/05_baselines.html"

$(DEMO)/05_baselines.html: FEWER := -p num_seeds 1

# The HTML page is written last and under another name first: it exists only where its notebook ran through.
$(DEMO)/%.html: notebooks/%.ipynb $(SOURCES) $(INSTALLED)
	@mkdir -p $(DEMO)
	$(BIN)/papermill --progress-bar $< $(DEMO)/$*.ipynb -p out $(DEMO) $(FEWER)
	$(BIN)/jupyter nbconvert --log-level WARN --to html --no-input --output $*.partial.html $(DEMO)/$*.ipynb
	@mv $(DEMO)/$*.partial.html $@

# The notebooks are tested with the small parameters of tests/notebooks/*.yaml, from copies.
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/pytest
	@rm -rf runs/test && mkdir -p runs/test
	@for n in $(NOTEBOOKS); do \
	    config=tests/notebooks/$$(basename $$n .ipynb).yaml; \
	    $(BIN)/papermill --prepare-only --log-level ERROR $$([ -f $$config ] && echo -f $$config) \
	        $$n runs/test/$$(basename $$n) || exit 1; done
	TQDM_DISABLE=1 $(BIN)/pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=300 runs/test

# Run every notebook in place, so that the outputs that readers browse are those of today's code and models.
notebooks: $(INSTALLED)
	for n in $(NOTEBOOKS); do TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute \
	    --inplace --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False $$n || exit 1; done

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	@touch $@

clean:
	rm -rf .venv runs
