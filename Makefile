# make run: the demo, to an HTML report. make real: the same for real models, which it downloads (350 MB). make bench:
# each step beside the loops that others use. make test: everything. make check: the quick half of it, for who edits. All
# set themselves up in .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb notebooks/zoo/*.ipynb notebooks/benchmarks/*.ipynb))
DEMO := runs/demo
REAL := runs/real
BENCH := runs/bench

.PHONY: run real bench report check test notebooks figures site clean

run: $(DEMO)/report.html
	@echo
	@echo "Report: file://$(CURDIR)/$<"

# A sweep that was stopped goes on where it was; the page is there only once all runs are.
$(DEMO)/report.html: notebooks/05_baselines.ipynb notebooks/11_report.ipynb notebooks/sweeps/demo.yaml $(INSTALLED)
	$(BIN)/python -m ptlib.sweep $< --grid notebooks/sweeps/demo.yaml --out $(DEMO)
	$(call render,notebooks/11_report.ipynb,$(DEMO),-p runs $(DEMO) -p by method \
	    -p where "families == 'different' or families == 'target alone'")

# SmolLM2 (Apache-2.0) and Gemma 3, whose licence has to be accepted once: ACCEPT=gemma make real. A notebook that was
# stopped starts again, with the prompts that it has tuned.
real: export PTLIB_STORE := $(CURDIR)/runs/prompts
real: $(INSTALLED)
	$(BIN)/python -m ptlib.models.real smollm2 gemma3
	@mkdir -p $(REAL)/images
	@cp notebooks/images/15_real_models.png $(REAL)/images
	$(call render,notebooks/15_real_models.ipynb,$(REAL))
	@echo
	@echo "Page: file://$(CURDIR)/$(REAL)/report.html"

# On whatever models are here: make real fetches more.
bench: $(INSTALLED)
	@mkdir -p $(BENCH)
	$(call render,notebooks/benchmarks/race.ipynb,$(BENCH))
	@echo
	@echo "Page: file://$(CURDIR)/$(BENCH)/report.html"

# make report RUNS=runs/NAME WITH="-p by method": any sweep's page, with parameters of 11_report.
report: $(INSTALLED)
	$(call render,notebooks/11_report.ipynb,$(or $(RUNS),$(error RUNS is not given; expected the folder of a sweep: make report RUNS=runs/NAME)),-p runs $(RUNS) $(WITH))
	@echo "Report: file://$(CURDIR)/$(RUNS)/report.html"

# A notebook, run with parameters, as report.html in a folder; under another name first, so that the page exists only
# where its notebook ran through. Images that its text shows are in the page if they lie in that folder, as in notebooks/.
define render
$(BIN)/papermill --progress-bar $(1) $(2)/report.ipynb $(3)
$(BIN)/jupyter nbconvert --log-level ERROR --to html --no-input --HTMLExporter.embed_images=True \
    --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags example \
    --output report.partial.html $(2)/report.ipynb
@mv $(2)/report.partial.html $(2)/report.html
endef

# What takes long is marked slow in tests/; CI runs all of it.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n auto --dist loadfile

# The notebooks are tested with the small parameters of tests/notebooks/*.yaml, from copies, beside the other tests: so no
# core waits for the last file of one kind.
test: export OMP_NUM_THREADS := 1
test: $(INSTALLED)
	$(BIN)/ruff check .
	@rm -rf runs/test
	$(BIN)/python tests/notebooks/prepare.py runs/test $(NOTEBOOKS)
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder --nbval-lax --nbval-current-env \
	    --nbval-cell-timeout=300 tests runs/test

# Run every notebook in place, so that the outputs that readers browse are those of today's code and models. Prompts that
# several of them need are tuned once.
notebooks: $(INSTALLED)
	TQDM_DISABLE=1 PTLIB_STORE=$(CURDIR)/runs/prompts $(BIN)/python -m ptlib.lab.execute $(NOTEBOOKS)

# The figures of texts: those of ideas, drawn, and those of the notebooks' cells that the README and its pages show.
figures: $(INSTALLED)
	$(BIN)/python -m ptlib.lab.figures

# One static site of everything that people read, as it was last run; needs no network to be read.
site: $(INSTALLED)
	$(BIN)/python -m sphinx -q -W --keep-going -c notebooks/site . runs/site
	@echo "Site: file://$(CURDIR)/runs/site/notebooks/site/index.html"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	@touch $@

clean:
	rm -rf .venv runs
