"""A language model in vLLM that is given a whole prompt as embeddings, each with its position.

The text is embedded on our side too. So a prompt is one item, whatever text lies between its visual tokens; two
questions about one video differ in their items, and never share a cache entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.inputs import mm_input
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.qwen3_vl import Qwen3LLMForCausalLM
from vllm.model_executor.models.utils import maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange
from vllm.multimodal.parse import DictEmbeddingItems, MultiModalDataParser
from vllm.multimodal.processing import BaseDummyInputsBuilder, BaseMultiModalProcessor, BaseProcessingInfo
from vllm.sequence import IntermediateTensors

from flexselect_vllm.names import language_weights
from flexselect_vllm.prompt import FIELDS, MODALITY

LANGUAGE_MODELS: dict[str, type[nn.Module]] = {  # by `model_type`
    "qwen2": Qwen2ForCausalLM,
    "qwen2_5_vl_text": Qwen2ForCausalLM,
    "llama": LlamaForCausalLM,  # InternLM2
    "qwen3": Qwen3ForCausalLM,
    "qwen3_vl_text": Qwen3LLMForCausalLM,
}


def fields_config(data: Mapping[str, Tensor]) -> dict[str, MultiModalFieldConfig]:
    """Say how an item's tensors are stored: each as one tensor of the prompt."""
    return {name: MultiModalFieldConfig.batched(MODALITY, keep_on_cpu=name != "prompt_embeds") for name in data}


class PromptParser(MultiModalDataParser):
    """Takes a prompt: its embeddings, positions and ids, each as it is, or from a server as a batch of one."""

    def _parse_video_data(self, data: Any) -> DictEmbeddingItems | None:
        if data is None:
            return None
        batches = {name: data[name][None] if data[name].ndim == ndim else data[name] for name, ndim in FIELDS.items()}
        return DictEmbeddingItems(batches, modality=MODALITY, required_fields=set(FIELDS), fields_factory=fields_config)


class PromptInfo(BaseProcessingInfo):
    """One prompt per request."""

    def get_data_parser(self) -> MultiModalDataParser:
        """Return the parser of prompts."""
        return PromptParser()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return the number of prompts per request: 1."""
        return {MODALITY: 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Return the tokens of a prompt: at most all."""
        return {MODALITY: seq_len}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """Return none: there is no processor."""
        return {}


class DummyPrompt(BaseDummyInputsBuilder[PromptInfo]):
    """A prompt of the longest length, with which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return no text."""
        return ""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """Return a prompt of zeros."""
        config = self.info.get_hf_config()
        width = config.text_config.hidden_size * (1 + config.deepstack_levels)
        dtype = self.info.ctx.model_config.dtype
        ids = torch.zeros(seq_len, dtype=torch.long)
        return {
            MODALITY: {
                "prompt_embeds": torch.zeros(seq_len, width, dtype=dtype),
                "positions": ids[:, None].expand(-1, 3),
                "ids": ids,
            }
        }


class PromptProcessor(BaseMultiModalProcessor[PromptInfo]):
    """Lets the item be the prompt: what vLLM tokenized, if anything, is ignored."""

    requires_tokenizer = False

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any, **how: Any) -> dict[str, Any]:
        return fields_config(hf_inputs)

    def _get_prompt_updates(self, *args: Any) -> Sequence[Any]:
        return []

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Make vLLM's input of an item."""
        data = dict(inputs.mm_data_items[MODALITY].get_passthrough_data())
        hashes = inputs.get_mm_hashes(self.info.model_id, self.info.ctx.get_mm_config().mm_hasher_algorithm)
        ids = data["ids"][0].tolist()
        return mm_input(
            prompt_token_ids=ids,
            mm_kwargs=MultiModalKwargsItems.from_hf_inputs(data, fields_config(data)),
            mm_hashes=hashes,
            mm_placeholders={MODALITY: [PlaceholderRange(offset=0, length=len(ids))]},
        )


@MULTIMODAL_REGISTRY.register_processor(PromptProcessor, info=PromptInfo, dummy_inputs=DummyPrompt)
class FlexSelectForCausalLM(nn.Module, SupportsMultiModal, SupportsMRoPE, SupportsPP):
    """The language model of a VideoLLM; see `FlexSelectConfig`."""

    language_model: Any
    config: Any
    deepstack: Tensor  # [E, n, D], zeros but between `embed_input_ids` and `forward`

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return the text that stands for a prompt: none is needed."""
        return ""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        text = self.config.text_config
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            kind: Any = LANGUAGE_MODELS[text.model_type]
            of_text = vllm_config.with_hf_config(text, architectures=[kind.__name__])
            self.language_model = kind(vllm_config=of_text, prefix=maybe_prefix(prefix, "language_model"))
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors
        shape = self.config.deepstack_levels, vllm_config.scheduler_config.max_num_batched_tokens, text.hidden_size
        self.register_buffer("deepstack", torch.zeros(shape, dtype=vllm_config.model_config.dtype), persistent=False)

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Return the prompt's positions, int64 [3, N], and how far those of new tokens are beyond their index."""
        positions = mm_features[0].data["positions"].data.reshape(-1, 3).T
        return positions, int(positions.max()) + 1 - len(input_tokens)

    def embed_multimodal(self, prompt_embeds: Tensor | list[Tensor] | None = None, **others: object) -> list[Tensor]:
        """Return the embeddings of each prompt: [N, (1 + E) * D]."""
        return [] if prompt_embeds is None else [prompt.reshape(-1, prompt.shape[-1]) for prompt in prompt_embeds]

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Sequence[Tensor] | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Embed new tokens, and put the prompts' embeddings in their places: [n, D]."""
        if not multimodal_embeddings or is_multimodal is None:
            return self.language_model.embed_input_ids(input_ids)
        new = input_ids.masked_fill(is_multimodal.to(input_ids.device), 0)  # placeholders may have no embedding
        embedded = self.language_model.embed_input_ids(new)
        prompts = torch.cat(list(multimodal_embeddings)).to(embedded)
        places = is_multimodal.to(embedded.device).nonzero().flatten()
        embedded[places] = prompts[:, : embedded.shape[-1]]
        if len(self.deepstack):
            self.deepstack[:, places] = (
                prompts[:, embedded.shape[-1] :].unflatten(-1, (len(self.deepstack), -1)).transpose(0, 1)
            )
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **others: object,
    ) -> Any:
        """Run the decoder layers."""
        decoder = self.language_model.model
        if not len(self.deepstack):
            return decoder(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)
        count = positions.shape[-1]
        levels = {f"deepstack_input_embeds_{i}": level[:count] for i, level in enumerate(self.deepstack)}
        hidden = decoder(
            input_ids,
            positions,
            intermediate_tensors,
            inputs_embeds=inputs_embeds,
            deepstack_input_embeds=IntermediateTensors(levels),
        )
        self.deepstack[:, :count].zero_()
        return hidden

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits of the vocabulary."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the language model's weights from any layout of the checkpoint."""
        loaded = self.language_model.load_weights(language_weights(weights, self.config.text_config))
        return {f"language_model.{name}" for name in loaded}
