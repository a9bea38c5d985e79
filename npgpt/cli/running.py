"""What the training commands share: the progress bar and Ctrl-C."""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npgpt.training.run import Run


def train_with_progress(run: "Run") -> float | None:
    """Train with a progress bar. Return the best model's loss on all validation data, or None if Ctrl-C stopped it."""
    from tqdm import tqdm

    loss, bar, unread = 0.0, None, None
    with stop_on_interrupt() as stopped:
        for record in run.records(lambda: bool(stopped)):
            step = record["step"]
            if bar is None:
                bar = tqdm(initial=step - 1, total=run.config.max_steps, unit="step", disable=None)
            if "val_loss" not in record:
                loss = record["loss"]
                bar.set_postfix_str(f"loss {loss:.3f}, {record['tokens_per_s']:,.0f} tokens/s", refresh=False)
                bar.update()
                continue
            if record.get("whole"):
                bar.close()
                line = f"validation loss {record['val_loss']:.4f} nats per token on all validation data (step {step})"
            else:
                line = f"step {step:>6}  loss {loss:.4f}  validation {record['val_loss']:.4f}"
            try:
                tqdm.write(line)
                sys.stdout.flush()
            except OSError as error:  # as in `npgpt train | head`, or on a full disk: save the state and stop
                stopped.append(0)
                unread = error
    if bar is not None:
        bar.close()
    if unread:
        raise unread
    return run.whole


def stop_on_interrupt() -> AbstractContextManager[list[int]]:
    """Stop after the step in progress at Ctrl-C, and say so. See npgpt.training.interrupt."""
    from npgpt.training import interrupt

    return interrupt.stop_on_interrupt(lambda: print("\nfinishing this step ...", file=sys.stderr))
