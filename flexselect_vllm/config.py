"""The configuration of an engine folder: a language model that is given whole prompts as embeddings."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class FlexSelectConfig(PreTrainedConfig):
    """The language model of a VideoLLM, without its tower.

    Args:
        text_config: its configuration, of a `model_type` that transformers knows.
        deepstack_levels: E, the decoder layers that take visual features beside the embeddings (Qwen3-VL).
    """

    model_type = "flexselect"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 (transformers' own form)

    def __init__(
        self, text_config: dict[str, Any] | PreTrainedConfig | None = None, deepstack_levels: int = 0, **others: Any
    ) -> None:
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, dict) else text_config
        self.deepstack_levels = deepstack_levels
        super().__init__(**others)
