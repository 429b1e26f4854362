"""Compares models by their perplexities on the halves of a text: python models/compare_halves.py DIR

DIR/MODEL/HALF.json is what moerun perplexity --json printed. Prints a table, and exits 1 unless the model called
"merged" is better, on every half, than the mean of the models that are called like the halves.
"""

import json
import sys
from pathlib import Path


def main():
    folder = Path(sys.argv[1])
    perplexity = {}
    for path in sorted(folder.glob("*/*.json")):
        perplexity[path.parent.name, path.stem] = json.loads(path.read_text())["perplexity"]
    halves = sorted({half for _, half in perplexity})
    models = sorted({model for model, _ in perplexity})
    for half in halves:
        perplexity["mean of " + " and ".join(halves), half] = sum(perplexity[model, half] for model in halves) / len(halves)
    models = [model for model in models if model != "merged"] + ["mean of " + " and ".join(halves), "merged"]

    width = max(len(model) for model in models)
    print(f"{'perplexity on'.ljust(width)}  " + "  ".join(half.rjust(10) for half in halves))
    for model in models:
        print(f"{model.ljust(width)}  " + "  ".join(f"{perplexity[model, half]:10.3f}" for half in halves))
    worse = [half for half in halves if perplexity["merged", half] >= perplexity[models[-2], half]]
    if not halves or worse:
        sys.exit(f"FAIL the merged model is not better than the mean on {' and '.join(worse) or 'any half'}")
    print("ok   the merged model is better than the mean on each half")


if __name__ == "__main__":
    main()
