"""Makes tiny models of the architectures that the conformance vectors lack, and what transformers computes with them.

    pip install torch transformers safetensors
    python tests/models/tiny/make.py

Each folder gets the model as transformers saves it and `vectors.safetensors`: `input_ids`, `logits` after each of them,
and `generated_ids`, the likeliest tokens that follow. The weights are larger than those that models begin with, so that
attention is not alike everywhere, and no weight of a norm is 1.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

COMMON = dict(
    vocab_size=96,
    hidden_size=48,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=None,
)

MODELS = {
    "llama_biases": (
        LlamaForCausalLM,
        LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True, hidden_act="gelu", tie_word_embeddings=True),
        torch.bfloat16,
    ),
    "llama_yarn": (
        LlamaForCausalLM,
        LlamaConfig(
            **COMMON,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        torch.bfloat16,
    ),
    "mistral_window": (MistralForCausalLM, MistralConfig(**COMMON, sliding_window=7), torch.bfloat16),
    "qwen2_windows": (
        Qwen2ForCausalLM,
        Qwen2Config(
            **{name: value for name, value in COMMON.items() if name != "head_dim"},
            use_sliding_window=True,
            sliding_window=5,
            max_window_layers=1,
        ),
        torch.float16,
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**COMMON, tie_word_embeddings=True), torch.float32),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config(
            **COMMON,
            sliding_window=9,
            query_pre_attn_scalar=12,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=8.0,
        ),
        torch.bfloat16,
    ),
}


def scale(name, rows):
    """Of matrices. Gemma's embeddings are scaled by the model, and large ones would foretell the token itself."""
    if rows != COMMON["vocab_size"]:
        return 0.25
    return 0.1 if name == "gemma2" else 0.6


def make(name, architecture, config, dtype):
    torch.manual_seed(sum(name.encode()))
    config._attn_implementation = "eager"
    model = architecture(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * scale(name, parameter.shape[0]))
        # What is stored is what is computed with, in f32. The frequencies of rotary positions are not stored.
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
        tokens = torch.randint(2, 96, (1, 41))
        logits = model(tokens).logits
        generated = tokens
        for _ in range(12):
            generated = torch.cat([generated, model(generated).logits[:, -1:].argmax(-1)], 1)
    folder = Path(__file__).parent / name
    model.to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    vectors = {
        "input_ids": tokens.to(torch.int32),
        "logits": logits.contiguous(),
        "generated_ids": generated[0, 41:].to(torch.int32).contiguous(),
    }
    save_file(vectors, folder / "vectors.safetensors")
    print(name, f"{logits.std():.2f}", generated[0, 41:].tolist())


for name, (architecture, config, dtype) in MODELS.items():
    make(name, architecture, config, dtype)
