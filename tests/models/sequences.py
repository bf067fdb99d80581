"""What a model of one sequence reads, event by event, for the slow references of its tests."""


def events(model, batch, row, target):
    """(item or None for a search, vector) of everything a target sees, oldest first; clicks alone unless merged."""
    here = batch.rec[row].nonzero().flatten()[: int(batch.rec_seen[row, target])].tolist()
    found = [(int(batch.rec_time[row, r]), 0, int(batch.rec[row, r]), model.inputs.items(batch.rec[row, r])) for r in here]
    if model.kind is None:
        return [(item, vector) for _, _, item, vector in found]
    there = batch.searched[row].nonzero().flatten()[: int(batch.search_seen[row, target])].tolist()
    read = model.inputs.searches
    found += [(int(batch.search_time[row, s]), 1, None, read(batch.query[row, s], batch.click[row, s])) for s in there]
    found.sort(key=lambda event: event[:2])
    return [(item, vector + model.kind[kind]) for _, kind, item, vector in found]
