"""Answering on vLLM: `--model.engine vllm`, in this process or on a server. Only `vllm_model` imports vLLM itself."""
