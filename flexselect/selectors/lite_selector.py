"""The lightweight selector: a small language model that ranks visual tokens as the VideoLLM's reference layer does.

FlexSelect-Lite (section 3.3): a projector over the frozen tower's features, embeddings, the layers 0..n-2, and of layer
n-1 only norm, queries and keys: its attention gives the scores.
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

from flexselect.attention.layers import RECURRENT, attention_layers
from flexselect.attention.probe import PROBED, Probe, probed_scores
from flexselect.families.base import VideoFamily
from flexselect.loading.checkpoint_files import describing, kind_of, read_config
from flexselect.loading.internlm2_tokenizer import load_tokenizer
from flexselect.loading.released_selectors import projector_of, released_fields
from flexselect.loading.tokenizer_files import TOKENIZER_FILES, checked_tokenizer, copy_files
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.selectors.model_card import model_card
from flexselect.selectors.projectors import MERGE, PROJECTORS
from flexselect.shipped import checkpoint_folder
from flexselect.validation import check_choice


class LiteSelectorConfig(PreTrainedConfig):
    """Configuration of a selector, with facts about its training.

    Args:
        text_config: configuration of the small language model.
        projector: the family of its vision features: "llava", "qwen2_5_vl", "internvl" or "qwen3_vl".
        vision_size: width C of those features.
        unseen_size: width of further features behind them that the selector does not see: deepstack, Qwen3-VL only.
        reduction: "max" or "mean" over heads and query rows, as in training.
        alignment: "exact"; or "released" for weights trained with the released InternVL code, whose scores are for
            tokens a few positions earlier (see `Selection.shift`).
        brackets: ids of <img> and </img> in the selector's vocabulary, InternVL only.
        own_tokenizer: whether the selector has a separate tokenizer, saved with it, rather than the VideoLLM's.
        training: facts for the model card: `teacher`, `layer`, `reduction`, `start`, `steps`, `loss`, `recall`. None:
            no model card is written.
    """

    model_type = "flexselect_lite"
    unseen_size = 0
    sub_configs: ClassVar = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        projector: str = "qwen2_5_vl",
        vision_size: int = 1280,
        unseen_size: int = 0,
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
        last = text_config.num_hidden_layers - 1
        if last not in attention_layers(text_config):
            raise ValueError(f"a selector scores with its last layer, but layer {last} is recurrent: set other sizes")
        self.text_config = text_config
        self.projector = projector
        self.vision_size = vision_size
        if unseen_size:  # a selector without looks as one of version 0.1
            self.unseen_size = unseen_size
        self.reduction = reduction
        self.alignment = alignment
        self.brackets = brackets
        self.own_tokenizer = own_tokenizer
        self.training = training
        self.initializer_range = text_config.initializer_range
        super().__init__(**kwargs)


class LiteSelector(PreTrainedModel):
    """A model that ranks visual tokens; `from_pretrained` reads selectors of this project and the released ones."""

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
        """Load a selector; missing or unexpected weights are errors.

        Args:
            path: local folder or hub id, in this project's layout or one of the three released ones.
            args: unused.
            options: `dtype` (default "auto": as stored) and the other fields of `LoadOptions`.

        Raises:
            FileNotFoundError: if there is no checkpoint at `path`.
            ValueError: if it is not a selector, or its weights do not fit.
        """
        if "config" in options:  # called by `load_weights` below
            return super().from_pretrained(path, *args, **options)
        load_options, path = LoadOptions(**{"dtype": "auto", **options}), checkpoint_folder(path)
        kind, config = selector_at(path)
        return load_weights(kind, path, config, load_options)

    def save_pretrained(self, folder: str | Path, *args: Any, **options: Any) -> None:  # type: ignore[override]
        """Write config.json, model.safetensors, the model card and the separate tokenizer, if any, in our layout."""
        if self.config.own_tokenizer:
            copy_files(str(self.name_or_path), Path(folder), TOKENIZER_FILES)
        super().save_pretrained(folder, *args, **{"save_original_format": False, **options})
        for weights in Path(folder).glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors makes the file readable by its owner only
        if self.config.training is not None:
            (Path(folder) / "README.md").write_text(model_card(self.config.training), encoding="utf-8")

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:  # type: ignore[override]
        """Upload what `save_pretrained` writes, with this project's model card instead of transformers' card.

        Args:
            repo_id: "owner/name"; created if missing.
            private: whether a new repository is private; None: the owner's default.
            token: hub token; None: the one of `hf auth login`.

        Returns:
            The URL of the commit.
        """
        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload selector"))

    @cached_property
    def tokenizer(self) -> Any:
        """The selector's separate tokenizer, if `own_tokenizer` is set.

        Raises:
            ValueError: if it is missing, or does not fit the weights.
        """
        delimiters = self.config.brackets or []
        return checked_tokenizer(str(self.name_or_path), load_tokenizer, dict(zip(("<img>", "</img>"), delimiters)))

    def gradient_checkpointing_enable(self, *args: Any, **options: Any) -> None:
        """Enable gradient checkpointing for all layers but the last, because `forward` stops within the last layer."""
        super().gradient_checkpointing_enable(*args, **options)
        self.decoder.layers[-1].gradient_checkpointing = False

    @property
    def scored_layer(self) -> int:
        """Number of the last layer, whose attention gives the scores."""
        return len(self.decoder.layers) - 1

    def embed(self, ids: Tensor) -> Tensor:
        """Embed text ids [...]: [..., d].

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        embedding = self.decoder.get_input_embeddings()
        if ids.numel() and int(ids.max()) >= embedding.num_embeddings:
            raise ValueError(
                f"the prompt has token {int(ids.max())}, the selector at {self.name_or_path} knows "
                f"{embedding.num_embeddings}: it was made for another VideoLLM"
            )
        return embedding(ids.to(self.device))

    def project(self, vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Project outputs of the tower (`VideoLM.vision`) to the selector's visual tokens: [v, d].

        Raises:
            ValueError: if the features are from another tower.
        """
        patches = MERGE**2 if self.config.projector in ("qwen2_5_vl", "qwen3_vl") else 1  # side by side
        seen = self.config.vision_size * patches
        expected = seen + self.config.unseen_size
        if vision.shape[-1] != expected:
            raise ValueError(f"this selector takes vision features of width {expected}, not {vision.shape[-1]}")
        ids = self.config.brackets
        delimiters = None if ids is None else self.embed(torch.tensor(ids))  # [2, d]
        return self.projector(vision[..., :seen].to(self.device, self.dtype), delimiters)

    def forward(self, embeddings: Tensor, position_ids: Tensor, query_rows: int, visual: slice) -> Tensor:
        """Compute scores with gradients: float32 [B, V].

        Args:
            embeddings: prefix, visual tokens, query: [B, N, d], without padding.
            position_ids: [B, N], or [3, B, N] for M-RoPE.
            query_rows: Q, number of text tokens after the video.
            visual: range of the visual tokens.
        """
        probe = Probe(self.scored_layer, query_rows, visual, self.config.reduction)
        return probed_scores(self.decoder, embeddings, position_ids, probe)


class ReleasedSelector(LiteSelector):
    """A subclass for the released selectors, so that their key conversions apply to no other model."""


def selector_at(path: str) -> tuple[type[LiteSelector], LiteSelectorConfig]:
    """Read config.json of a trained selector: the class that loads it, and its configuration.

    Raises:
        FileNotFoundError: if there is no checkpoint at `path`.
        ValueError: if it is not a selector.
    """
    fields = read_config(path)
    released = projector_of(fields) is not None
    if not released and fields.get("model_type") != LiteSelectorConfig.model_type:
        raise ValueError(f"{path} is not a selector: its config.json says {kind_of(fields)}")
    with describing(path):
        if released:
            return ReleasedSelector, LiteSelectorConfig(**released_fields(path, fields))
        return LiteSelector, LiteSelectorConfig.from_dict(fields)


def check_made_for(path: str, config: LiteSelectorConfig, family: VideoFamily) -> None:
    """Refuse a selector that was trained for another model, before weights are loaded.

    Args:
        path: the selector, for errors.
        config: its configuration.
        family: the family of the VideoLLM.

    Raises:
        ValueError: if the family can have no selector, or its tower gives other features.
    """
    inputs = family.selector_inputs
    if inputs is None:
        raise ValueError(f"{path} is not for {family.path}: there are no trained selectors for {family.name}")
    takes = config.projector, config.vision_size, config.unseen_size
    gives = inputs["projector"], inputs["vision_size"], inputs.get("unseen_size", 0)
    if takes != gives:
        raise ValueError(
            f"{path} takes {_features(*takes)}, but the tower of {family.path} gives {_features(*gives)}: "
            "it was trained for another model"
        )


def _features(projector: str, seen: int, unseen: int) -> str:
    more = f" and {unseen} of deepstack" if unseen else ""
    return f"vision features of width {seen}{more} ({projector})"


def selector_config(family: VideoFamily, sizes: dict[str, Any], reduction: str = "max") -> LiteSelectorConfig:
    """Make the configuration of a new selector.

    Args:
        family: the family of the VideoLLM, whose language model the selector's is like.
        sizes: fields of the language model's configuration that differ from the VideoLLM's.
        reduction: see `LiteSelectorConfig`.

    Raises:
        ValueError: if the family can have no selector.
    """
    inputs = family.selector_inputs
    if inputs is None:
        raise ValueError(f"no selector can be made for {family.name} at {family.path} yet")
    fields = {**family.model_config.get_text_config().to_dict(), **sizes}
    head = sizes.get("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    kinds = (fields.get("layer_types") or [])[: fields["num_hidden_layers"]]
    fields = {name: value for name, value in fields.items() if name not in ("layer_types", "dtype", "architectures")}
    if RECURRENT in kinds:  # a hybrid like the VideoLLM
        fields["layer_types"] = kinds
    if "head_dim" in fields:
        fields["head_dim"] = head
    rope = fields["rope_parameters"]
    section, turned = rope.get("mrope_section"), int(head * rope.get("partial_rotary_factor", 1.0)) // 2
    if section is not None:  # the same shares of a head as in the released selector
        scaled = [share * turned // sum(section) for share in section]
        scaled[0] += turned - sum(scaled)
        fields["rope_parameters"] = {**rope, "mrope_section": scaled}
    return LiteSelectorConfig(fields, reduction=reduction, **inputs)
