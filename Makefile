# The two commands of README, and what goes with them. PYTHON may name another interpreter.
# LOCKED=1 installs the versions of requirements/lock-py*.txt, into an environment of its own. LOCKED=onedl
# is the maintained fork of mmsegmentation, LOCKED=cpu what CPU=1 requirements/lock.sh wrote.
PYTHON ?= python3
FAMILY = $(addsuffix -,$(filter-out 1,$(LOCKED)))
VENV ?= .venv$(if $(LOCKED),-$(FAMILY)locked)
RUN = $(VENV)/bin/python
INSTALL = requirements/install.sh $(VENV)
# Containers often forbid to write compiled modules, without which each of the many processes of tests starts slowly.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test test-large test-all test-extras presets rounding same-results docs docs-test pictures lint lock versions studies leaderboard networks \
  recipe remedies segmenters soak clean

install: $(VENV)/installed

demo: $(VENV)/installed
	$(RUN) tools/run_stage.py stage=all dataset=demo clip=demo

# In two processes; pyproject.toml says how they share the tests. The small tier takes minutes, and is to be
# run before every commit; the large one holds what takes longer: processes that are killed, presets and
# experiments to their end.
test: $(VENV)/installed
	$(RUN) -m pytest -n 2

test-large: $(VENV)/installed
	$(RUN) -m pytest -n 2 -m large

test-all: test test-large

# The tests of the page, and those with the libraries of other programs, which make test skips. They have an
# environment of their own, which takes from the first one what it lacks itself, such as PyTorch. Files without such
# tests need not be imported.
test-extras: $(VENV)-extras/installed
	EXTRAS=1 $(VENV)-extras/bin/python -m pytest -n 2 -m extras \
	  $$(grep --recursive --files-with-matches --include='*.py' 'mark\.extras' tests)

$(VENV)-extras/installed: $(VENV)/installed pyproject.toml
	$(RUN) -m venv --clear $(VENV)-extras
	$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(VENV)-extras/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth"
	requirements/install.sh $(VENV)-extras --group extras
	touch $@

# Every preset and network from the download to the table, on miniature data sets and weights: a quarter of an hour on
# two cores. NAMES='experiment=sclip_voc21 segmenter=light clip=vit_l14' takes some of them.
presets: $(VENV)/installed
	$(RUN) -m tests.presets $(NAMES)

# The tests that compute with PyTorch, as on a processor with 256-bit vectors, which rounds differently. Those of names,
# files and settings, those on a device without values, and those of our own kernels have nothing to round there.
EXACT = cams/test_cam_stage.py clip/test_boxes.py clip/test_checkpoint.py clip/test_device.py clip/test_fused.py \
  clip/test_on_a_gpu.py clip/test_origin.py clip/test_tokenizers.py masks/test_crf_kernel.py masks/test_given_masks.py \
  masks/test_region_stage.py tags/test_given.py tags/test_given_scores.py tags/test_learning.py tags/test_tag_stage.py
rounding: $(VENV)/installed
	ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	  $(RUN) -m pytest -n 2 -m "" tests/cams tests/clip tests/dense tests/masks tests/tags tests/test_api.py \
	  tests/test_demo.py tests/test_golden.py tests/test_regression.py tests/test_rounds.py \
	  $(EXACT:%=--ignore=tests/%)

# Whether this tree's results have the bytes of those of another commit, BASE, whose own stay in the folder KEEP.
same-results: $(VENV)/installed
	$(RUN) -m tests.same_results $(BASE) $(if $(KEEP),--keep $(KEEP))

# Types every command of README.md and docs/, on small stand-ins for data and weights: a minute or two. What else
# is tested of them is in both tiers.
docs-test: $(VENV)/installed
	DOCS=all $(RUN) -m pytest -n 2 tests/docs/test_notebook.py \
	  tests/docs/test_commands.py::test_the_commands_of_a_page_work_one_after_the_other

# The site, in site/: README, docs/, and the reference of the Python API.
docs: $(VENV)/installed-docs
	rm -rf site
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -d $(VENV)/doctrees --fresh-env -c docs/website . site
	$(RUN) docs/website/check.py site

# The pictures of README and docs/, of this state of the code, and the outputs of the quickstart. The reports are
# opened in Chromium, which has to be installed. Ten minutes or more on two cores.
pictures: $(VENV)-extras/installed
	$(VENV)-extras/bin/python -m docs.pictures

$(VENV)/installed-docs: $(VENV)/installed pyproject.toml
	$(INSTALL) --group docs
	touch $@

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy --strict --follow-imports=silent tests/caller.py
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright --pythonpath $(RUN) tests/caller.py
	# Each step of the image is cached on its own.
	$(VENV)/bin/hadolint --ignore DL3059 Dockerfile

$(VENV)/installed: $(if $(LOCKED),$(wildcard requirements/*.txt),requirements.txt) pyproject.toml
	@requirements/venv.sh $(PYTHON) $(VENV) $(MAKECMDGOALS)
ifdef LOCKED
	$(VENV)/bin/pip install --no-deps --require-hashes -r requirements/build.txt
	name=$$($(RUN) -c 'import sys; print("py%d%d" % sys.version_info[:2])') && \
	  $(INSTALL) --no-deps --require-hashes --no-build-isolation \
	    -r requirements/lock-$(FAMILY)$$name.txt
else
	# pydensecrf2 requires a Cython that cannot compile for 3.13 and later; a newer one can.
	if $(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
	  $(INSTALL) 'cython>=3.0.11,<3.1' setuptools wheel && $(INSTALL) --no-build-isolation 'pydensecrf2>=1.1,<2'; \
	fi
	$(INSTALL) -r requirements.txt
endif
	# The command afseg, and this checkout as the package. Hatchling is among the requirements.
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# Locks what requirements.txt admits, see the head of requirements/lock.sh.
lock:
	requirements/lock.sh $(if $(UPGRADE),--upgrade)

# The suite on every supported Python and on the lowest versions: an hour or two on two cores.
versions:
	requirements/versions.sh

# The tables of docs/experiments.md, on the crowded world: an hour or more on two cores.
STUDIES = precision input_size dmar_blocks dmar_votes alpha alpha_piaa z scene_names classes_in_classes dmar_windows
QUIRKS = exif position_fp16 open_border cwr_stop crf_bgr crf_fp16
studies: $(VENV)/installed
	for study in $(STUDIES) quirks; do $(RUN) tools/run_stage.py experiment=$$study || exit; done
	for quirk in $(QUIRKS); do \
	  $(RUN) tools/run_stage.py experiment=quirks compat.$$quirk=false || exit; \
	done
	for study in $(STUDIES) quirks; do $(RUN) tools/make_tables.py --study $$study || exit; done

# The leaderboard of docs/compare-methods.md, hours on two cores; OVERRIDES='dataset=voc2012 dataset.root=…
# clip=vit_b16' for that of other data and another CLIP.
LEADERBOARD = leaderboard leaderboard_tags leaderboard_cams leaderboard_masks
leaderboard: $(VENV)/installed
	for part in $(LEADERBOARD); do $(RUN) tools/run_stage.py experiment=$$part $(OVERRIDES) || exit; done
	$(RUN) tools/make_tables.py --leaderboard

# The table of docs/experiments.md, "Which settings are best without labels?": the published settings, then one
# change after the other, on three draws of the crowded world.
DRAWS = report,report_2,report_3
RECIPE = experiment=recipe
PUBLISHED = dataset=demo_crowded
TAGS = dataset.split=[$(DRAWS)] stage=[tags,evaluate]
MASKS = dataset.split=[$(DRAWS)] stage=[tags,cams,masks,evaluate]
recipe: $(VENV)/installed
	$(RUN) tools/run_stage.py $(PUBLISHED) $(MASKS)
	$(RUN) tools/run_stage.py $(PUBLISHED) $(TAGS) tags.reidentify=false
	$(RUN) tools/run_stage.py $(PUBLISHED) $(TAGS) tags.reidentify=false tags.alpha=0.3
	$(RUN) tools/run_stage.py $(RECIPE) $(MASKS) cams.affinity=true masks=crf
	$(RUN) tools/run_stage.py $(RECIPE) $(MASKS) masks=crf
	$(RUN) tools/run_stage.py $(RECIPE) $(MASKS)
	$(RUN) tools/make_tables.py --leaderboard --splits $(DRAWS)

# The table of docs/experiments.md, "Which network is best?", and by how much the figures differ from it: half a day on
# two cores.
LEARN = stage=[tags,cams,masks,train,predict,evaluate]
DEMO = dataset=demo clip=demo dataset.split=[train,val] $(LEARN)
DRAWN = dataset.split=[train,choose,$(DRAWS)] $(LEARN)
networks: $(VENV)/installed
	set -e; run="$(RUN) tools/run_stage.py -m"; \
	$$run $(DEMO) segmenter.test.crf='{}' seed=0,1,2; \
	$$run $(DEMO) segmenter=demo seed=0,1,2; \
	$$run $(DEMO) segmenter.iterations=400 segmenter.test.crf='{}' seed=0,1,2; \
	$$run $(DEMO) segmenter=frozen_vit segmenter.backbone=demo; \
	$$run $(DEMO) segmenter.enlarge=1.5; \
	$$run $(DEMO) masks=ground_truth; \
	$$run $(DEMO) rounds=2,3 self_training.refine=true seed=0,1,2; \
	$$run $(DEMO) rounds=2 self_training.refine=true,false self_training.keep_tags=true,false; \
	$$run $(RECIPE) $(DRAWN) segmenter=frozen_clip segmenter.iterations=200,400 seed=0,1,2; \
	$$run $(RECIPE) $(DRAWN) segmenter=frozen_clip segmenter.iterations=200,400 segmenter.test.crf='{}'; \
	$$run $(RECIPE) $(DRAWN) segmenter=demo; \
	$$run $(RECIPE) $(DRAWN) segmenter=frozen_clip masks=ground_truth; \
	$$run $(RECIPE) $(DRAWN) segmenter=frozen_clip rounds=2 self_training.refine=true seed=0,1,2; \
	$$run $(RECIPE) $(DRAWN) segmenter=frozen_clip segmenter.iterations=200 rounds=2,3 self_training.refine=true; \
	$$run $(RECIPE) $(DRAWN) segmenter=frozen_clip segmenter.iterations=200 rounds=2 self_training.refine=true self_training.keep_tags=false; \
	$$run $(RECIPE) $(DRAWN) segmenter=frozen_clip segmenter.iterations=200 segmenter.enlarge=1.5; \
	$$run $(PUBLISHED) $(DRAWN) segmenter=frozen_clip segmenter.iterations=200,400 seed=0,1,2
	$(RUN) -m docs.networks outputs/demo outputs/demo_crowded

# The effects in pipeline/tags/remedies.yaml, and that of the recipe, at the settings of dataset=folder: a quarter of
# an hour on two cores.
FOLDER = compat=clean tags.min_score=0.3
OBJECTS = square,triangle,heart,ring,cross,crescent,arrow,hexagon
remedies: $(VENV)/installed
	set -e; for scenes in 'dataset=demo_crowded dataset.split=choose' 'dataset=demo dataset.split=val'; do \
	  run="$(RUN) tools/run_stage.py -m $$scenes clip=demo $(FOLDER) tags.variants=[] stage=[tags,evaluate] experiment_name=remedies"; \
	  $$run tags.reidentify=true,false tags.alpha=0.5,0.3 tags.min_score=0.1,0.3; \
	  $$run 'tags.standardise=[image,class]' tags.z=0,1.5 'tags.fit_split=$${dataset.split}'; \
	  $$run tags.min_score=0.9; \
	  $$run 'dataset.classes=[disc,star]' tags.min_score=0.1,0.3,0.5; \
	  $$run 'dataset.classes=[disc,star]' 'dataset.backgrounds=[grass,gravel,brick,sky,sand,water,$(OBJECTS)]' tags.min_score=0.1,0.3; \
	  $$run experiment=recipe tags.min_score=0.1,0.3; \
	done
	$(RUN) tools/make_tables.py --study remedies

# Tables of networks, noisy masks and rounds on the demo: under half an hour on two cores.
segmenters: $(VENV)/installed
	$(RUN) tools/run_stage.py experiment=segmenters
	$(RUN) tools/run_stage.py experiment=noisy_masks
	$(RUN) tools/run_stage.py experiment=noisy_masks masks=crf_confident
	$(RUN) tools/make_tables.py --study segmenters
	$(RUN) tools/make_tables.py --study noisy_masks
	$(RUN) tools/run_stage.py experiment=self_training

# Every fault many times: kills at thirty moments of a stage, damaged and hostile files by the hundred. Under an hour on
# two cores.
soak: $(VENV)/installed
	$(RUN) -m pytest tests/faults tests/hostile tests/safety tests/segmenter/test_training_faults.py \
	  tests/engine/test_pool.py -m "" --soak
	$(RUN) -m pytest -m soak --soak tests/commands tests/masks tests/segmenter \
	  --ignore tests/segmenter/test_training_faults.py

clean:
	rm -rf .venv .venv-* outputs site docs/reference data/*/scenes
