"""How many threads compute a training step, and how they share it: groups of members.

Each group computes some rows of the batch, with gradients of its own, which are added up at the end of the step. The
members of a group compute the same rows together and share its gradients, but wait for each other a few times a block.

The choice follows from what a step costs, by figures that were measured once and stand below. It asks no clock, so the
same numbers give the same choice everywhere. A run records its choice, which decides the bits of its sums.
"""

from typing import NamedTuple

from npgpt.config import GPTConfig
from npgpt.models.base import Model
from npgpt.support.machine import cores

# Measured on Zen 4, with NumPy's OpenBLAS on its kernels for AVX-512. A product with a matrix of 768 x 3072 reaches 47,
# 64 and 80% of 100 GFLOP/s at 16, 32 and 64 rows, and one with 256 x 1024 reaches 90 and 97% at 128 and 256: as if it
# had ROWS rows more.
FLOPS = 100e9  # a core's operations a second
ROWS = 16
BYTES = 25e9  # what all cores together read or write in a second; large gradients do not stay in a core's cache
# Calls on other threads that do nothing take 14 us with two threads and 96 us with 16; a thread that sleeps
# wakes up some 50 us after its call. A step has three: gradients, their sum, and the optimizer.
CALLS, WAKE, CALL = 3, 50e-6, 7e-6
# Members wait for each other several times a block: 1 to 3 us each time, and because equal shares do not take equally
# long, least of all beside other programs. With two groups or two members, a step of tiny takes 25.2 or 26.3 ms, of
# small 790 or 805: as if a meeting took 20 us, and all else 1.02 times as long. Where twelve threads share two cores,
# each waits for the turns of others: some 300 us.
MEETING, TURN, UNEVEN = 20e-6, 300e-6, 1.02
MEETINGS_OF_BLOCK, MEETINGS_OF_STEP = 5, 6
# How much faster more threads must make a step. Fewer threads leave the other cores to others, and a prediction that
# is wrong by less than this does no harm.
GAIN = 1.02
MOST = 1024  # threads

# The rule of steps that no team shares. Adding up the gradients of one more worker takes time that grows with the
# parameters; the time that it saves grows with the tokens. With more parameters per token of the batch than this, one
# worker with all threads of BLAS is as fast, and needs no second gradient.
PARAMETERS_PER_TOKEN = 2**16


class Work(NamedTuple):
    """What a training step computes.

    size            the number of parameters
    flops           operations for each token, forward and backward
    n_layer, n_head of a GPT; 0 for a model whose rows no team can share
    """

    size: int
    batch_size: int
    n_positions: int
    flops: float
    n_layer: int = 0
    n_head: int = 0


class Split(NamedTuple):
    """How threads share a step: `groups` times `members` of them. Without teams, members are threads of BLAS."""

    groups: int
    members: int

    @property
    def threads(self) -> int:
        return self.groups * self.members

    def __str__(self) -> str:
        """Return it in words, such as "1 thread", "8 threads" or "8 threads in 4 groups"."""
        words = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{words} in {self.groups} groups" if self.groups > 1 else words


def n_threads(threads: int = 0) -> int:
    """Return the number of threads to use: the given one, or for 0 what the machine allows (support/machine.py)."""
    return threads or cores()


def work_of(model: Model, batch_size: int, teams: bool) -> Work:
    """Return what a step of a model computes.

    teams  whether several threads can compute the same rows together, as in the compiled step of a GPT
    """
    config = model.config
    shape = (config.n_layer, config.n_head) if teams and isinstance(config, GPTConfig) else (0, 0)
    return Work(model.size, batch_size, config.n_positions, 3 * model.flops_per_token, *shape)


def settle(work: Work, threads: int = 0) -> Split:
    """Return how this machine shares a step among the number of threads that the user gives, or 0.

    Raises ValueError for more than MOST threads.
    """
    if threads > MOST:
        raise ValueError(f"threads={threads} must be at most {MOST}")
    return choose(work, n_threads(threads), given=threads > 0, room=cores(environ={}))


def choose(work: Work, threads: int, given: bool = False, room: int | None = None) -> Split:
    """Return how to share a step among at most `threads` threads.

    given  use all of them if the batch has enough rows and tokens, because the user asks for them; otherwise use only
           as many as make the step faster
    room   how many threads can run at once; None means all of them

    >>> choose(Work(size=800_000, batch_size=1, n_positions=64, flops=5e6, n_layer=4, n_head=4), threads=16)
    Split(groups=1, members=9)
    """
    if not work.n_head:
        return choose_without_teams(work, threads)
    possible = [
        Split(groups, members)
        for groups in range(1, min(threads, work.batch_size) + 1)
        for members in range(1, min(threads // groups, work.batch_size // groups * work.n_positions) + 1)
    ]
    took = {split: seconds(work, split, threads if room is None else room) for split in possible}
    if given:
        n = max(split.threads for split in possible)
    else:
        n = min(split.threads for split in possible if took[split] <= GAIN * min(took.values()))
    return min((split for split in possible if split.threads == n), key=took.__getitem__)


def choose_without_teams(work: Work, threads: int) -> Split:
    """Return how to share a step whose rows no team can share: one worker a row, or BLAS with all threads.

    Workers are better for small models: small products do not gain from BLAS threads, which run nothing but products.
    But a batch of one sequence cannot be split, and a model that is large for its batch should not store its gradients
    twice.
    """
    large = work.size > PARAMETERS_PER_TOKEN * work.batch_size * work.n_positions
    groups = 1 if large else min(threads, work.batch_size)
    return Split(groups, threads if groups == 1 else 1)


def seconds(work: Work, split: Split, room: int) -> float:
    """Return about how long a step takes if `room` threads can run at once. All wait for the largest share.

    Members share the rows of products, and the heads of attention, which is what no parameter is multiplied for.
    """
    groups, members = split
    rows, tokens = -(-work.batch_size // groups), work.n_positions
    products = min(work.flops, 6 * work.size)
    share = max(rows * tokens / members, work.batch_size * tokens / room) + ROWS * max(1.0, split.threads / room)
    heads = max(-(-rows * work.n_head // members), work.batch_size * work.n_head / room)
    computing = products * share + (work.flops - products) * heads * tokens / work.n_head
    if members > 1:
        computing *= UNEVEN
    calling = CALLS * (WAKE + CALL * split.threads) if split.threads > 1 else 0.0
    # each further group writes all gradients once more, and they are read once more
    adding = (groups - 1) * 2 * 4 * work.size / BYTES
    meetings = MEETINGS_OF_BLOCK * work.n_layer + MEETINGS_OF_STEP if members > 1 else 0
    return computing / FLOPS + calling + adding + meetings * (MEETING if split.threads <= room else TURN)
