"""Tiny random models in the real classes and the real on-disk formats."""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from flexselect.loading.internvl_chat import InternVLChatForConditionalGeneration, internvl_config
from flexselect.loading.llava_qwen import LlavaVideoForConditionalGeneration, llava_config

DEMO = Path(__file__).parents[1] / "checkpoints" / "demo" / "video_llm"
OWN = {"budget": 9, "reference_layer": 2}
MROPE = {64: [2, 3, 3], 128: [4, 6, 6]}  # by hidden size, for heads of a quarter of it
INTERLEAVED = {64: [4, 2, 2], 128: [6, 5, 5]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
PARTIAL = {64: [2, 1, 1], 128: [3, 3, 2]}  # half of a head turns


def randomise(model) -> None:
    """Wide enough that attention is far from uniform, and answers differ."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        elif "newline" in name:
            torch.nn.init.normal_(weight)


def qwen2_5_vl(folder: Path, layers: int = 4, seed: int = 0, hidden: int = 64) -> Path:
    """4 query and 2 key heads, windows in the tower; the demo's tokenizer."""
    torch.manual_seed(seed)
    for file in DEMO.glob("*.json"):
        shutil.copy(file, folder)
    config = Qwen2_5_VLConfig.from_pretrained(DEMO)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, 96, layers
    text.layer_types, text.rope_parameters["mrope_section"] = ["full_attention"] * layers, MROPE[hidden]
    vision.hidden_size, vision.intermediate_size, vision.num_heads, vision.out_hidden_size = 32, 48, 2, hidden
    vision.depth, vision.fullatt_block_indexes, vision.window_size = 2, [1], 56
    config.flexselect = {"min_pixels": 56 * 84, "max_pixels": 84 * 84, **OWN}
    model = Qwen2_5_VLForConditionalGeneration(config)
    randomise(model)
    model.save_pretrained(folder)
    return folder


def llava_video(folder: Path, seed: int = 0, hidden: int = 64) -> Path:
    """LlavaQwenForCausalLM with a 2-layer SigLIP at 384 pixels; the demo's tokenizer."""
    torch.manual_seed(seed)
    for file in DEMO.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    config = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava",
        "hidden_size": hidden,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 448,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "image_token_index": 151646,
        "mm_projector_type": "mlp2x_gelu",
        "mm_newline_position": "grid",
        "flexselect": OWN,
    }
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vision_tower_config.json").write_text(json.dumps({**tower, "image_size": 384, "patch_size": 14}))
    model = LlavaVideoForConditionalGeneration(llava_config(str(folder), config))
    randomise(model)
    return write(folder, llava_names(model.state_dict()))


def llava_names(weights: dict) -> dict:
    """Hugging Face's names to the authors'."""
    names = (
        (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
        (r"^model\.multi_modal_projector\.linear_1", "model.mm_projector.0"),
        (r"^model\.multi_modal_projector\.linear_2", "model.mm_projector.2"),
        (r"^model\.language_model\.", "model."),
    )
    return {renamed(name, names): weight for name, weight in weights.items()}


def internvl(folder: Path, seed: int = 0, hidden: int = 64, kind: str = "internlm2") -> Path:
    """InternVLChatModel with a 2-layer InternViT at 448 pixels; `kind` is that of the language model."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<img>", "</img>", "<IMG_CONTEXT>"]})
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    tokenizer.save_pretrained(folder)
    added = {str(number): {"content": token.content} for number, token in tokenizer.added_tokens_decoder.items()}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": added}))
    text = {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "hidden_size": hidden,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 448,
        "bias": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }
    if kind != "internlm2":
        text |= {"architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind, "rope_scaling": None}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "norm_type": "layer_norm",
        "num_channels": 3,
        "qkv_bias": True,
        "qk_normalization": False,
        "image_size": 448,
        "patch_size": 14,
    }
    config = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "downsample_ratio": 0.5}
    config |= {"ps_version": "v2", "llm_config": text, "vision_config": vision, "flexselect": OWN}
    (folder / "config.json").write_text(json.dumps(config))
    model = InternVLChatForConditionalGeneration(internvl_config(str(folder), config))
    randomise(model)
    return write(folder, internvl_names(model.state_dict(), 2, kind == "internlm2"))


def qwen_names(weights: dict) -> dict:
    """transformers 5's names to the hub's."""
    names = ((r"^model\.visual\.", "visual."), (r"^model\.language_model\.", "model."))
    return {renamed(name, names): weight for name, weight in weights.items()}


def internvl_names(weights: dict, kv_heads: int, internlm2: bool = True) -> dict:
    """Hugging Face's names to the authors', q, k and v packed as they are there."""
    original = (
        (r"^model\.vision_tower\.", "vision_model."),
        (r"encoder\.layer\.", "encoder.layers."),
        (r"cls_token", "class_embedding"),
        (r"position_embeddings", "position_embedding"),
        (r"patch_embeddings\.projection", "patch_embedding"),
        (r"lambda_", "ls"),
        (r"attention\.projection_layer", "attn.proj"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"^model\.multi_modal_projector\.layer_norm", "mlp1.0"),
        (r"^model\.multi_modal_projector\.linear_1", "mlp1.1"),
        (r"^model\.multi_modal_projector\.linear_2", "mlp1.3"),
        (r"^model\.language_model\.", "language_model.model."),
    )
    of_internlm2 = (
        (r"^lm_head", "language_model.output"),
        (r"embed_tokens", "tok_embeddings"),
        (r"self_attn\.o_proj", "attention.wo"),
        (r"mlp\.gate_proj", "feed_forward.w1"),
        (r"mlp\.down_proj", "feed_forward.w2"),
        (r"mlp\.up_proj", "feed_forward.w3"),
        (r"input_layernorm", "attention_norm"),
        (r"post_attention_layernorm", "ffn_norm"),
    )
    names = (*original, *(of_internlm2 if internlm2 else ((r"^lm_head", "language_model.lm_head"),)))
    out = {}
    for name, weight in weights.items():
        packed = internlm2 or "language_model" not in name
        if packed and "q_proj" in name:
            parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            name = renamed(name, names)
            if "language_model" in name:
                heads = torch.cat([part.unflatten(0, (kv_heads, -1)) for part in parts], dim=1)
                out[name.replace("self_attn.q_proj", "attention.wqkv")] = heads.flatten(0, 1)
            else:
                out[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif not packed or ("k_proj" not in name and "v_proj" not in name):
            out[renamed(name, names)] = weight
    return out


def renamed(name: str, rules) -> str:
    for old, new in rules:
        name = re.sub(old, new, name)
    return name


def write(folder: Path, weights: dict) -> Path:
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def qwen3_vl(folder: Path, seed: int = 0, hidden: int = 64, experts: bool = False) -> Path:
    """Features for two decoder layers beside the embedding; the demo's tokenizer."""
    torch.manual_seed(seed)
    for file in DEMO.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    ids = Qwen2_5_VLConfig.from_pretrained(DEMO)
    text = {"hidden_size": hidden, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": hidden // 4, "vocab_size": 448, "bos_token_id": 0, "eos_token_id": 2}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": INTERLEAVED[hidden], "rope_theta": 1e6}
    text["rope_parameters"]["mrope_interleaved"] = True
    vision = {"hidden_size": 32, "intermediate_size": 48, "depth": 3, "num_heads": 2, "out_hidden_size": hidden}
    kinds: tuple = Qwen3VLConfig, Qwen3VLForConditionalGeneration
    if experts:
        kinds = Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
        text |= {"moe_intermediate_size": 24, **EXPERTS}
    config = kinds[0](
        text_config=text,
        vision_config={**vision, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
        video_token_id=ids.video_token_id,
        image_token_id=6,
        vision_start_token_id=ids.vision_start_token_id,
        vision_end_token_id=ids.vision_end_token_id,
        tie_word_embeddings=False,
    )
    config.flexselect = {"min_pixels": 64 * 96, "max_pixels": 96 * 96, **OWN}
    model = kinds[1](config)
    randomise(model)
    model.save_pretrained(folder)
    return folder


HYBRID = ("linear_attention", "full_attention", "full_attention", "linear_attention")  # layers of a tiny Qwen3.5


def hybrid_text(hidden: int) -> dict:
    """A language model of Qwen3.5's kind: half of a head turns."""
    text = {"hidden_size": hidden, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": hidden // 4, "vocab_size": 448, "bos_token_id": 0, "eos_token_id": 2}
    text |= {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_num_value_heads": 4}
    text |= {"linear_value_head_dim": 8, "layer_types": list(HYBRID)}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
    text["rope_parameters"]["mrope_section"] = PARTIAL[hidden]
    return text


def qwen3_5(folder: Path, seed: int = 0, hidden: int = 64, small: bool = False, experts: bool = False) -> Path:
    """Layers with attention between recurrent ones; the demo's tokenizer. A small one has a smaller tower too."""
    torch.manual_seed(seed)
    for file in DEMO.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    ids = Qwen2_5_VLConfig.from_pretrained(DEMO)
    text = hybrid_text(hidden)
    if small:
        text |= {"num_hidden_layers": 2, "layer_types": list(HYBRID[:2])}
    text["rope_parameters"]["mrope_interleaved"] = True
    vision = {"hidden_size": 32, "intermediate_size": 48, "depth": 3, "num_heads": 2, "out_hidden_size": hidden}
    kinds: tuple = Qwen3_5Config, Qwen3_5ForConditionalGeneration
    if experts:
        kinds = Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration
        del text["intermediate_size"]
        text |= {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, **EXPERTS}
    config = kinds[0](
        text_config=text,
        vision_config={**vision, "hidden_size": 16 if small else 32, "num_position_embeddings": 64},
        video_token_id=ids.video_token_id,
        image_token_id=6,
        vision_start_token_id=ids.vision_start_token_id,
        vision_end_token_id=ids.vision_end_token_id,
        tie_word_embeddings=False,
    )
    config.flexselect = {"min_pixels": 64 * 96, "max_pixels": 96 * 96, **OWN, "reference_layer": 1 if small else 2}
    model = kinds[1](config)
    randomise(model)
    model.save_pretrained(folder)
    return folder


GLM_TEMPLATE = (  # as published: thinking is switched off in the user's turn and in the model's
    "[gMASK]<sop>{%- for message in messages %}{%- if message.role == 'user' %}{{ '<|user|>\n' }}"
    "{%- if message.content is string %}{{ message.content }}{%- else %}{%- for item in message.content %}"
    "{%- if item.type == 'video' %}{{ '<|begin_of_video|><|video|><|end_of_video|>' }}{%- else %}{{ item.text }}"
    "{%- endif %}{%- endfor %}{%- endif %}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{ '/nothink' }}{%- endif %}"
    "{%- else %}{{ '<|assistant|>\n<think></think>\n' + message.content }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think></think>\n' }}{%- endif %}{%- endif %}"
)
GLM_TOKENS = ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_video|>", "<|end_of_video|>")
GLM_TOKENS += ("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>")


def glm4v(folder: Path, seed: int = 0, hidden: int = 64, experts: bool = False) -> Path:
    """Half of a head turns; the demo's tokenizer with GLM's special tokens and a chat template."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    tokenizer.add_special_tokens({"additional_special_tokens": list(GLM_TOKENS)})
    tokenizer.chat_template = GLM_TEMPLATE
    tokenizer.save_pretrained(folder)
    of = {token: tokenizer.convert_tokens_to_ids(token) for token in GLM_TOKENS}
    text = {"hidden_size": hidden, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 448, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
    text["rope_parameters"]["mrope_section"] = PARTIAL[hidden]
    vision = {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 2, "out_hidden_size": hidden}
    kinds: tuple = Glm4vConfig, Glm4vForConditionalGeneration
    if experts:
        kinds = Glm4vMoeConfig, Glm4vMoeForConditionalGeneration
        text |= {"moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
        text |= {"topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "head_dim": hidden // 4}
    config = kinds[0](
        text_config=text,
        vision_config={**vision, "image_size": 56},
        image_token_id=of["<|image|>"],
        video_token_id=of["<|video|>"],
        image_start_token_id=of["<|begin_of_image|>"],
        image_end_token_id=of["<|end_of_image|>"],
        video_start_token_id=of["<|begin_of_video|>"],
        video_end_token_id=of["<|end_of_video|>"],
        tie_word_embeddings=False,
    )
    config.flexselect = {"min_pixels": 56 * 84, "max_pixels": 84 * 84, **OWN}
    model = kinds[1](config)
    randomise(model)
    model.save_pretrained(folder)
    return folder


MINICPM_TEMPLATE = (  # with Qwen3.5's switch
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}{%- else %}{%- for item in message.content %}"
    "{%- if item.type == 'video' %}{{ '<|video_pad|>' }}{%- else %}{{ item.text }}{%- endif %}{%- endfor %}"
    "{%- endif %}{{ '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)


def minicpm_v(folder: Path, seed: int = 0, hidden: int = 64) -> Path:
    """A tower that merges patches in its middle, before a language model with recurrent layers."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    pictures = ["<image>", "</image>", "<image_id>", "</image_id>"]
    tokenizer.add_special_tokens({"additional_special_tokens": pictures})
    tokenizer.chat_template = MINICPM_TEMPLATE
    tokenizer.save_pretrained(folder)
    text = {**hybrid_text(hidden), "model_type": "qwen3_5_text"}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = MiniCPMV4_6Config(
        text_config=text,
        vision_config={**vision, "patch_size": 14, "image_size": 112},
        insert_layer_id=1,
        image_token_id=6,
        video_token_id=Qwen2_5_VLConfig.from_pretrained(DEMO).video_token_id,
        tie_word_embeddings=False,
    )
    config.flexselect = {"max_pixels": 112 * 168, **OWN}
    model = MiniCPMV4_6ForConditionalGeneration(config)
    randomise(model)
    model.save_pretrained(folder)
    return folder


BUILDERS = {
    "qwen2_5_vl": qwen2_5_vl,
    "llava_video": llava_video,
    "internvl": internvl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "glm4v": glm4v,
    "minicpm_v": minicpm_v,
}


def small_model(kind, folder):
    """A smaller one of the family, in its authors' layout."""
    if kind == "qwen2_5_vl":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = Qwen2Config(**sizes, num_key_value_heads=1, vocab_size=440, rope_theta=1e6, tie_word_embeddings=True)
        small = Qwen2ForCausalLM(config)
        randomise(small)
        small.save_pretrained(folder)
        return folder
    if kind == "qwen3_5":
        return qwen3_5(folder, seed=7, small=True)
    if kind == "qwen3_vl":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        small = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16, num_key_value_heads=1, vocab_size=448))
        randomise(small)
        small.save_pretrained(folder)
        return folder
    BUILDERS[kind](folder, seed=7)
    if kind == "llava_video":  # LLaVA-OneVision: the key is missing there
        config = json.loads((folder / "config.json").read_text())
        del config["mm_newline_position"]
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def frames(count: int = 14, height: int = 84, width: int = 112, seed: int = 0) -> torch.Tensor:
    """Random frames, uint8 [count, height, width, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def prompt(fs, question: str = "What colour is the circle?", count: int | None = None, seed: int = 0):
    """A prompt over random frames."""
    from flexselect import VideoPrompt

    prompter = fs.lm.prompter
    count = count or (
        4 if type(prompter).__name__[:5] in ("Llava", "Inter") else 14
    )  # about as long a test for each family
    clip = prompter.clip(prompter.resize(frames(count, seed=seed)))
    return VideoPrompt(clip, prompter.prefix_ids, prompter.query_ids(question))
