"""Reference cases of the gates, computed from the formulas of their papers.

    python3 gates.py

writes gates/NAME.json for each gate, and gates/random.json, with the same
bytes each time. It needs nothing but Python and shares nothing with the Go code:
numbers are Python's (float64), sums are exact (math.fsum), and every rule is
written the way that its paper or docs/gates.md states it, however slow.

T is the number of experts, N that of tokens, k = top_k, z the logits.
"""

import json
import math
import pathlib
import random
import struct
from types import SimpleNamespace

# Random numbers: Philox4x32-10, by Salmon et al. (2011).


def philox(counter, key):
    mask = 0xFFFFFFFF
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def words(case, token, place):
    """The four words in which a place of a token lies; token counts from the first of all workers."""
    key = [case.seed % 2**32, case.seed // 2**32]
    return philox([place // 4, token % 2**32, case.layer % 2**16 * 2**16 + token // 2**32 % 2**16, case.step], key)


def uniform(case, n, place):
    return (words(case, case.first + n, place)[place % 4] + 0.5) / 2**32


def normal(case, n, place):
    w = words(case, case.first + n, place)
    u = [(x + 0.5) / 2**32 for x in w]
    a, b = (u[0], u[1]) if place % 4 < 2 else (u[2], u[3])
    wave = math.cos if place % 2 == 0 else math.sin
    return math.sqrt(-2 * math.log(a)) * wave(2 * math.pi * b)


# What gates share.


class Fragile(Exception):
    """Two numbers that decide are so close that rounding could decide otherwise."""


def compare(numbers, origins):
    """Checks that different numbers are apart, those of equal origin being equal in any implementation."""
    order = sorted(range(len(numbers)), key=lambda i: numbers[i])
    for i, j in zip(order, order[1:]):
        if origins[i] != origins[j] and numbers[j] - numbers[i] < 1e-9:
            raise Fragile


def softmax(z):
    e = [math.exp(x - max(z)) for x in z]
    return [x / math.fsum(e) for x in e]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def top(values, k):
    """The places of the k largest values, in descending order, the first of equal ones first."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def weights(case, z, experts):
    """The weights in the output of a token's experts."""
    if case.scores == "one":
        s = [1.0 for _ in experts]
    elif case.scores == "sigmoid":
        s = [sigmoid(z[e]) for e in experts]
        if case.normalize:
            total = math.fsum(s)
            s = [x / total for x in s]
    elif case.normalize:
        s = softmax([z[e] for e in experts]) if experts else []
    else:
        p = softmax(z)
        s = [p[e] for e in experts]
    return [case.routed_scaling * x for x in s]


def live(case):
    return [n for n in range(case.tokens) if case.mask is None or case.mask[n]]


def parts(case):
    """The tokens of each worker that are not masked: equal parts of the batch, one after the other."""
    n, w = case.tokens, case.workers
    return [[t for t in live(case) if i * n // w <= t < (i + 1) * n // w] for i in range(w)]


def factor(case):
    return case.capacity_factor_train if case.training else case.capacity_factor_eval


def choose(case, logits, k):
    """Top-k of each token: {token: [expert]} and {(token, slot): score}."""
    bias = case.bias or [0] * case.experts
    chosen = {n: top([x + y for x, y in zip(logits[n], bias)], k) for n in live(case)}
    scores = {(n, j): s for n in chosen for j, s in enumerate(weights(case, logits[n], chosen[n]))}
    return chosen, scores


def grant(chosen, tokens, rows):
    """The slots of the tokens that get a row, where an expert has so many."""
    kept, used = set(), {}
    for n in tokens:
        for j, e in enumerate(chosen[n]):
            if used.get(e, 0) < rows:
                used[e] = used.get(e, 0) + 1
                kept.add((n, j))
    return kept


def result(case, chosen, scores, kept=None, slots=None, loss=0.0, capacity=None, logits=None):
    slots = case.k if slots is None else slots
    there = [(n, j) for n in chosen for j, e in enumerate(chosen[n]) if e >= 0 and (kept is None or (n, j) in kept)]
    indices = [[-1] * slots for _ in range(case.tokens)]
    values = [[0.0] * slots for _ in range(case.tokens)]
    for n, j in there:
        indices[n][j], values[n][j] = chosen[n][j], scores[n, j]
    used = logits or case.logits
    z = [math.log(math.fsum(math.exp(x) for x in used[n])) ** 2 for n in live(case)]
    return {"indices": indices, "scores": values, "loss": loss, "z_loss": math.fsum(z) / len(z) if z else 0.0, "capacity": capacity}


# The gates.


def naive(case):
    return result(case, *choose(case, case.logits, case.k))


def noisy(case):
    """Shazeer et al., arXiv 1701.06538, appendix A."""
    clean, logits, k = case.logits, case.logits, case.k
    if case.training:
        sigma = [[math.log1p(math.exp(x)) + 0.01 for x in row] for row in case.noise]
        logits = [[z + normal(case, n, e) * sigma[n][e] for e, z in enumerate(row)] for n, row in enumerate(clean)]
        for row in logits:
            compare(row, range(len(row)))
    chosen, scores = choose(case, logits, k)
    importance = [math.fsum(scores[n, j] for n in chosen for j in range(k) if chosen[n][j] == e) for e in range(case.experts)]
    if case.training and k < case.experts:

        def chance(n, e):  # that e would be among the k largest
            others = sorted((x for i, x in enumerate(logits[n]) if i != e), reverse=True)
            return (1 + math.erf((clean[n][e] - others[k - 1]) / sigma[n][e] / math.sqrt(2))) / 2

        load = [math.fsum(chance(n, e) for n in chosen) for e in range(case.experts)]
    else:
        load = [sum(e in chosen[n] for n in chosen) for e in range(case.experts)]

    def variation(x):
        if len(x) == 1:
            return 0.0
        mean = math.fsum(x) / len(x)
        return math.fsum((v - mean) ** 2 for v in x) / (len(x) - 1) / (mean**2 + 1e-10)

    return result(case, chosen, scores, loss=variation(importance) + variation(load), logits=logits)


def first_choice_loss(case, chosen):
    """GShard, arXiv 2006.16668, algorithm 1, times T²."""
    if not chosen:
        return 0.0
    p = {n: softmax(case.logits[n]) for n in chosen}
    share = [sum(chosen[n][0] == e for n in chosen) / len(chosen) for e in range(case.experts)]
    mean = [math.fsum(p[n][e] for n in chosen) / len(chosen) for e in range(case.experts)]
    return case.experts**2 * math.fsum(c * m for c, m in zip(share, mean)) / case.experts


def route_randomly(case, chosen, scores, kept):
    if not (case.training and case.random_routing):
        return kept
    for n in chosen:
        if abs(2 * scores[n, 1] / case.routed_scaling - uniform(case, n, 0)) < 1e-9:
            raise Fragile
    return {(n, j) for n, j in kept if j == 0 or 2 * scores[n, 1] / case.routed_scaling >= uniform(case, n, 0)}


def gshard(case):
    chosen, scores = choose(case, case.logits, 2)
    kept, capacity, c = set(), [], factor(case)
    for tokens in parts(case):
        rows = len(tokens) if c == -1 else math.ceil(c * len(tokens)) * 2 // case.experts
        capacity.append(min(rows, len(tokens)))
        kept |= grant(chosen, tokens, rows)
    kept = route_randomly(case, chosen, scores, kept)
    return result(case, chosen, scores, kept, loss=first_choice_loss(case, chosen), capacity=capacity)


def dc(case):
    chosen, scores = choose(case, case.logits, 2)
    tokens, c = live(case), factor(case)
    rows = len(tokens) if c == -1 else math.ceil(c * len(tokens) / case.workers)
    kept = route_randomly(case, chosen, scores, grant(chosen, tokens, rows))
    return result(case, chosen, scores, kept, loss=first_choice_loss(case, chosen), capacity=[min(rows, len(tokens))])


def switch(case):
    """Fedus et al., arXiv 2101.03961, equations 3 to 6."""
    logits, epsilon, tokens, c = case.logits, case.jitter, live(case), factor(case)
    if case.training and epsilon > 0:
        logits = [[z * (1 - epsilon + 2 * epsilon * uniform(case, n, e)) for e, z in enumerate(row)] for n, row in enumerate(logits)]
        for n, row in enumerate(logits):
            compare(row, [0 if x == 0 else (e + 1) for e, x in enumerate(case.logits[n])])
    chosen, scores = choose(case, logits, 1)
    rows = len(tokens) if c == -1 else math.ceil(c * len(tokens) / case.experts)
    kept = grant(chosen, tokens, rows)
    loss = 0.0
    if kept:
        p = {n: softmax(logits[n]) for n in tokens}
        for e in range(case.experts):
            f = sum(chosen[n][0] == e for n, _ in kept) / len(kept)
            loss += case.experts * f * math.fsum(p[n][e] for n in tokens) / len(kept)
    return result(case, chosen, scores, kept, loss=loss, capacity=[min(rows, len(tokens))], logits=logits)


def swipe(case):
    chosen, scores = choose(case, case.logits, case.k)
    if case.training:
        each = case.experts // case.workers
        room = [len(tokens) * case.k for tokens in parts(case)]
        for j in range(case.k):
            rest = []
            for n in live(case):
                w = chosen[n][j] // each
                if room[w] > 0:
                    room[w] -= 1
                else:
                    rest.append(n)
            for n in rest:
                w = next(w for w in range(case.workers) if room[w] > 0)
                room[w] -= 1
                chosen[n][j] = w * each + j % each
        scores = {(n, j): s for n in chosen for j, s in enumerate(weights(case, case.logits[n], chosen[n]))}
    return result(case, chosen, scores)


def topology(case):
    chosen, _ = choose(case, case.logits, 2)
    loss = first_choice_loss(case, chosen)
    chosen = {n: list(e) for n, e in chosen.items()}
    size = case.experts // (case.workers // case.workers_per_node)  # experts of a node
    for w, tokens in enumerate(parts(case)):
        node = w // case.workers_per_node
        limit = int(len(tokens) * case.fraction)
        off = [n for n in tokens if chosen[n][0] // size != node]
        if len(off) < limit or size == case.experts:
            continue
        off.sort(key=lambda n: (-case.logits[n][chosen[n][0]], n))
        keep = set(off[:limit])
        for n in tokens:
            inside = [z if e // size == node else -math.inf for e, z in enumerate(case.logits[n])]
            preferred = chosen[n][0]
            chosen[n] = top(inside, 2)
            if n in keep:
                chosen[n][1] = preferred
    scores = {(n, j): s for n in chosen for j, s in enumerate(weights(case, case.logits[n], chosen[n]))}
    return result(case, chosen, scores, loss=loss)


def zero(case):
    chosen = {n: [0] * case.k for n in live(case)}
    return result(case, chosen, {(n, j): case.routed_scaling / case.k for n in chosen for j in range(case.k)})


def affinities(case):
    """How much each token prefers each expert."""
    one = sigmoid if case.scores == "sigmoid" else None
    a = {n: [one(x) for x in case.logits[n]] if one else softmax(case.logits[n]) for n in live(case)}
    if case.experts > 1:
        for e in range(case.experts):
            compare([a[n][e] for n in a], [case.logits[n] for n in a])
    return a


def expert_choice(case):
    """Zhou et al., arXiv 2202.09368, section 3.2."""
    tokens, c, a = live(case), factor(case), affinities(case)
    rows = len(tokens) if c == -1 else min(math.ceil(c * case.k * len(tokens) / case.experts), len(tokens))
    chosen = {n: [-1] * case.experts for n in tokens}
    for e in range(case.experts):
        for n in sorted(tokens, key=lambda n: (-a[n][e], n))[:rows]:
            chosen[n][e] = e
    scores = {}
    for n in tokens:
        experts = [e for e in chosen[n] if e >= 0]
        for e, s in zip(experts, weights(case, case.logits[n], experts)):
            scores[n, e] = s
    return result(case, chosen, scores, slots=case.experts, capacity=[rows])


def deepseek(case):
    """DeepSeek-V3, arXiv 2412.19437, equations 12 to 20."""
    t, k, bias = case.experts, case.k, case.bias or [0] * case.experts
    s = {n: [sigmoid(x) for x in case.logits[n]] for n in live(case)}
    chosen = {}
    for n in s:
        biased = [x + b for x, b in zip(s[n], bias)]
        compare(biased, list(zip(case.logits[n], bias)))
        allowed = range(t)
        if case.groups:
            size = t // case.groups
            groups = [biased[g * size : (g + 1) * size] for g in range(case.groups)]
            rank = [sum(sorted(g, reverse=True)[:2]) for g in groups]
            compare(rank, [sorted(g)[-2:] for g in groups])
            kept = top(rank, case.top_groups)
            allowed = [e for e in range(t) if e // size in kept]
        chosen[n] = [allowed[i] for i in top([biased[e] for e in allowed], k)]
    scores = {(n, j): w for n in chosen for j, w in enumerate(weights(case, case.logits[n], chosen[n]))}

    length = case.sequence or max(1, case.tokens)
    losses = []
    for lo in range(0, case.tokens, length):
        tokens = [n for n in s if lo <= n < lo + length]
        if not tokens:
            continue
        count = [sum(e in top(s[n], k) for n in tokens) for e in range(t)]
        f = [t / (k * len(tokens)) * x for x in count]
        p = [math.fsum(s[n][e] / math.fsum(s[n]) for n in tokens) / len(tokens) for e in range(t)]
        losses.append(math.fsum(x * y for x, y in zip(f, p)))
    return result(case, chosen, scores, loss=math.fsum(losses) / len(losses) if losses else 0.0)


def token_rounding(case):
    """SonicMoE, arXiv 2512.14080, to the nearest multiple of the tile."""
    chosen, _ = choose(case, case.logits, case.k)
    chosen = {n: experts + [-1] * (case.experts - case.k) for n, experts in chosen.items()}
    if case.training:
        a = affinities(case)
        before = {n: set(experts[: case.k]) for n, experts in chosen.items()}
        for e in range(case.experts):
            have = [n for n in before if e in before[n]]
            rows = min(round(len(have) / case.tile) * case.tile, len(before))  # round takes the even one of two
            best = sorted(before, key=lambda n: (e not in before[n], -a[n][e], n))[:rows]
            for n in before:
                if n in best and n not in have:
                    chosen[n][chosen[n].index(-1, case.k)] = e
                if n in have and n not in best:
                    chosen[n][chosen[n].index(e)] = -1
    scores = {}
    for n in chosen:
        there = [(j, e) for j, e in enumerate(chosen[n]) if e >= 0]
        for (j, _), s in zip(there, weights(case, case.logits[n], [e for _, e in there])):
            scores[n, j] = s
    return result(case, chosen, scores, slots=case.experts)


# name: (the function, the values of k, defaults that differ from those of all gates)
GATES = {
    "naive": (naive, (1, 2, 3, 4), {}),
    "noisy": (noisy, (1, 2, 3, 4), {}),
    "gshard": (gshard, (2,), {"capacity_factor_train": 1.2, "capacity_factor_eval": 2.4, "random_routing": 1}),
    "switch": (switch, (1,), {"capacity_factor_train": 1.2, "capacity_factor_eval": 2.4, "jitter": 0.1, "normalize": 0}),
    "swipe": (swipe, (1, 2, 3, 4), {}),
    "topology": (topology, (2,), {"fraction": 0.14}),
    "dc": (dc, (2,), {"capacity_factor_train": 1.2, "capacity_factor_eval": 2.4, "random_routing": 1}),
    "zero": (zero, (1, 2, 3, 4), {}),
    "expert-choice": (expert_choice, (1, 2, 3, 4), {"capacity_factor_train": 1, "capacity_factor_eval": 1, "normalize": 0}),
    "sigmoid": (deepseek, (1, 2, 3, 4), {"scores": "sigmoid"}),
    "token-rounding": (token_rounding, (1, 2, 3, 4), {"tile": 128}),
}

DEFAULTS = {"normalize": 1, "scores": "softmax", "routed_scaling": 1, "capacity_factor_train": -1, "capacity_factor_eval": -1,
            "random_routing": 0, "jitter": 0, "groups": 0, "top_groups": 0, "tile": 0, "workers": 1, "workers_per_node": 1,
            "fraction": 0, "seed": 0, "layer": 0}  # fmt: skip

# The cases.

SHAPES = [(0, 2), (0, 8), (1, 1), (3, 1), (1, 2), (5, 2), (12, 2), (1, 8), (7, 8), (13, 8), (16, 8), (33, 8), (1, 64), (5, 64), (19, 64), (21, 8), (24, 2)]
PATTERNS = ["random", "ties", "one expert", "random", "repeated"]


def float32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def table(rng, pattern, tokens, experts):
    """Logits of three decimals."""
    if pattern == "ties":
        return [[float(int(rng.random() * 4) - 1) for _ in range(experts)] for _ in range(tokens)]
    rows = [[round(4 * (rng.random() + rng.random() + rng.random()) - 6, 3) for _ in range(experts)] for _ in range(tokens)]
    if pattern == "one expert" and experts > 1:
        favourite = int(rng.random() * experts)
        for row in rows:
            row[favourite] = round(row[favourite] + 9, 3)
    if pattern == "repeated" and tokens > 2:
        rows = [rows[int(rng.random() * 2)] for _ in rows]
    return rows


def options(rng, name, i, k, experts):
    """What a case states, among what its gate takes."""
    stated = {}
    if name in ("gshard", "switch", "dc", "expert-choice"):
        c = [None, 0.5, 1.0, -1, 1.7, 0.3][i % 6]
        if c is not None:
            stated["capacity_factor_train"] = stated["capacity_factor_eval"] = c
    if name in ("gshard", "dc") and i % 5 == 3:
        stated["random_routing"] = 0
    if name == "switch" and i % 4 == 2:
        stated["jitter"] = [0.0, 0.4][i // 4 % 2]
    if name in ("gshard", "dc", "swipe", "topology"):
        workers = [w for w in ([4, 2] if name == "topology" else [1, 2, 4]) if experts % w == 0]
        if workers:
            stated["workers"] = workers[i % len(workers)]
    if name == "topology":
        if stated.get("workers", 1) == 4 and (i % 3 == 0 or experts < 8):
            stated["workers_per_node"] = 2
        if experts // (stated.get("workers", 1) // stated.get("workers_per_node", 1)) < 2:
            stated["workers"] = stated["workers_per_node"] = 1
        if i % 2 == 0:
            stated["fraction"] = [0.3, 0.0, 1.0, 0.6][i // 2 % 4]
    if name == "sigmoid" and experts >= 8 and i % 3 > 0:
        stated["groups"] = [4, 2, 8][i % 2 + i % 4 // 3]
        need = -(-k * stated["groups"] // experts)
        stated["top_groups"] = max(need, 1 + i % 2)
    if name == "token-rounding":
        stated["tile"] = [2, 4, 3, 1, 8][i % 5]
    if name not in ("zero",) and i % 7 == 4:
        stated["normalize"] = 0 if GATES[name][2].get("normalize", 1) else 1
    if name not in ("zero", "sigmoid") and i % 9 == 5:
        stated["scores"] = ["sigmoid", "one"][i // 9 % 2]
    if i % 8 == 6:
        stated["routed_scaling"] = 2.5
    if i % 3 == 0:
        stated["seed"], stated["layer"] = int(rng.random() * 2**50), int(rng.random() * 100)
    return stated


def make(name, i, tokens, experts, training, salt):
    rng = random.Random(f"{name} {i} {salt}")
    _, ks, defaults = GATES[name]
    fitting = [k for k in ks if k <= experts]
    if not fitting:
        return None
    k = fitting[(i // 2 + i) % len(fitting)]
    pattern = PATTERNS[i % len(PATTERNS)]
    if pattern == "ties" and name in ("expert-choice", "token-rounding"):
        pattern = "repeated"
    stated = options(rng, name, i, k, experts)
    case = SimpleNamespace(**(DEFAULTS | defaults | stated))
    case.name = f"{name} {i}: {pattern}, N={tokens} T={experts} k={k}{' training' if training else ''}"
    case.tokens, case.experts, case.k, case.training = tokens, experts, k, training
    logits = table(rng, pattern, tokens, experts)
    noise = table(rng, "random", tokens, experts) if name == "noisy" and training else None
    bias = [round(rng.random() - 0.5, 3) for _ in range(experts)] if name in ("naive", "sigmoid", "token-rounding") and i % 4 == 1 else None
    case.mask = None
    if i % 4 == 3 or i == 22:
        case.mask = [i != 22 and rng.random() < 0.7 for _ in range(tokens)]
    case.step = int(rng.random() * 1000)
    case.first = [0, int(rng.random() * 10000), 2**33 + 5][i % 3]
    case.sequence = [0, 4, 5][i % 3] if name == "sigmoid" else 0
    narrow = lambda rows: [[float32(x) for x in row] for row in rows]
    case.logits = narrow(logits)
    case.noise = noise and narrow(noise)
    case.bias = bias and narrow([bias])[0]
    decided = GATES[name][0](case)
    return {
        "name": case.name, "tokens": tokens, "experts": experts, "training": training, "step": case.step, "first": case.first,
        "sequence": case.sequence, "attributes": {"gate": name, "top_k": k} | stated, "logits": sum(logits, []),
        "noise": noise and sum(noise, []), "bias": bias, "mask": case.mask,
        "indices": sum(decided["indices"], []), "scores": [digits(s) for s in sum(decided["scores"], [])],
        "loss": digits(decided["loss"]), "z_loss": digits(decided["z_loss"]), "capacity": decided["capacity"],
    }  # fmt: skip


def digits(x):
    """14 of them: the last ones may differ between mathematical libraries."""
    x = float(f"{x:.14g}")
    return int(x) if x == int(x) else x


def cases(name):
    i = 0
    for tokens, experts in SHAPES:
        for training in (False, True):
            for salt in range(100):
                try:
                    case = make(name, i, tokens, experts, training, salt)
                    break
                except Fragile:
                    pass
            else:
                raise SystemExit(f"{name} {i}: no case that rounding does not decide")
            i += 1
            if case:
                yield case


def random_cases():
    for seed, step, layer, token in [(0, 0, 0, 0), (1, 2, 3, 4), (2**63 - 1, 2**32 - 1, 2**16 - 1, 2**40 + 17), (12345678901, 7, 1, 2**32)]:
        case = SimpleNamespace(seed=seed, step=step, layer=layer, first=token)
        yield {"seed": seed, "step": step, "layer": layer, "token": token,
               "uniform": [uniform(case, 0, p) for p in range(12)],
               "normal": [digits(normal(case, 0, p)) for p in range(12)]}  # fmt: skip


def write(name, rows):
    path = pathlib.Path(__file__).parent / "gates" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    for gate in GATES:
        write(gate, list(cases(gate)))
    write("random", list(random_cases()))
