"""LCR-SER written straight from its equations in NumPy: one target at a time, nothing packed, cached or batched.

Equations 1 to 10 of the paper with the register's switches. ``forward`` gives the states h^(1..K) of both sides and the logits
of one target; ``contrastive`` gives eq. 9.
"""

from math import erf, sqrt

import numpy as np

SIDES, OTHER = ("s", "r"), {"s": "r", "r": "s"}
NAME = {"s": "search", "r": "recommendation"}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Reference:
    def __init__(self, model, vocabulary):
        self.config, self.vocabulary = model.config, vocabulary
        self.weight = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
        self.twin_sides = False

    # -- parts ---------------------------------------------------------------------------------------------------------

    def linear(self, name, x):
        bias = self.weight.get(f"{name}.bias", 0.0)
        return x @ self.weight[f"{name}.weight"].T + bias

    def norm(self, name, x):
        if f"{name}.weight" not in self.weight:
            return x
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.weight[f"{name}.weight"] + self.weight[f"{name}.bias"]

    def attention(self, name, query, context):
        """One query over a list of vectors; attention over nothing reads a zero value."""
        width, heads = len(query), self.config.heads
        if not context:
            return self.linear(f"{name}.out", np.zeros(width))
        q, k, v = (self.linear(f"{name}.{part}", np.stack(x)) for part, x in
                   (("query", [query]), ("key", context), ("value", context)))  # fmt: skip
        e = width // heads
        read = [
            softmax(q[:, h * e : (h + 1) * e] @ k[:, h * e : (h + 1) * e].T / sqrt(e)) @ v[:, h * e : (h + 1) * e]
            for h in range(heads)
        ]
        return self.linear(f"{name}.out", np.concatenate(read, 1))[0]

    def feed(self, layer, x):
        block = self.config.block
        inside = self.norm(f"{layer}.norm_feed", x) if block == "pre" else x
        middle = self.linear(f"{layer}.feed_in", inside)
        if self.config.activation == "relu":
            middle = np.maximum(middle, 0)
        else:
            middle = np.array([m * (1 + erf(m / sqrt(2))) / 2 for m in middle])
        out = self.linear(f"{layer}.feed_out", middle)
        return {"literal": out, "pre": x + out, "post": self.norm(f"{layer}.norm_feed", x + out)}[block]

    def join(self, norm, x, update):
        return self.norm(norm, x + update) if self.config.block == "post" else x + update

    def side(self, side):
        return f"twin_{NAME[side]}" if self.twin_sides else NAME[side]

    def layer(self, side, depth):
        return f"{self.side(side)}.layers.{depth}"

    def read(self, side, depth, context):
        """A side's context as attention sees it: pre-normalisation normalises it first."""
        if self.config.block != "pre":
            return list(context)
        return [self.norm(f"{self.layer(side, depth)}.norm_attention", x) for x in context]

    # -- inputs --------------------------------------------------------------------------------------------------------

    def mean_words(self, words):
        words = [w for w in words if w]
        table = self.weight["inputs.word.weight"]
        return table[words].mean(0) if words else np.zeros(table.shape[1])

    def values(self, kind, row):
        tables = [f"inputs.{kind}_values.{c}.weight" for c in range(len(row))]
        return [self.weight[t][int(v)] for t, v in zip(tables, row, strict=True)]

    def item(self, i):
        vector = self.weight["inputs.item.weight"][i]
        if "inputs.item_features.weight" not in self.weight:
            return vector
        parts = self.values("item", self.vocabulary.item_category[i])
        parts.append(self.mean_words(self.vocabulary.item_text[i].tolist()))
        return vector + self.linear("inputs.item_features", np.concatenate(parts))

    def user(self, u):
        vector = self.weight["inputs.user.weight"][u]
        if "inputs.user_features.weight" not in self.weight:
            return vector
        return vector + self.linear("inputs.user_features", np.concatenate(self.values("user", self.vocabulary.user_category[u])))

    def tokens(self, batch, row, target):
        rec = [int(i) for i in batch.rec[row] if i][: int(batch.rec_seen[row, target])]
        searches = []
        for query, click, there in zip(batch.query[row], batch.click[row], batch.searched[row], strict=True):
            if there:
                clicked = [self.item(int(i)) for i in click if i]
                searches.append(self.mean_words(query.tolist()) + (np.mean(clicked, 0) if clicked else 0.0))
        return {"s": searches[: int(batch.search_seen[row, target])], "r": [self.item(i) for i in rec]}

    # -- eq. 1 ---------------------------------------------------------------------------------------------------------

    def encode(self, side, tokens):
        """H, and the inputs of every layer."""
        n, recent = len(tokens), self.config.position == "recent"
        table = self.weight[f"position.{side}"]
        x = [token + table[n - 1 - i if recent else i] for i, token in enumerate(tokens)]
        inputs = []
        for depth in range(self.config.layers):
            inputs.append(x)
            layer = self.layer(side, depth)
            context = self.read(side, depth, x)
            x = [
                self.feed(layer, self.join(f"{layer}.norm_attention", x[i], self.attention(
                    f"{layer}.attention", context[i], context[: i + 1] if self.config.causal else context)))
                for i in range(n)
            ]  # fmt: skip
        return x, inputs

    # -- eq. 2 to 6 ----------------------------------------------------------------------------------------------------

    def reason(self, start, contexts, crossing):
        """h^(1..K) of both sides. ``crossing``: step number -> whether its cross-attention acts."""
        config = self.config
        contexts = {side: [list(layer) for layer in contexts[side]] for side in SIDES}
        history = {side: [len(layer) for layer in contexts[side]] for side in SIDES}
        h, outputs = start, {"s": [], "r": []}
        for k in range(config.steps):
            x = h
            if config.step_position != "none":
                x = {s: h[s] + self.weight[f"step_position.{s}"][k if config.step_position == "table" else 0] for s in SIDES}
            for depth in range(config.layers):
                for side in SIDES:
                    contexts[side][depth].append(x[side])
                new = {}
                for side in SIDES:
                    layer = self.layer(side, depth)
                    source = "s" if config.self_context == "search" else side
                    own = self.read(source, depth, contexts[source][depth])
                    query = self.read(side, depth, [x[side]])[0]
                    update = self.attention(f"{layer}.attention", query, own if config.includes_current else own[:-1])
                    f = self.join(f"{layer}.norm_attention", x[side], update)
                    other = OTHER[side]
                    across = contexts[other][depth]
                    if not config.cross_steps:
                        across = across[: history[other][depth]]
                    if config.update == "search_first" and side == "r":
                        across = [*across, new["s"]]
                    f = self.cross(side, depth, f, self.read(other, depth, across), crossing(k))
                    new[side] = self.feed(layer, f)
                x = new
            h = x
            for side in SIDES:
                outputs[side].append(h[side])
        return outputs

    def cross(self, side, depth, f, context, crossing):
        crossed = self.config.layers if self.config.cross_layers == "all" else 1
        index = depth - (self.config.layers - crossed)
        if index < 0:
            return f
        norm, owner = f"{self.side(side)}.cross_norms.{index}", self.side("s" if self.config.shared_cross else side)
        if not crossing:
            return f if self.config.twin == "skip_norm" else self.join(norm, f, 0.0)
        query = self.norm(norm, f) if self.config.block == "pre" else f
        return self.join(norm, f, self.attention(f"{owner}.cross.{index}", query, context))

    # -- eq. 7 to 10 ---------------------------------------------------------------------------------------------------

    def weights(self, side, e_v, states):
        """The softmax of eq. 8 over the states, one row per head, and the values it weighs."""
        name, form, heads = f"target.{side}", self.config.attention, self.config.heads
        width = len(e_v)
        if form == "mlp":
            pairs = np.stack([np.concatenate([s, e_v, s * e_v, s - e_v]) for s in states])
            logits = self.linear(f"{name}.logit", np.maximum(self.linear(f"{name}.hidden", pairs), 0))[:, 0]
            return softmax(logits)[None], np.stack(states)[None]
        if form == "dot":
            return softmax(np.stack(states) @ e_v / sqrt(width))[None], np.stack(states)[None]
        query = self.linear(f"{name}.query", e_v)
        if form == "bilinear":
            return softmax(np.stack(states) @ query)[None], np.stack(states)[None]
        split = [slice(h * width // heads, (h + 1) * width // heads) for h in range(heads)]
        keys, values = np.stack(states), self.linear(f"{name}.value", np.stack(states))
        return (
            np.stack([softmax(keys[:, at] @ query[at] / sqrt(width // heads)) for at in split]),
            np.stack([values[:, at] for at in split]),
        )

    def aggregate(self, side, e_v, encoded, steps, start):
        width = len(e_v)
        if self.config.aggregation == "last":
            return steps[-1] if steps else start
        if self.config.aggregation == "target":
            if self.config.perturb_history and encoded:
                encoded = [*encoded[:-1], start]
            states = [*encoded, *steps]
            if not states:
                return np.zeros(width)
            weights, values = self.weights(side, e_v, states)
            return np.concatenate([w @ v for w, v in zip(weights, values, strict=True)])
        states = steps if self.config.aggregation == "mean_steps" and steps else [*encoded, *steps]
        return np.mean(states, 0) if states else np.zeros(width)

    def score(self, user, w, e_v):
        logit = 0.0
        if self.config.scorer != "mlp":
            logit += (w["s"] + w["r"]) @ e_v
        if self.config.scorer != "dot":
            x = np.concatenate([user, w["s"], w["r"], e_v])
            for i in range(len(self.config.hidden)):
                x = np.maximum(self.linear(f"mlp.{i}", x), 0)
            logit += self.linear(f"mlp.{len(self.config.hidden)}", x)[0]
        return logit

    def prepare(self, batch, row, target, noise=None):
        tokens = self.tokens(batch, row, target)
        encoded, contexts, start = {}, {}, {}
        for side in SIDES:
            encoded[side], inputs = self.encode(side, tokens[side])
            contexts[side] = [encoded[side]] * self.config.layers if self.config.context == "encoded" else inputs
            width = self.weight["inputs.item.weight"].shape[1]
            empty = self.weight.get(f"empty.{side}", np.zeros(width))
            start[side] = encoded[side][-1] if encoded[side] else empty
            if noise is not None:
                start[side] = start[side] + (noise[:width] if side == "s" else noise[width:])
        return encoded, contexts, start

    def forward(self, batch, row, target, noise=None):
        """(side -> h^(1..K), logits of the candidates)."""
        encoded, contexts, start = self.prepare(batch, row, target, noise)
        steps = self.reason(start, contexts, lambda _: True)
        logits = []
        for i in batch.candidates[row, target].tolist():
            e_v = self.item(i) if i else np.zeros_like(start["s"])
            w = {side: self.aggregate(side, e_v, encoded[side], steps[side], start[side]) for side in SIDES}
            logits.append(self.score(self.user(int(batch.user[row])), w, e_v))
        return steps, np.array(logits)

    # -- eq. 9 ---------------------------------------------------------------------------------------------------------

    def twin(self, batch, row, target):
        """h~^(1..K): the run without cross-attention (A18)."""
        _, contexts, start = self.prepare(batch, row, target)
        last = self.config.steps - 1
        self.twin_sides = self.config.twin == "separate"
        steps = self.reason(start, contexts, lambda k: self.config.twin == "last_step" and k < last)
        self.twin_sides = False
        return steps

    def distance(self, a, b):
        length = np.linalg.norm
        if self.config.distance == "cosine":
            return 1 - a @ b / (length(a) * length(b))
        if self.config.distance == "normalised":
            return length(a / length(a) - b / length(b))
        return length(a - b)

    def contrastive(self, batch):
        """TCL_s + TCL_r, each the mean over the targets that are not padding."""
        losses = []
        for row, target in np.argwhere(batch.target_mask.numpy()):
            e_v = self.item(int(batch.candidates[row, target, batch.positive[row, target]]))
            main, twin = self.forward(batch, row, target)[0], self.twin(batch, row, target)
            gaps = [self.distance(e_v, main[s][-1]) - self.distance(e_v, twin[s][-1]) for s in SIDES]
            losses.append(sum(max(gap + self.config.margin, 0.0) for gap in gaps))
        return np.mean(losses)
