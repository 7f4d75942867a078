# make sim     drive, render, publish, record: see out/
# make test    the whole test suite
# make calibrate-demo   record a hidden camera, calibrate it, launch its twin: true against fitted
# make bench   stage by stage in ms, against PyBullet's own renderer
# make lint    ruff
# make setup   only make the environment (.venv); sim and test do it by themselves
# make nvdiffrast-source   fetch what the tests compare our rasteriser with (NVIDIA's licence)
# make clean   remove what was built and recorded; make distclean: the environment too
#
# PYTHON=python3.12   interpreter to use        DURATION=20   seconds of make sim
# TORCH=cuda          PyTorch for a CUDA GPU    ARGS='...'    more arguments for the command

PYTHON   ?=
VENV     ?= .venv
TORCH    ?= cpu
DURATION ?= 20
ARGS     ?=

BOOT := $(or $(shell command -v $(or $(PYTHON),python3) 2>/dev/null),\
             $(shell command -v /usr/bin/python3 2>/dev/null))
RUN  := $(VENV)/bin/python

# A demonstration and its tests stay on this machine; set the variable to reach others.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
# Left by a shell inside another environment of ROS wheels, it would load that one's libraries.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.DEFAULT_GOAL := help
.PHONY: help setup sim test nvdiffrast-source calibrate-demo bench lint clean distclean

help:
	@sed -n 's/^# \{0,1\}//; /^$$/q; p' Makefile
	@sed -n 's/^# \(PYTHON=\|TORCH=\)/\1/p' Makefile

setup:
	@test -n '$(BOOT)' || { echo 'set-up: no $(or $(PYTHON),python3) here; install Python 3.10' \
		'to 3.13, or name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(BOOT)' tools/setup_env.py --venv '$(VENV)' --python '$(PYTHON)' --torch '$(TORCH)'

sim: setup
	@$(RUN) -m diffphyscam_ros.cli sim --duration $(DURATION) $(ARGS)

# Two processes: one runs all tests that start ROS nodes, both share the other files.
test: setup
	@$(RUN) -m pytest -n 2 $(ARGS)

# A folder that nothing imports from: installed, `render_device: auto` would take it for CUDA.
nvdiffrast-source: setup
	@$(RUN) -m pip install --quiet --no-deps --upgrade --target '$(VENV)/nvdiffrast-source' \
		diffrp-nvdiffrast==0.3.3.1

calibrate-demo: setup
	@$(RUN) examples/calibrate_demo.py $(ARGS)

bench: setup
	@$(RUN) -m benchmarks $(ARGS)

lint: setup
	@$(RUN) -m ruff check

clean:
	rm -rf out build install log dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf '$(VENV)' '$(VENV).lock'
