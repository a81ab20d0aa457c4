# SPDX-License-Identifier: Apache-2.0
# Every line is one pytest or build call; "make help" lists them. Set-up is done by need: a stamp under
# .venv/stamps says what is in place, so that the second run of a target costs next to nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Debian's own interpreter, whatever PATH says: bcc and systemd for Python belong to it.
SYSTEM_PYTHON := /usr/bin/python3
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
PINS := packaging/requirements/runtime.txt packaging/requirements/dev.txt
# Written last by build-deb.sh, so that it stands for all of dist/.
PACKAGES := dist/lintian.txt
PACKAGED := $(shell find bpf daemon docs examples packaging units -type f ! -name '*.o' ! -path '*/__pycache__/*' ! -path '*.egg-info/*')
VM_PACKAGES := mmdebstrap qemu-system-x86 e2fsprogs zstd
# Those that print figures in minutes; tests/bench has more.
BENCHES := figures reaction round_time probes_cost guard_throughput guard_secagg robust
# Arguments for pytest: make test-kernel ARGS="-k connect4 -x"
ARGS ?=
FUZZ_SECONDS ?= 600

.PHONY: help setup debian bpf demo preview test test-browser check test-kernel test-leaks test-kills test-federation deb test-packages test-hooks test-system test-system-whole bench fuzz dashboards fix clean FORCE

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | \
		while IFS= read -r line; do printf '  %-16s %s\n' "$${line%%:*}" "$${line#*## }"; done

setup: $(STAMPS)/homebound ## install what is missing: Debian packages, .venv, pinned Python requirements

debian:
	@packaging/setup/install-debian.sh

# An environment holds absolute paths and belongs to one Python: made anew when either has changed.
ifneq ($(file <$(STAMPS)/venv),$(notdir $(realpath $(SYSTEM_PYTHON))) $(CURDIR))
$(STAMPS)/venv: FORCE
endif
$(STAMPS)/venv: | debian
	@echo "making $(VENV) from $(SYSTEM_PYTHON)"
	@if [ -e $@ ]; then rm -rf $(VENV); fi
	@$(SYSTEM_PYTHON) -m venv --system-site-packages $(VENV)
	@mkdir -p $(STAMPS)
	@echo "$$(basename "$$(readlink -f $(SYSTEM_PYTHON))") $(CURDIR)" >$@

$(STAMPS)/requirements: $(PINS) $(STAMPS)/venv
	@echo "installing Python requirements (1 GB with torch for processors, 5 GB with torch for GPUs; once)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check $(addprefix -r ,$(PINS))
	@touch $@

$(STAMPS)/homebound: pyproject.toml $(STAMPS)/requirements
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

bpf: | debian ## build the BPF objects into daemon/homebound/bpf_objects/
	@$(MAKE) -s -C bpf

demo: setup bpf ## two devices and a federation on this machine, then every way out tried (root)
	@$(VENV)/bin/homebound demo

test: setup bpf ## the whole test suite (root)
	@$(PYTHON) -m pytest -n 3 --no-loadscope-reorder --ignore=tests/bench --ignore=tests/packages \
		--ignore=tests/preview --ignore=tests/browser --ignore=tests/system/vm $(ARGS)

test-browser: setup ## the daemon's own page in Chromium, which is installed for it (400 MB; root)
	@packaging/setup/install-debian.sh chromium
	@$(PYTHON) -m pytest tests/browser $(ARGS)

check: setup ## house checks and unit tests, no root needed
	@$(PYTHON) -m pytest tests/test_house.py tests/unit $(ARGS)

test-kernel: setup bpf ## programs, maps, cgroups and namespaces on this kernel (root)
	@$(PYTHON) -m pytest tests/kernel $(ARGS)

test-leaks: setup bpf ## every way out, with its positive control (root)
	@$(PYTHON) -m pytest tests/leaks $(ARGS)

test-kills: setup bpf ## kill -9 at every point of a life, over 400 kills, about an hour (root)
	@KILLS=all $(PYTHON) -m pytest tests/kills -s $(ARGS)

test-federation: setup bpf ## against a real SuperLink on loopback (root)
	@$(PYTHON) -m pytest tests/federation $(ARGS)

deb: $(PACKAGES) ## build the Debian packages into dist/, with lintian's word and bills of materials (root)

$(PACKAGES): $(PACKAGED) | setup bpf
	@packaging/setup/build-deb.sh

test-packages: deb ## install, use, upgrade and purge what is in dist/; build it twice and compare (root)
	@packaging/setup/install-debian.sh podman
	@$(PYTHON) -m pytest tests/packages $(ARGS)

test-hooks: setup bpf ## programs on security hooks in a virtual machine that asks them, kernel 6.1 (root)
	@packaging/setup/install-debian.sh $(VM_PACKAGES)
	@$(PYTHON) -m pytest tests/system/vm/test_kernels.py -m "not whole" $(ARGS)

test-system: setup bpf deb ## the service under a real systemd, then the packages in a virtual machine, kernel 6.1 (root)
	@packaging/setup/install-debian.sh $(VM_PACKAGES)
	@$(PYTHON) -m pytest tests/system -m "not whole" $(ARGS)

test-system-whole: setup bpf deb ## the same on kernels 6.1 and 6.12; writes docs/system-tests.md (root, an hour)
	@packaging/setup/install-debian.sh $(VM_PACKAGES)
	@HOMEBOUND_WRITE_RESULT=docs/system-tests.md $(PYTHON) -m pytest tests/system/vm $(ARGS)

bench: setup bpf ## measure rounds, memory and overhead; prints, asserts no time (root)
	@$(PYTHON) -m pytest tests/bench -s $(ARGS)
	@for name in $(BENCHES); do echo; echo "== $$name"; PYTHONPATH=daemon:tests $(PYTHON) tests/bench/$$name.py; done

fuzz: setup ## ten minutes of coverage-guided fuzzing of the guard's parser; findings in build/fuzz
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r packaging/requirements/fuzz.txt
	@$(PYTHON) tests/fuzz/frames.py -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 $(ARGS)

dashboards: setup ## make the Grafana dashboards and docs/metrics.md anew
	@$(PYTHON) -m dashboards.build

# Node 20.19 or newer; nothing else here needs it, nor the 480 MB that it fetches.
preview: setup bpf ## draw the dashboards with Grafana's components in a browser, into docs/images (root, npm)
	@packaging/setup/install-debian.sh chromium
	@cd dashboards/preview && npm ci --silent && npm run --silent build -- --logLevel warn
	@PICTURES=docs/images $(PYTHON) -m pytest tests/preview $(ARGS)

fix: setup ## let the formatters and the linter repair what they can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@find bpf -name '*.[ch]' ! -name 'vmlinux*.h' -exec $(VENV)/bin/clang-format -i {} +

clean: ## remove what was built, and caches; keeps .venv
	@$(MAKE) -s -C bpf clean
	@rm -rf build dist daemon/*.egg-info .import_linter_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find daemon tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
