"""What the training commands share: the progress bar, and the signals that stop a run."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npgpt.training.run import Run


def train_with_progress(run: "Run", resume: str) -> float:
    """Train with a progress bar, and return the best model's loss in the last evaluation.

    resume  the command that continues the run, to be printed if a signal such as Ctrl-C stops it

    Raises SystemExit with 128 and the signal's number then, and OSError if what is printed cannot be written. The state
    is saved before.
    """
    from tqdm import tqdm

    loss, bar = 0.0, None
    unread: list[OSError] = []

    def what_stops() -> str:
        ended = run.trainer.progress["step"] == run.trainer.total
        return "stopping the evaluation ..." if ended else "finishing this step ..."

    with evaluation_bar() as run.trainer.on_evaluating, stop_on_interrupt(what_stops) as stopped:
        for record in run.records(lambda: bool(stopped or unread)):
            step = record["step"]
            if "loss" in record:
                loss = record["loss"]
                if bar is None:
                    bar = tqdm(initial=step - 1, unit="step", disable=None)
                bar.total = run.trainer.total
                bar.set_postfix_str(f"loss {loss:.3f}, {record['tokens_per_s']:,.0f} tokens/s", refresh=False)
                bar.update()
                if step == run.trainer.total:
                    bar.close()  # the last evaluation has its own
                continue
            if "whole" in record:
                line = last_evaluation(run, step)
            else:
                line = evaluation_line(record, loss)
                if bar is not None and "stopped_early" in record:
                    bar.close()
            try:
                tqdm.write(line)
                sys.stdout.flush()
            except OSError as error:  # as in `npgpt train | head`, or on a full disk
                unread.append(error)
    if bar is not None:
        bar.close()
    if stopped:
        if run.whole is None:
            with suppress(OSError):  # a closed terminal, or `| tee log`, which Ctrl-C has ended, too
                print(f"stopped; continue with: {resume}", flush=True)
        raise SystemExit(128 + stopped[0])
    if unread:
        raise unread[0]
    assert run.whole is not None
    return run.whole


def evaluation_line(record: dict[str, Any], loss: float) -> str:
    """Say what an evaluation has found, after a step of that loss or, at step 0, before the first one."""
    step, found = record["step"], f"validation {record.get('last_val_loss', record['val_loss']):.4f}"
    line = f"step {step:>6}  loss {loss:.4f}  {found}" if step else f"before training      {found}"
    if "averaged" in record:
        line += f", mean of {record['averaged']:,} steps {record['mean_val_loss']:.4f}"
    return line


def last_evaluation(run: "Run", step: int) -> str:
    """Say what the last evaluation has found, of the model of that step."""
    found = run.trainer.evaluation
    assert found is not None
    averaged = run.trainer.progress["best_averaged"]
    which = f"step {step}" + (f", weights averaged over {averaged:,} steps" if averaged else "")
    if found.whole:
        return f"validation loss {found} nats per token on all validation data ({which})"
    part = f"{found.tokens:,} of {run.trainer.val_data.size:,} validation tokens"
    return f"validation loss {found} nats per token on {part} ({which}; --final-eval-tokens 0 reads all)"


@contextmanager
def evaluation_bar(what: str = "evaluating") -> Iterator[Callable[[int, int | None], None]]:
    """Give a function that shows on a progress bar how many tokens have been evaluated, and of how many, if known.

    The bar appears only if that takes more than a second, and is removed at the end.
    """
    from tqdm import tqdm

    with tqdm(desc=what, unit="token", unit_scale=True, delay=1, leave=False, disable=None) as bar:

        def show(done: int, total: int | None) -> None:
            if bar.total is None and total is not None:
                bar.reset(total)
            bar.update(done - bar.n)

        yield show


def stop_on_interrupt(what_stops: Callable[[], str]) -> AbstractContextManager[list[int]]:
    """Stop after the step in progress at a signal, and say so, or what it says. See npgpt.training.interrupt."""
    from npgpt.training import interrupt

    return interrupt.stop_on_interrupt(lambda: print(f"\n{what_stops()}", file=sys.stderr))
