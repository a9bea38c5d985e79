"""The fast twins of the layers, in numba and BLAS: the same files, functions and signatures.

Where a twin computes differently from its layer, a comment says why. Inside a `Buffers` block, results are arrays from
the thread's pool. Arrays are float32 or float64. Dropout has no twin, because most of its time is spent on random
numbers.

Imports of npgpt: layers, support.
"""

from npgpt.kernels.adamw import adamw_update
from npgpt.kernels.attention import attention_backward, attention_forward
from npgpt.kernels.causal_softmax import causal_softmax_backward, causal_softmax_forward
from npgpt.kernels.cosine import cosine_backward, cosine_forward
from npgpt.kernels.cross_attention import cross_attention_backward, cross_attention_forward
from npgpt.kernels.cross_entropy import cross_entropy_backward, cross_entropy_forward
from npgpt.kernels.embedding import embedding_backward, embedding_forward
from npgpt.kernels.gelu import gelu_backward, gelu_forward
from npgpt.kernels.gelu_new import gelu_new_backward, gelu_new_forward
from npgpt.kernels.gru import gru_backward, gru_forward
from npgpt.kernels.int8 import int8_linear_forward
from npgpt.kernels.kl import kl_backward, kl_forward
from npgpt.kernels.kl_topk import kl_topk_backward, kl_topk_forward
from npgpt.kernels.layernorm import layernorm_backward, layernorm_forward
from npgpt.kernels.linear import linear_backward, linear_forward
from npgpt.kernels.linear_cross_entropy import linear_cross_entropy_backward, linear_cross_entropy_forward
from npgpt.kernels.lstm import lstm_backward, lstm_forward
from npgpt.kernels.mlp import mlp_backward, mlp_forward
from npgpt.kernels.muon import muon_update
from npgpt.kernels.rmsnorm import rmsnorm_backward, rmsnorm_forward

__all__ = [
    "adamw_update",
    "attention_backward",
    "attention_forward",
    "causal_softmax_backward",
    "causal_softmax_forward",
    "cosine_backward",
    "cosine_forward",
    "cross_attention_backward",
    "cross_attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "embedding_backward",
    "embedding_forward",
    "gelu_backward",
    "gelu_forward",
    "gelu_new_backward",
    "gelu_new_forward",
    "gru_backward",
    "gru_forward",
    "int8_linear_forward",
    "kl_backward",
    "kl_forward",
    "kl_topk_backward",
    "kl_topk_forward",
    "layernorm_backward",
    "layernorm_forward",
    "linear_backward",
    "linear_cross_entropy_backward",
    "linear_cross_entropy_forward",
    "linear_forward",
    "lstm_backward",
    "lstm_forward",
    "mlp_backward",
    "mlp_forward",
    "muon_update",
    "rmsnorm_backward",
    "rmsnorm_forward",
]
