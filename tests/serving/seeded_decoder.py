"""Makes a language model of Qwen3-Reranker's architecture with seeded random weights: python seeded_decoder.py OUTDIR

tests/serving runs it with vLLM's interpreter. It represents decoder rerankers: a plain Qwen3ForCausalLM on disk, which
vLLM converts to a classifier with --hf-overrides and --chat-template. The order of its answers has no meaning.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "no", "yes"]
TEXTS = ["the quick brown fox jumps over the lazy dog", "deep learning is a part of machine learning", "I like pizza"]
SEED = 20_240_901


def build(folder: Path) -> None:
    """Write config, weights and tokenizer to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=40960
    ).save_pretrained(folder)
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        head_dim=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        intermediate_size=256,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,
    )
    Qwen3ForCausalLM(config).eval().to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    build(target)
