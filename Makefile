# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set the machine up first (seconds when it is).
.PHONY: setup demo test test-quick lint docs

PYTHON := .venv/bin/python
MPIRUN := mpirun --oversubscribe
# Open MPI refuses root unless it is told twice.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

# Ranks that wait let others work: these may be more than the cores.
export OMPI_MCA_mpi_yield_when_idle := 1

# One thread per process: tests, Ray workers and ranks share the cores.
test test-quick: export OMP_NUM_THREADS := 1

setup:
	@bash cluster/setup.sh

# The main job end to end, about 5 minutes: runs/demo/report.html
demo: setup
	@$(PYTHON) -m cluster demo --out runs/demo

test: setup lint
	$(PYTHON) -m pytest tests
	$(MPIRUN) -n 2 $(PYTHON) -m mpi4py -m pytest tests/jordan -m mpi -q -p no:cacheprovider

test-quick: setup lint
	$(PYTHON) -m pytest tests -m "not slow"

lint:
	@$(PYTHON) -m ruff check --quiet .

# The documentation site: runs/site/index.html
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet --site-dir runs/site
