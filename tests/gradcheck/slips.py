"""What the right hint at each planted bug says, written down from the bug's code.

SLIPS gives, for each layer and slip, the words of which a hint must have one; more of them, separated by "|", where the
slip can be seen in more than one way. None stands for a slip whose numbers have no pattern: another smooth function in
the place of the right one, a constant with too few digits.
"""

from npgpt.gradcheck import Report
from tests.gradcheck.example import Example

# what many slips have in common
OWN = "own index"  # the terms between the elements of a row are lost
ROW = "multiple of"  # along an axis the difference is a multiple of an argument or output
TURNED = "transposed"
NONE_FROM = "do not depend"  # dout of an output that does not depend on the element
ELSEWHERE = "wrong outputs|wrong places"
LOST = "is zero|are zero"
SWAPPED = "the gradient of"

SLIPS: dict[str, dict[str, str | None]] = {
    "linear": {
        "weight not transposed in dx": TURNED,
        "dweight transposed": TURNED,
        "dbias summed over the channels": "summed over axis 1|wrong axis",
        "dbias averaged over the batch": "1/6",
        "dweight averaged over the batch": "1/6",
        "last row of the batch dropped": "out[1, 2] is missing",
        "only the first sequence summed": "index 1 of axis 0 (the last of 2) of out is missing",
        "dx times 1.001": "1.001 times",
        "dweight times 1.0001": "1.0001 times",
        "one element of dweight off by a thousandth": "one element is wrong, at (2, 3)",
        "dx left at zero": LOST,
        "dweight and dbias left at zero": LOST,
        "sign of dbias": "the sign",
        "weight decay added to dweight": "0.001 times weight is too many",
    },
    "mlp": {
        "tanh differentiated at its input": "factor of its own",
        "residual path forgotten": "dout is missing: a skip connection",
        "residual path counted twice": "dout is too many: a skip connection",
        "derivative of tanh forgotten in dx alone": None,
    },
    "lora": {"scale missing in dup": "1/2 times", "scale missing in ddown": "1/2 times"},
    "bilinear form": {"dA transposed": TURNED},
    "matmul over a batch": {
        "dweight averaged, not summed, over the batch": "1/3",
        "dweight of the last in the batch": "only what comes through index 2 of axis 0",
    },
    "layernorm": {
        "term through the mean missing": "constant along axis 1",
        "term through the mean subtracted twice": "constant along axis 1",
        "term through the variance missing": ROW,
        "weight forgotten in dx": "not multiplied by weight",
        "weight multiplied in after the means": "weight is multiplied in at the end",
        "eps forgotten in the backward": "each index of axis 0 has a factor",
        "variance divided by C - 1": ROW,
        "means over the batch, not the channels": "summed over axis 0 of out, and should be over axis 1",
        "dweight and dbias swapped": SWAPPED,
        "dweight with x, not xhat": "dout times x, summed over axis 0",
        "statistics taken again in float32": "each index of axis 0 has a factor",
        "rstd of the first row for all": "each index of axis 0 has a factor",
    },
    "rmsnorm": {
        "rms taken as a constant": f"{ROW}|{OWN}",
        "weight twice in the correction": None,
        "weight missing in dx": "not multiplied by weight",
        "correction with rrms squared, not cubed": ROW,
    },
    "rmsnorm of a residual sum": {"gradient of the sum sent through the norm": "through out[0] is wrong"},
    "batchnorm": {
        "statistics taken as constants": f"{ROW}|{OWN}",
        "sums not divided by the batch": ROW,
        "sign of the term through the variance": ROW,
        "wrong for the last example alone": "index 5 of axis 0 (the last of 6)",
        "dx left as it came": "it is dout: handed on as it came",
    },
    "groupnorm": {
        "means over each channel, not its group": "own index of axis 1",
        "weight applied by group, not by channel": "one on dout is wrong",
    },
    "l2 normalisation": {"as if eps were zero": None, "norm taken as a constant": f"{ROW}|{OWN}"},
    "weight norm": {"direction not projected out of dv": ROW},
    "renorm": {"norm taken as a constant": f"{ROW}|{OWN}", "rows below the limit corrected too": NONE_FROM},
    "softmax": {
        "diagonal of the Jacobian alone": OWN,
        "gradient handed through": OWN,
        "sum over the batch": "summed over axis 0 of out, and should be over axis 1",
        "temperature forgotten": "2 times",
        "dout, not dout times probs, summed": ROW,
    },
    "log_softmax": {
        "softmax added to dout": ROW,
        "dout not summed": OWN,
        "sum of dout taken as 1": ROW,
    },
    "logsumexp": {"exp without the shift": "not finite"},
    "attention": {
        "Q^T dS for dS^T Q": TURNED,
        "dS for its transpose in dK": f"{TURNED}|{ELSEWHERE}|right up to",
        "scale forgotten in dK": "sqrt(3)",
        "scale twice in dq": "1/sqrt(3)",
        "dq and dk swapped": SWAPPED,
        "probs not transposed in dV": TURNED,
        "softmax by its diagonal": None,
        "row sums of dprobs without probs": NONE_FROM,
        "mask forgotten in the backward": NONE_FROM,
        "mask one position too far": "a multiple of k|a multiple of q|zero|lost",
    },
    "grouped-query attention": {
        "gradient of the first query head alone": "indices 1, 3 of axis 1 of out is missing",
        "heads of a group averaged": "1/2 times",
        "heads grouped the other way round": ELSEWHERE,
    },
    "rope": {"sign of sin": TURNED, "pairs interleaved, not halves": ELSEWHERE},
    "packed attention": {
        "packed in another order": "indices 0 to 2 and indices 6 to 8 are swapped",
        "rounded to float16 on the way": "float16",
    },
    "softcap": {"derivative of the cap forgotten": "a factor of its own, whatever dout is"},
    "attention bias": {"bias of the first in the batch alone": "only what comes through index 0 of axis 0"},
    "gelu_new": {
        "sqrt(2 / pi) as 0.7979": None,
        "factor 3 of the cube missing": None,
        "0.044715 as 0.0447": None,
        "derivative of the other GELU": None,
        "term with du missing": None,
    },
    "silu": {
        "parentheses missing": None,
        "sigmoid of the output": None,
        "x forgotten in the second term": None,
    },
    "swish": {"dbeta summed over the channels too": "wrong axis"},
    "elu": {"branch by the sign of the output": "where x < 0", "alpha taken as 1": "where x < 0"},
    "prelu": {
        "slope by the last axis, not by channel": "axis 0 goes with axis 2 of out|wrong places",
        "dslope also where x is positive": f"{NONE_FROM}|dout times x, summed over axes 0, 2",
        "branch by the sign of the output": f"dout as it came|{LOST}",
    },
    "tanh": {"1 - x^2 for 1 - tanh(x)^2": "dout times (1 - x^2), and should be dout times (1 - out^2)"},
    "sigmoid": {
        "derivative at the output": "sigmoid(out) (1 - sigmoid(out)), and should be dout times out (1 - out)",
        "sigmoid itself for its derivative": "dout times out",
        "1 - s missing": "dout times out^2, and should be dout times out (1 - out)",
    },
    "softplus": {"beta forgotten": "where x <", "threshold on the output": "dout as it came"},
    "hardsigmoid": {"lower limit forgotten": "out = 0: not zero", "slope 1 for 1/6": "6 times"},
    "swiglu": {"halves swapped": "the two halves are swapped"},
    "dropout": {
        "scale missing": "1/2 times",
        "mask missing": "out = 0: not zero",
        "another mask": "another mask",
        "scaled twice": "2 times",
        "mask read off output and input": "where x = 0",
    },
    "cross entropy": {
        "divided by all targets, ignored ones too": "4/6 (of 6 in targets 4 are not negative)",
        "ignored rows have a gradient": "targets is negative: rows to be ignored: not zero",
        "not divided by N": "4 times",
        "onehot forgotten": "that targets picks",
        "sign": "the sign",
        "dloss taken as 1": "not multiplied by dout",
        "target of the row before": None,
        "divided by N times V": "1/5 (5 is the size",
    },
    "label smoothing": {
        "smoothing forgotten in the backward": None,
        "1 / V for smoothing / V": "the same number",
        "spread over V - 1": "the same number",
    },
    "weighted cross entropy": {
        "divided by N, not by the weights": "1.16666667 times",
        "denominator taken as a constant": None,
    },
    "bce with logits": {
        "pos_weight forgotten": "1/3 times",
        "pos_weight on both classes": "where y = 0: 3 times",
        "sigmoid differentiated twice": None,
    },
    "mse": {
        "factor 2 missing": "1/2 times",
        "divided by the batch, not by all elements": "3 (3 is the size",
        "sign of dy": "the sign",
    },
    "kl divergence": {
        "the 1 of d(t log t) missing": "the same number",
        "target taken to sum to 1 in a slice that does not": None,
    },
    "huber": {
        "limit on the signed difference": None,
        "delta missing in the linear part": "1.42857143 times",
        "divided by delta as in smooth L1": "1.42857143 times",
    },
    "hinge of classes": {
        "right class counts itself": "that y picks",
        "right class left out": "that y picks",
    },
    "triplet loss": {
        "positive and negative held fixed": LOST,
        "as if the vectors were normalised": "a multiple of positive|a multiple of negative",
    },
    "cosine similarity": {
        "norms taken as constants": "a multiple of a|a multiple of b",
        "sign, in a batch": "the sign",
    },
    "center loss": {
        "dx not divided by the batch": "5 (5 is the size",
        "centers averaged over their examples": "one over how often labels names it",
    },
    "embedding": {
        "repeats overwrite": "add up repeats",
        "repeats added by fancy +=": "add up repeats",
        "padding row has a gradient": NONE_FROM,
        "divided by how often an id occurs": "one over how often ids names it",
        "first of the batch alone": "index 1 of axis 0 (the last of 2) of out is missing",
        "highest id dropped": "index 5 of axis 0 (one of 7) is zero",
        "ids shifted by one": "shifted by 1 along axis 0",
    },
    "position embedding": {
        "dpositions of the first in the batch": "index 1 of axis 0 (the last of 2) of out is missing",
        "dpositions summed over time": "indices of axis 0 are mixed",
        "dpositions averaged over the batch": "1/2 times",
    },
    "tied embedding": {
        "end at the scores alone": "the rows that ids names",
        "end at the lookup alone": "the rows that ids does not name",
        "ends averaged": "1/2 times",
    },
    "scaled embedding": {"sqrt(C) forgotten": "1/2 times"},
    "embedding bag": {"not divided by the bag": "4 (4 is the size", "an id twice in a bag counted once": "1/2 times"},
    "conv2d": {
        "stride forgotten in dx": ELSEWHERE,
        "dilation forgotten in dx": ELSEWHERE,
        "windows overwrite in dx": "takes no dout from some outputs",
        "padding cut off on one side": ELSEWHERE,
        "kernel flipped in dx": ELSEWHERE,
        "kernel flipped in dweight": "reversed along axes 2, 3",
        "dweight divided by B H W": "1/32",
        "dbias summed over height alone": "only what comes through index 0 of axis 3",
        "last row of the output dropped": "index 3 of axis 2 (the last of 4) of out is missing",
        "border of dx left at zero": "border of the last two axes: lost",
    },
    "causal conv1d": {
        "dx one step late": f"{ELSEWHERE}|shifted",
        "x not shifted in dweight": "each index has what index 2 should have",
    },
    "max-pool": {
        "windows overwrite, not add": "takes no dout from some outputs|missing",
        "every largest element gets it all": "2 times",
    },
    "average pool": {
        "cut-off window divided by its full size": "0.5 times|1/2 times",
        "cut-off window left out": "index 4 of axis 1 (the last of 5) is zero",
    },
    "reflection pad": {
        "mirrored elements dropped": "all indices of axis 1 but 2 to 6 of out is missing",
        "edge mirrored too": ELSEWHERE,
    },
    "linear resize": {
        "window of outputs too short": "takes no dout from some outputs",
        "scale for centres on centres": None,
    },
    "rnn": {
        "gradient of the next step forgotten": f"{OWN}|only what comes through index 0 of axis 1",
        "tanh differentiated at the old state": None,
        "dwh with the new state": None,
        "db of the first step alone": "right up to index 0, and wrong from index 1 on",
        "wh not transposed": "indices 0 to 2 of axis 1|right up to index 0",
        "cut off after two steps": "indices 0 to 1 of axis 1 (the first 2 of 4) are zero|zero where it should not be",
        "dh0 left at zero": LOST,
    },
    "lstm": {
        "gradient of the last cell forgotten": "through out[1] is missing",
        "1 - c^2 for 1 - tanh(c)^2": "all indices of axis 1 but 6 to 8",
        "forget gate with the new cell": "indices 3 to 5",
        "1 - f missing": "indices 3 to 5",
        "gates i and f swapped": "indices 0 to 2 and indices 3 to 5 are swapped",
        "cell not carried back": "zero where it should not be|right up to index 0|indices 0 to 1 of axis 1",
    },
    "gru": {
        "sign of the update gate": "indices 4 to 7 of axis 1: -1|indices 4 to 7 of axis 0: -1",
        "path through the reset gate missing": "indices 0 to 3 of axis",
        "reset gate forgotten in dwh": "indices 8 to 11 of axis 1",
        "straight path of h missing": "path from each element to the same place of out",
    },
    "permute": {"axes for their inverse": TURNED},
    "split heads": {"reshaped without the transpose": ELSEWHERE},
    "broadcast product": {
        "db summed over the other axis": "summed over axis 1|wrong axis",
        "da averaged": "1/4",
        "da of the first column": "only what comes through index 0 of axis 1",
    },
    "concat": {
        "second part off by one": ELSEWHERE,
        "second part starts at zero": SWAPPED,
    },
    "stack": {"parts transposed": TURNED},
    "shift": {"shifted the same way, not back": TURNED, "rolled over the end": NONE_FROM},
    "gather": {"repeats overwrite": "is missing|takes no dout"},
    "scatter": {
        "every repeat takes the gradient": NONE_FROM,
        "overwritten rows of the table keep their gradient": "the rows that index names: not zero",
    },
    "index fill": {"a row filled twice counted twice": "may be 2 times"},
    "cumsum": {
        "summed from the front": TURNED,
        "summed along the other axis": "summed over axis 0 of out, and should be over axis 1",
        "own element left out": "shifted by -1 along axis 1",
    },
    "sort": {"order for its inverse": f"{ELSEWHERE}|{TURNED}"},
    "top-k": {"indices of the first row for all": ELSEWHERE},
    "tile": {
        "as if each element were repeated": ELSEWHERE,
        "last copy alone": "only what comes through indices 8 to 11 of axis 1",
    },
    "flip": {"not flipped back": "reversed along axis 1"},
    "tril of a Gram matrix": {"mask forgotten": NONE_FROM, "as if symmetric": OWN},
    "sin in Fortran order": {"elements in the order of memory": ELSEWHERE},
    "prod": {
        "product over x": "not finite where x = 0",
        "product over x, NaN made zero": "at (0, 1): lost|where x = 0: lost",
    },
    "cumprod": {"divided by x": "not finite", "divided by x, zero at zero": "at (1,): lost|where x = 0: lost"},
    "mean of squares": {
        "divided by the first axis alone": "4 (4 is the size",
        "divided by all elements": "1/3 (3 is the size",
    },
    "variance": {"N for N - 1": "(5 - 1)/5", "mean not subtracted": "constant along axis 1"},
    "norm": {"zero vector gives NaN": "not finite where x = 0"},
    "max": {
        "ties all take the whole gradient": "2 times|3 times",
        "indices of the wrong axis": f"{ELSEWHERE}|another mask",
    },
    "sqrt or 2x": {"branch not taken multiplied by zero": "not finite where x < 0", "slope of the other branch": None},
    "clip": {
        "comparisons the wrong way round": LOST,
        "upper limit forgotten": NONE_FROM,
        "handed through": f"{NONE_FROM}|dout as it came",
    },
    "power": {"log of a zero base": "not finite where x = 0", "exponent not lowered": "factor x is too many"},
    "division": {"sign of db": "the sign", "b not squared": "factor b is too many"},
    "arctan2": {"sign of dx": "the sign", "arguments swapped": SWAPPED},
    "abs": {"x / |x| at zero": "not finite where x = 0"},
    "sqrt": {"2 forgotten": "2 times"},
    "inverse": {"inverse not transposed": TURNED},
    "determinant": {"inverse not transposed": TURNED},
    "solve": {"solved with A, not its transpose": TURNED, "sign of dA": "the sign"},
    "cholesky": {"not made symmetric": "made symmetric", "diagonal not halved": "2 times"},
    "trace of a product": {"B for its transpose": TURNED},
    "quadratic form": {"as if A were symmetric": None},
    "gradient of 1e-9": {"times 1.001": "1.001 times", "zero": LOST},
    "standardise around 1e6": {
        "term through the variance a thousandth too large": "times out is missing|multiple of",
        "term through the mean missing": "the same number|constant along axis 0",
    },
    "gradients in another order": {"dweight, dx for dx, dweight": SWAPPED},
    "dict of parameters": {"gradients under each other's keys": SWAPPED},
    "linear of 204,800 weights": {
        "one row zero": "index 217 of axis 0 (one of 512) is zero",
        "last row not written": "index 511 of axis 0 (the last of 512) is zero",
        "sign of one element": "at (300, 123): may be -1",
        "one element a hundredth too large": "one element is wrong, at (41, 7)",
        "every 64th column missing": "63, 127, ... of axis 1 (every 64th) are zero",
        "two elements off, their sum right": None,
        "last element of dbias zero": "at (399,): lost",
        "everything times 1.0001": "1.0001 times",
    },
    "embedding of 240,056 weights": {
        "one id of many dropped": LOST,
        "a row that no id named has a gradient": "at (12345, 6): not zero",
        "last row lost to the tile": "index 30006 of axis 0 (the last of 30007) is zero",
    },
    "tanh of 200,003 elements": {"tail of the vector loop missing": "(the last 3) are zero"},
    "layernorm of 204,800 elements": {"one row without its means": None},
    "mse of 204,800 elements": {"one row of dy twice": "may be 2 times"},
}

# Where the right hint is not given yet.
MISSES = {
    "attention: dS for its transpose in dK",
    "embedding bag: an id twice in a bag counted once",
    "max-pool: windows overwrite, not add",
}

# Other hints that are true of a bug, though they do not name it.
TRUE_TOO: dict[str, str] = {
    "attention: dS for its transpose in dK": "own index of axis 2",
    "attention: softmax by its diagonal": "right up to index 0",
    "solve: solved with A, not its transpose": "each index of axis 0 has a factor",
    "lstm: 1 - c^2 for 1 - tanh(c)^2": "indices 0 to 1 of axis 1",
    "lstm: forget gate with the new cell": "right up to index 0",
    "lstm: 1 - f missing": "right up to index 0",
    "lstm: gates i and f swapped": "right up to index 0",
    "rnn: gradient of the next step forgotten": "right up to index 0",
    "rnn: cut off after two steps": "right up to",
}
FACTS = ("wrong only at", "one element is wrong", "right is", "right are")  # that name a place, and no cause


def label(example: Example) -> tuple[str, ...] | None:
    """Return the words of which a right hint at an example has one; none if no hint can be expected, None if unknown.

    >>> label(BUGS[0])
    ('transposed',)
    """
    layer, _, slip = example.name.partition(": ")
    if slip not in SLIPS.get(layer, {}):
        return None
    return tuple((SLIPS[layer][slip] or "").split("|")) if SLIPS[layer][slip] else ()


def is_right(example: Example, hints: list[str]) -> bool:
    return any(word in hint for word in label(example) or () for hint in hints)


def misleading(example: Example, hints: list[str]) -> list[str]:
    """Return the hints that say something that is not true of the bug."""
    words = label(example)
    if words is None:
        return []
    true = (*words, *TRUE_TOO.get(example.name, "\0").split("|"))
    return [hint for hint in hints if not (any(word in hint for word in true) or hint.startswith(FACTS))]


def complaint(example: Example, report: Report) -> str:
    """Return what is wrong with the hints at a planted bug, or nothing."""
    hints = [argument.hint for argument in report.arguments if argument.hint]
    if misleading(example, hints):
        return f"misleading: {misleading(example, hints)}"
    wanted = label(example)
    return f"no hint has {wanted}" if wanted and example.name not in MISSES and not is_right(example, hints) else ""
