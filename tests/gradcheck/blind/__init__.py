"""A blind set: slips for the hints, written by someone who had read neither the hints nor their tests.

The score is that of the hints as they were when the set was first run against them.
"""

from tests.gradcheck.blind.dense import DENSE
from tests.gradcheck.blind.maths import MATHS
from tests.gradcheck.blind.sizes import SIZES
from tests.gradcheck.blind.slip import Slip
from tests.gradcheck.blind.steps import STEPS

BLIND: list[Slip] = DENSE + STEPS + MATHS + SIZES
