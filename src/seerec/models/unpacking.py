"""One row per target, for models whose states depend on everything a target may see."""

from dataclasses import fields

from seerec.batch import Batch


def unpack(batch: Batch) -> Batch:
    """B rows of T targets -> B T rows of one target each. The batcher already gives such models T = 1: then nothing is copied."""
    targets = batch.rec_seen.shape[1]
    if targets == 1:
        return batch
    found = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        of_target = field.name in ("rec_seen", "search_seen", "candidates", "positive", "target_time", "target_query")
        found[field.name] = value.flatten(0, 1).unsqueeze(1) if of_target else value.repeat_interleave(targets, 0)
    return Batch(**found)
