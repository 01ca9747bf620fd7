# The recipes only call scripts; the first lines of each script tell its usage. These reach them by the environment:
# KERNEL=/path/to/linux, BASE=7.3, BUILD=dir, CACHE=dir, FORCE=1, SOB='Name <mail>'.
MAKEFLAGS += --no-print-directory

.PHONY: help setup tree refresh series kernel demo check lint model check-series check-kasan check-kcsan check-rt check-dynamic check-mutants soak bench clean

help: ## say what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s%s\n", $$1, $$2 }' Makefile

setup: ## install the Debian packages that the rest needs (root or sudo)
	@tools/setup

tree: ## make the patched kernel tree, one commit a patch, in build/7.3/linux
	@tools/tree

refresh: ## write the tree's commits back to patches/ and linux/
	@tools/refresh

series: ## write the series as mails for git am and git send-email [SOB='Name <mail>']
	@tools/series

kernel: tree ## build a kernel of the rig [CONFIG=demo|debug|kasan|kcsan|dynamic|off|base]
	@tools/kernel $(CONFIG)

demo: tree ## boot a guest with a 4 MiB pool and compare throttling off and on
	@test/demo

check: ## run every test; the last line counts them
	@test/check

lint: tree ## checkpatch, sparse, kernel-doc, coccicheck and shellcheck
	@tools/lint

model: ## check the model of the protocol exhaustively with spin
	@test/model/run

check-series: tree ## build, check and boot the kernel after each single patch (slow)
	@tools/check-series

check-kasan: tree ## run the guest's tests under KASAN (slow)
	@test/kasan

check-kcsan: tree ## run the guest's tests under KCSAN (slow)
	@test/kcsan

check-rt: tree ## run KUnit, the loads and the short hazards on PREEMPT_RT (slow)
	@test/rt

check-dynamic: tree ## run the tests of throttling and SWIOTLB_DYNAMIC together
	@test/dynamic

check-mutants: tree ## take each fix out and see that a test fails (slow)
	@test/mutants/run

HOURS ?= 1
soak: tree ## mix loads, resets, sysctls and CPU hotplug at random [HOURS=1 CONFIG=debug|kasan SEED=]
	@test/soak $(HOURS) $(or $(CONFIG),debug) $(SEED)

bench: tree ## measure costs, throughput and memory, write docs/benchmarks.md [QUICK=1, KEEP=1, ITEMS='cost memory']
	@bench/run $(ITEMS)

clean: ## remove build/ (downloads stay in the cache)
	@[ -z "$$BUILD" ] || { echo "BUILD=$$BUILD is left alone: remove it by hand" >&2; exit 1; }
	@rm -rf build
