"""Search: ways to find a text other than drawing one token after another.

Beam search follows several texts at once, contrastive search looks one token ahead, best-of-n chooses among texts that
were drawn, and speculative decoding gives a text of the model's own distribution sooner.
"""

from npgpt.generation.search.beams import Beam, Beams, beam_search
from npgpt.generation.search.best_of import best_of
from npgpt.generation.search.contrastive import contrastive_search
from npgpt.generation.search.drafting import Drafted, speculative

__all__ = ["Beam", "Beams", "Drafted", "beam_search", "best_of", "contrastive_search", "speculative"]
