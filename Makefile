# SPDX-License-Identifier: Apache-2.0
# Builds llmd. `make help` lists the targets; V=1 shows the commands; SAN=1 builds with ASan and UBSan in build/san.
PREFIX ?= /usr/local
DESTDIR ?=
CC := gcc
CLANG ?= clang
BPFTOOL ?= $(or $(shell command -v bpftool),/usr/sbin/bpftool)
V ?=
Q := $(if $(V),,@)
B := build$(if $(SAN),/san)

PACKAGES := libevent libevent_pthreads libevent_openssl openssl hiredis json-c libxxhash libsodium libbpf libmnl libcurl libcares yaml-0.1
CPPFLAGS += -D_GNU_SOURCE -I. -Iinclude -MMD -MP $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
CFLAGS ?= $(if $(SAN),-O1,-O2) -g
# The folder of the build gets into no file, so that an image is the same from any.
CFLAGS += -std=gnu11 -ffile-prefix-map=$(CURDIR)=. -Wall -Wextra -Wshadow -Werror -Wno-missing-field-initializers -fno-omit-frame-pointer $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined)
LDLIBS += $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lm -lresolv
comma := ,
JOBS = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
say = @mkdir -p $(@D) && printf '  %-5s %s\n' $(1) $(2)

include sources.mk

PROGRAMS := $(addprefix $(B)/,llmd-agent $(TOOLS))
CORE := $(LIB:%=$(B)/obj/lib/%.o) $(AGENT:%=$(B)/obj/agent/%.o)
UNIT_TESTS := $(UNIT:%=$(B)/unit/test_%)
MAPS_TESTS := $(addprefix $(B)/maps/test_,contents errors watch)
TESTS := $(UNIT_TESTS) $(MAPS_TESTS) $(B)/bpf/test_tc $(B)/bpf/test_live
FUZZERS := $(FUZZ:%=build/fuzz/fuzz_%)

.PHONY: all deps demo check check-unit check-fuzz check-net check-k8s fuzz bench install fmt help clean image deb demo-dashboard kind-e2e
.DEFAULT_GOAL := all

all: deps ## build everything (the default)
	$(Q)$(MAKE) --no-print-directory $(JOBS) $(PROGRAMS) $(MAN:%=build/man/%)

deps:
	$(Q)scripts/install-deps

demo: all ## simulated pods, the agent, a replayed trace; as root a stream in the kernel while the agent is stopped
	$(Q)scripts/demo

check: all ## build and run all tests (root for the kernel parts)
	$(Q)scripts/check

check-unit: $(TESTS) ## only the unit tests
	$(Q)printf '%s\n' $(TESTS) | xargs -P $(shell nproc) -I{} sh -c '{} >{}.log 2>&1; status=$$?; cat {}.log; exit $$status'

check-fuzz: $(FUZZERS) ## a short run of every fuzz target, over the same inputs each time
	$(Q)scripts/fuzz again $(FUZZERS)

check-net: all $(NET:%=build/net/%) ## only the tests in network namespaces (root)
	$(Q)scripts/install-deps test
	$(Q)scripts/check-net

check-k8s: all ## discovery against a real Kubernetes API server; scripts/check-k8s says where it is looked for
	$(Q)scripts/check-k8s

fuzz: ## a long run of every fuzz target (FUZZ_SECONDS=600 each)
	$(Q)scripts/install-deps test && $(MAKE) --no-print-directory $(FUZZERS)
	$(Q)scripts/fuzz $(or $(FUZZ_SECONDS),600) $(FUZZERS)

bench: all build/bench/decide build/bench/bare ## measure; see bench/README.md
	$(Q)scripts/install-deps test && bench/setup && build/bench/decide && bench/run

install: all ## into DESTDIR and PREFIX: programs, manual pages, completion, a systemd unit
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(PROGRAMS)
	for page in $(MAN); do install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man$${page##*.} build/man/$$page || exit 1; done
	for tool in maps events; do install -D -m 644 tools/$$tool/llmd-$$tool.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/llmd-$$tool || exit 1; done
	sed 's|@bindir@|$(PREFIX)/bin|' deploy/systemd/llmd-agent.service | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/llmd-agent.service

image deb demo-dashboard kind-e2e: all ## an image, a Debian package; the demo under load with Prometheus; tests/e2e on kind
	$(Q)scripts/$@

fmt: ## format the lines of C that differ from BASE (default HEAD); tables and short enums are laid out by hand
	$(Q)scripts/install-deps test
	$(Q)git clang-format --force $(or $(BASE),HEAD) -- '*.c' '*.h'

help: ## this list
	@sed -n 's/^\([a-z0-9 -]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

clean: ## remove build/
	rm -rf build

$(B)/libcore.a: $(CORE)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/llmd-agent: $(B)/obj/agent/main.o $(B)/libcore.a
$(B)/llmd-sim: $(SIM:%=$(B)/obj/tools/sim/%.o) $(B)/libcore.a
$(B)/llmd-load: $(LOAD:%=$(B)/obj/tools/load/%.o) $(B)/obj/tools/sim/cache.o $(B)/libcore.a
$(B)/llmd-doctor: $(DOCTOR:%=$(B)/obj/tools/doctor/%.o) $(B)/libcore.a
$(B)/llmd-maps: $(B)/obj/tools/maps/main.o $(MAPS:%=$(B)/obj/tools/maps/%.o) $(B)/libcore.a
$(B)/llmd-events: $(EVENTS:%=$(B)/obj/tools/events/%.o) $(B)/libcore.a
$(B)/unit/test_bpf_lib: $(B)/obj/tests/bpf/wire.o
$(B)/unit/test_load: $(addprefix $(B)/obj/tools/,load/sse.o load/quantile.o load/trace.o sim/cache.o)
$(B)/unit/test_maps: $(MAPS:%=$(B)/obj/tools/maps/%.o)
$(UNIT_TESTS): $(B)/unit/test_%: $(B)/obj/tests/unit/test_%.o $(B)/libcore.a
$(B)/bpf/test_live: $(LIVE:%=$(B)/obj/tests/bpf/%.o)
$(B)/bpf/test_tc: $(TC:%=$(B)/obj/tests/bpf/%.o)
$(B)/bpf/test_live $(B)/bpf/test_tc: $(B)/bpf/%: $(B)/obj/tests/bpf/%.o $(B)/libcore.a
$(MAPS_TESTS): $(B)/maps/test_%: $(B)/obj/tests/maps/test_%.o $(B)/obj/tests/maps/fixture.o $(B)/libcore.a | $(B)/llmd-maps
$(TESTS): private LDLIBS += -lcmocka
build/bench/decide: build/obj/bench/decide.o build/libcore.a
build/bench/bare: build/obj/bench/bare.o
$(NET:%=build/net/%): build/net/%: build/obj/tests/net/%.o

$(sort $(PROGRAMS) $(TESTS) $(NET:%=build/net/%) build/bench/decide build/bench/bare):
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

$(addprefix $(B)/obj/,agent/attach.o agent/datapath.o agent/sockops.o tests/bpf/world.o $(MAPS_TESTS:$(B)/%=tests/%.o) \
	tests/maps/fixture.o): build/bpf/llmd.skel.h

$(B)/obj/%.o: %.c
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# The BPF programs, linked to one object, which the skeleton carries into the agent. The same for every CPU of a byte order.
build/bpf/%.bpf.o: bpf/%.bpf.c
	$(call say,BPF,$<)
	$(Q)$(CLANG) -O2 -g -ffile-prefix-map=$(CURDIR)=. -Wall -Wextra -Werror -Wno-missing-field-initializers -target bpf -mcpu=v3 -MMD -MP \
		-I/usr/include/$(shell $(CC) -dumpmachine) -c -o $@ $<

build/bpf/llmd.skel.h: $(BPF:%=build/bpf/%.bpf.o)
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen object build/bpf/llmd.linked.o $^
	$(Q)$(BPFTOOL) gen skeleton build/bpf/llmd.linked.o name llmd_bpf >$@.new && mv $@.new $@

# Fuzz targets: all of the code under test is instrumented, so it is built once more, with clang.
FUZZ_FLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined
build/fuzz/obj/%.o: %.c
	$(call say,CC,$<)
	$(Q)$(CLANG) $(CPPFLAGS) -std=gnu11 -Wall -Wextra -Werror -Wno-missing-field-initializers $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -c -o $@ $<

build/fuzz/fuzz_maps: $(MAPS:%=build/fuzz/obj/tools/maps/%.o)
build/fuzz/fuzz_mirror: $(MIRROR:%=build/fuzz/obj/agent/%.o)
build/fuzz/fuzz_sse: build/fuzz/obj/tools/load/sse.o
build/fuzz/fuzz_trace: build/fuzz/obj/tools/load/trace.o
build/fuzz/fuzz_%: build/fuzz/obj/tests/fuzz/fuzz_%.o $(LIB:%=build/fuzz/obj/lib/%.o) $(FUZZED:%=build/fuzz/obj/agent/%.o)
	$(call say,FUZZ,$@)
	$(Q)$(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

build/man/%: $(PROGRAMS)
	@mkdir -p $(@D)
	$(Q)build/$(basename $*) --man >$@

.SECONDARY:
-include $(shell find $(B)/obj build/bpf build/fuzz/obj -name '*.d' 2>/dev/null)
