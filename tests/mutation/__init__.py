"""Mutation testing: change every backward pass in one place at a time, and see that the tests notice.

    python -m tests.mutation                        # all of them; ten minutes
    python -m tests.mutation --sample 0.1 --seed 3  # a tenth, drawn with a seed
    python -m tests.mutation --only layernorm --list

mutate.py makes the mutants, evaluate.py runs the tests against one, equivalent.toml lists those that no test can
notice, with the reason.
"""
