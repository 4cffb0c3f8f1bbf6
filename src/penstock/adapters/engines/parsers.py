"""What vLLM and SGLang call the formats of model_form.py; each has spellings of its own.

The names are those of vLLM 0.32 and SGLang 0.5. An engine without the format gets no parser, and so the
probe sees no tools.
"""

VLLM_TOOLS = {
    "deepseek_v3": "deepseek_v3",
    "deepseek_v31": "deepseek_v31",
    "gemma4": "gemma4",
    "glm45": "glm45",
    "gpt_oss": "openai",
    "hermes": "hermes",
    "kimi_k2": "kimi_k2",
    "lfm2": "lfm2",
    "llama3_json": "llama3_json",
    "minimax_m2": "minimax_m2",
    "mistral": "mistral",
    "qwen3_coder": "qwen3_coder",
}
SGLANG_TOOLS = {
    "deepseek_v3": "deepseekv3",
    "deepseek_v31": "deepseekv31",
    "gemma4": "gemma4",
    "glm45": "glm45",
    "gpt_oss": "gpt-oss",
    "hermes": "hermes",
    "kimi_k2": "kimi_k2",
    "lfm2": "lfm2",
    "llama3_json": "llama3",
    "minimax_m2": "minimax-m2",
    "mistral": "mistral",
    "qwen3_coder": "qwen3_coder",
}
VLLM_REASONING = {
    "deepseek_r1": "deepseek_r1",
    "deepseek_v3": "deepseek_v3",
    "glm45": "glm45",
    "gpt_oss": "openai_gptoss",
    "kimi_k2": "kimi_k2",
    "minimax_m2": "minimax_m2",
    "mistral": "mistral",
    "qwen3": "qwen3",
    "seed_oss": "seed_oss",
    "step3": "step3",
}
SGLANG_REASONING = {
    "deepseek_r1": "deepseek-r1",
    "deepseek_v3": "deepseek-v3",
    "glm45": "glm45",
    "gpt_oss": "gpt-oss",
    "kimi_k2": "kimi_k2",
    "minimax_m2": "minimax",
    "mistral": "mistral",
    "qwen3": "qwen3",
    "step3": "step3",
}
