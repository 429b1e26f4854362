// Command trained compares what two training runs came to, as "moerun train
// --json" prints it: trained DENSE.json MOE.json. It fails unless the second
// one's held-out perplexity is at most --ratio times that of the first, and the
// load of its experts varies by less than --variation.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/fmoe-go/fmoe/runtime/train/job"
)

func main() {
	ratio := flag.Float64("ratio", 1, "greatest ratio of held-out perplexities")
	variation := flag.Float64("variation", 0, "greatest coefficient of variation of the experts' load; 0 for any")
	flag.Parse()
	if err := compare(flag.Args(), *ratio, *variation); err != nil {
		fmt.Fprintln(os.Stderr, "trained:", err)
		os.Exit(1)
	}
}

func compare(paths []string, ratio, variation float64) error {
	if len(paths) != 2 {
		return fmt.Errorf("there are %d files, needs two", len(paths))
	}
	var runs [2]job.Result
	for i, path := range paths {
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &runs[i])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r := &runs[i]
		fmt.Printf("%-28s  held-out perplexity %s after %d steps, %d tokens, %.0f s; load varies by %s\n",
			path, r.Perplexity.Text(4), r.Steps, r.Tokens, float64(r.Seconds), r.Variation.Text(2))
	}
	got := float64(runs[1].Perplexity / runs[0].Perplexity)
	fmt.Printf("ratio %.4f, wanted at most %.4f\n", got, ratio)
	switch {
	case !(got <= ratio):
		return fmt.Errorf("the perplexity of %s is too high", paths[1])
	case variation > 0 && !(float64(runs[1].Variation) < variation):
		return fmt.Errorf("the load of the experts of %s varies by %.2f, wanted below %.2f", paths[1], float64(runs[1].Variation), variation)
	}
	return nil
}
