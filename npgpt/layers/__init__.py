"""The definition of correct: every layer in plain NumPy, its backward directly below its forward.

`out, cache = X_forward(...)` and `d... = X_backward(dout, cache)`: the gradients come in the order of the forward's
array arguments, in their shapes and dtype. No layer writes into its inputs. Results are new arrays, with two
exceptions. Dropout, when it is off, and the backward of LoRA return the array that they got. And a backward that gets
an array for a parameter's gradient writes into it, as with NumPy's `out`, and returns it. The product with weights of 8
bits has no backward, and returns its result alone.

Imports: NumPy alone.
"""

from npgpt.layers.attention import attention_backward, attention_forward
from npgpt.layers.attention_pool import attention_pool_backward, attention_pool_forward
from npgpt.layers.causal_softmax import causal_softmax_backward, causal_softmax_forward
from npgpt.layers.cosine import cosine_backward, cosine_forward
from npgpt.layers.cross_attention import cross_attention_backward, cross_attention_forward
from npgpt.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from npgpt.layers.dropout import dropout_backward, dropout_forward
from npgpt.layers.embedding import embedding_backward, embedding_forward
from npgpt.layers.gelu import gelu_backward, gelu_forward
from npgpt.layers.gelu_new import gelu_new_backward, gelu_new_forward
from npgpt.layers.gru import gru_backward, gru_forward
from npgpt.layers.int8 import int8_linear_forward
from npgpt.layers.kl import kl_backward, kl_forward
from npgpt.layers.kl_topk import kl_topk_backward, kl_topk_forward
from npgpt.layers.layernorm import layernorm_backward, layernorm_forward
from npgpt.layers.linear import linear_backward, linear_forward
from npgpt.layers.linear_cross_entropy import linear_cross_entropy_backward, linear_cross_entropy_forward
from npgpt.layers.lora import lora_backward, lora_forward
from npgpt.layers.lstm import lstm_backward, lstm_forward
from npgpt.layers.mlp import mlp_backward, mlp_forward
from npgpt.layers.pool import pool_backward, pool_forward
from npgpt.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward

__all__ = [
    "attention_backward",
    "attention_forward",
    "attention_pool_backward",
    "attention_pool_forward",
    "causal_softmax_backward",
    "causal_softmax_forward",
    "cosine_backward",
    "cosine_forward",
    "cross_attention_backward",
    "cross_attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
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
    "lora_backward",
    "lora_forward",
    "lstm_backward",
    "lstm_forward",
    "mlp_backward",
    "mlp_forward",
    "pool_backward",
    "pool_forward",
    "rmsnorm_backward",
    "rmsnorm_forward",
]
