"""Register our model with vLLM, which calls this in each of its processes (entry points `vllm.general_plugins`)."""

ARCHITECTURE = "FlexSelectForCausalLM"


def register() -> None:
    """Make vLLM know the configuration and the model of an engine folder."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from flexselect_vllm.config import FlexSelectConfig

    AutoConfig.register(FlexSelectConfig.model_type, FlexSelectConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"flexselect_vllm.vllm_model:{ARCHITECTURE}")
