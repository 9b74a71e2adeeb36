"""The lightweight selector: a small language model that ranks visual tokens as the VideoLLM's reference layer does.

FlexSelect-Lite (section 3.3): its own projector over the frozen tower's features, its own embeddings, the layers
0..n-2 in full, and of layer n-1 only norm, queries and keys, whose attention is the score.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from huggingface_hub import HfApi
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from flexselect.attention import PROBED, Probe, probed_scores
from flexselect.families.base import VideoFamily
from flexselect.loading.internlm2_tokenizer import load_tokenizer
from flexselect.loading.released_selectors import projector_of, released_fields
from flexselect.loading.weights import (
    TOKENIZER_FILES,
    LoadOptions,
    checked_tokenizer,
    copy_files,
    describing,
    load_weights,
    read_config,
)
from flexselect.selectors.model_card import model_card
from flexselect.selectors.projectors import MERGE, PROJECTORS
from flexselect.validation import check_choice


class LiteSelectorConfig(PreTrainedConfig):
    """Sizes of a selector, and how it was trained.

    Args:
        text_config: of the small language model.
        projector: which family's vision features it takes: "llava", "qwen2_5_vl" or "internvl".
        vision_size: width C of those features.
        reduction: "max" or "mean" over heads and query rows, as it was trained.
        alignment: "exact", or "released" for weights trained with the released InternVL code, whose scores mean tokens
            a few places before (see `Selection.shift`).
        brackets: ids of <img> and </img> in its own vocabulary, InternVL only.
        own_tokenizer: whether it reads text with the tokenizer saved beside it, and not with the VideoLLM's.
        training: what its model card says: `teacher`, `layer`, `reduction`, `start`, `steps`, `loss`, `recall`.
    """

    model_type = "flexselect_lite"
    sub_configs: ClassVar = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        projector: str = "qwen2_5_vl",
        vision_size: int = 1280,
        reduction: str = "max",
        alignment: str = "exact",
        brackets: list[int] | None = None,
        own_tokenizer: bool = False,
        training: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("projector", projector, tuple(PROJECTORS))
        check_choice("alignment", alignment, ("exact", "released"))
        if text_config is None:
            text_config = {"model_type": "qwen2"}
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.projector = projector
        self.vision_size = vision_size
        self.reduction = reduction
        self.alignment = alignment
        self.brackets = brackets
        self.own_tokenizer = own_tokenizer
        self.training = training
        self.initializer_range = text_config.initializer_range
        super().__init__(**kwargs)


class LiteSelector(PreTrainedModel):
    """A selector; `from_pretrained` reads those of this project and the released ones as they are."""

    config_class = LiteSelectorConfig
    base_model_prefix = "selector"
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: LiteSelectorConfig) -> None:
        super().__init__(config)
        self.decoder = AutoModel.from_config(config.text_config)
        self.decoder.set_attn_implementation(PROBED)  # for good: checkpointed layers run again outside of `forward`
        self.projector = PROJECTORS[config.projector](config.vision_size, config.text_config.hidden_size)
        self.post_init()

    @classmethod
    def from_pretrained(cls, path: str, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        """Load a selector, strictly.

        Args:
            path: local folder or hub id, of this project's layout or one of the three released ones.
            args: none.
            options: `dtype` ("auto" by default: as stored) and the rest of `LoadOptions`.

        Raises:
            FileNotFoundError: no checkpoint at `path`.
            ValueError: no selector, or weights that do not fit; naming what was found.
        """
        if "config" in options:  # called by `load_weights` below
            return super().from_pretrained(path, *args, **options)
        config, placed = read_config(path), LoadOptions(**{"dtype": "auto", **options})
        released = projector_of(config) is not None
        if not released and config.get("model_type") != LiteSelectorConfig.model_type:
            found = config.get("architectures") or config.get("model_type")
            raise ValueError(f"{path} is no selector: its config.json says {found}")
        with describing(path):
            fields = released_fields(path, config) if released else config
            made = LiteSelectorConfig(**fields) if released else LiteSelectorConfig.from_dict(fields)
        return load_weights(ReleasedSelector if released else LiteSelector, path, made, placed)

    def save_pretrained(self, folder: str | Path, *args: Any, **options: Any) -> None:  # type: ignore[override]
        """Write config.json, model.safetensors, a model card and its own tokenizer if any, in this project's layout."""
        if self.config.own_tokenizer:
            copy_files(str(self.name_or_path), Path(folder), TOKENIZER_FILES)
        super().save_pretrained(folder, *args, **{"save_original_format": False, **options})
        for weights in Path(folder).glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors lets its owner alone read them
        if self.config.training is not None:
            (Path(folder) / "README.md").write_text(model_card(self.config.training), encoding="utf-8")

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:  # type: ignore[override]
        """Upload what `save_pretrained` writes, the model card too, which transformers' own would replace.

        Args:
            repo_id: "owner/name"; made when missing.
            private: of a new one.
            token: None: as `hf auth login` left it.

        Returns:
            The address of the commit.
        """
        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload selector"))

    @cached_property
    def tokenizer(self) -> Any:
        """Its own, where `own_tokenizer` says so.

        Raises:
            ValueError: if there is none beside the weights, or another's.
        """
        delimiters = self.config.brackets or []
        return checked_tokenizer(str(self.name_or_path), load_tokenizer, dict(zip(("<img>", "</img>"), delimiters)))

    def gradient_checkpointing_enable(self, *args: Any, **options: Any) -> None:
        """For all layers but the last, which is left halfway."""
        super().gradient_checkpointing_enable(*args, **options)
        self.decoder.layers[-1].gradient_checkpointing = False

    @property
    def scored_layer(self) -> int:
        """The last layer: its attention is the score."""
        return len(self.decoder.layers) - 1

    def embed(self, ids: Tensor) -> Tensor:
        """Text ids [...] to embeddings [..., d].

        Raises:
            ValueError: for an id that it does not know.
        """
        table = self.decoder.get_input_embeddings()
        if ids.numel() and int(ids.max()) >= table.num_embeddings:
            raise ValueError(
                f"the prompt has token {int(ids.max())}, the selector at {self.name_or_path} knows "
                f"{table.num_embeddings}: it was made for another VideoLLM"
            )
        return table(ids.to(self.device))

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The tower's view of some units, see `VideoLM.vision`, to this selector's visual tokens: [v, d].

        Raises:
            ValueError: if the view is of another tower than it was made for.
        """
        expected = self.config.vision_size * (MERGE**2 if self.config.projector == "qwen2_5_vl" else 1)
        if vision.shape[-1] != expected:
            raise ValueError(f"this selector takes vision features of width {expected}, not {vision.shape[-1]}")
        delimiters = self.config.brackets
        ends = None if delimiters is None else self.embed(torch.tensor(delimiters))
        return self.projector(vision.to(self.device, self.dtype), ends)

    def forward(self, embeddings: Tensor, position_ids: Tensor, query_rows: int, visual: slice) -> Tensor:
        """Scores with gradients: float32 [B, V].

        Args:
            embeddings: prefix, visual tokens, query: [B, N, d], no padding.
            position_ids: [B, N], or [3, B, N] for M-RoPE.
            query_rows: Q, the text after the last visual token.
            visual: where the visual tokens stand.
        """
        probe = Probe(self.scored_layer, query_rows, visual, self.config.reduction)
        return probed_scores(self.decoder, embeddings, position_ids, probe)


class ReleasedSelector(LiteSelector):
    """A selector under a name of its own, so that the renamings of released weights touch no other model."""


def selector_config(family: VideoFamily, sizes: dict[str, Any], reduction: str = "max") -> LiteSelectorConfig:
    """Configuration of a new selector for a family: its language model is the VideoLLM's, but for `sizes`.

    Raises:
        ValueError: for a family that no selector can be made for.
    """
    inputs = family.selector_inputs
    if inputs is None:
        raise ValueError(f"no selector can be made for {family.name} at {family.path} yet")
    fields = {**family.model_config.get_text_config().to_dict(), **sizes}
    head = sizes.get("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    fields = {name: value for name, value in fields.items() if name not in ("layer_types", "dtype", "architectures")}
    if "head_dim" in fields:
        fields["head_dim"] = head
    section = fields["rope_parameters"].get("mrope_section")
    if section is not None:  # the same shares of a head, as the released selector has them
        scaled = [share * (head // 2) // sum(section) for share in section]
        scaled[0] += head // 2 - sum(scaled)
        fields["rope_parameters"] = {**fields["rope_parameters"], "mrope_section": scaled}
    return LiteSelectorConfig(fields, reduction=reduction, **inputs)
