"""What a model is trained and judged on: how documents become rows, and what one batch of them is.

A task answers two questions, and the trainer, the controls and the starts know nothing else of it:

- `rows(split, length)`: the split as numbered rows (`Rows`), whose ``batch(indices)`` is a `Batch`;
- `check(model, tokenizer)`: whether a model can do it.

What a batch means to a model is decided in one place, `isotone.models.hidden_states`, from whether
it has sources; loss, optimizer, checkpoints and export follow from hidden states and targets.
"""

from isotone.tasks.task import Rows, Task, rows_of, task_of

__all__ = ["Rows", "Task", "rows_of", "task_of"]
