"""Makes a cross-encoder of bge's architecture with seeded random weights: python seeded_cross_encoder.py OUTDIR

tests/serving runs it with vLLM's interpreter, which has torch, transformers and tokenizers. The files are the same each
time. Answers have the form of bge's (one sigmoid per pair); their order has no meaning.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

TEXTS = ["the quick brown fox jumps over the lazy dog", "deep learning is a part of machine learning", "I like pizza"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # ids 0 to 4; the first four as in XLM-RoBERTa
SEED = 20_240_901
MAX_TOKENS = 512


def build(folder: Path) -> None:
    """Write config, weights and tokenizer to `folder`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
    ).save_pretrained(folder)

    torch.manual_seed(SEED)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_attention_heads=2,  # heads of 64, which vLLM's CPU attention supports
        num_hidden_layers=2,
        intermediate_size=256,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        num_labels=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.2,  # ten times the default, so that scores differ by more than rounding errors
    )
    XLMRobertaForSequenceClassification(config).eval().save_pretrained(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    build(target)
