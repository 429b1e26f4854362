package report

import (
	_ "embed"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/internal/plot"
	"github.com/fmoe-go/fmoe/runtime/routing"
)

//go:embed page.css
var pageStyle string

// htmlWriter writes HTML and keeps the first error.
type htmlWriter struct {
	w   io.Writer
	err error
}

// printf writes markup in which the arguments are text.
func (w *htmlWriter) printf(format string, args ...string) {
	escaped := make([]any, len(args))
	for i, a := range args {
		escaped[i] = html.EscapeString(a)
	}
	w.raw(fmt.Sprintf(format, escaped...))
}

func (w *htmlWriter) raw(markup string) {
	if w.err == nil {
		_, w.err = io.WriteString(w.w, markup)
	}
}

func (w *htmlWriter) lines(l plot.Lines) {
	if w.err == nil {
		w.err = l.WriteHTML(w.w)
	}
}

func (w *htmlWriter) cells(h plot.Heatmap, wide bool) {
	if w.err == nil {
		w.err = h.WriteHTML(w.w, wide)
	}
}

// writePage writes the page.
func (h *history) writePage(out io.Writer) error {
	w := &htmlWriter{w: out}
	title := "Training"
	if h.run.Model != "" {
		title += " of " + h.run.Model
	}
	w.printf("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>%s</title>\n", title)
	w.raw("<link rel=\"icon\" href=\"data:,\">\n<style>\n" + plot.Style() + pageStyle + "</style>\n</head>\n<body>\n<main>\n")
	w.printf("<h1>%s</h1>\n", title)
	h.summary(w)
	h.training(w)
	if h.layers != nil {
		h.balance(w)
	}
	if h.run.Config != "" {
		w.printf("<h2>Configuration</h2>\n<pre>%s</pre>\n", h.run.Config)
	}
	w.raw("</main>\n<script>\n" + plot.Script + "</script>\n</body>\n</html>\n")
	return w.err
}

// summary writes what the run is and how far it is.
func (h *history) summary(w *htmlWriter) {
	s := h.last
	w.raw(`<p class="about">`)
	separator := ""
	for _, about := range []string{h.about(), h.run.Machine, h.run.Version} {
		if about != "" {
			w.printf("%s%s", separator, about)
			separator = " · "
		}
	}
	w.raw("</p>\n<dl class=\"tiles\">\n")
	tile := func(name, value, note string) {
		w.printf("<div><dt>%s</dt><dd>%s<small>%s</small></dd></div>\n", name, value, note)
	}
	steps, planned := cli.Count(s.Step), ""
	if h.run.Steps > 0 {
		planned = "of " + cli.Count(h.run.Steps)
	}
	tile("steps", steps, planned)
	tile("tokens", cli.Count(s.Tokens), "")
	tile("time", duration(s.Seconds), "")
	if losses := smoothedLoss(h.steps); len(losses) > 0 {
		tile("training loss", Number(losses[len(losses)-1]).Text(4), "smoothed")
	}
	if len(h.evaluations.points) > 0 {
		tile("held-out loss", h.held.Loss.Text(4), "best "+h.best.Text(4))
		if !math.IsNaN(float64(h.held.Perplexity)) {
			tile("held-out perplexity", h.held.Perplexity.Text(2), "")
		}
	}
	if x := h.speed(); x > 0 {
		tile("tokens/s", cli.Count(int64(x)), "mean")
	}
	if h.layers != nil {
		_, worst := h.variation()
		tile("load CV", worst.Text(2), "of the worst layer")
	}
	tile("steps skipped", cli.Count(s.Skipped), "")
	if s.Memory > 0 {
		tile("memory", bytesText(s.Memory), "peak")
	}
	w.raw("</dl>\n")
}

func (h *history) about() string {
	about := ""
	if h.run.Parameters > 0 {
		about = cli.Count(h.run.Parameters) + " parameters trained"
	}
	if !h.run.Started.IsZero() {
		if about != "" {
			about += ", "
		}
		about += "started " + h.run.Started.UTC().Format("2006-01-02 15:04 UTC")
	}
	return about
}

// speed returns the mean of tokens/s over all records, 0 where there is none.
func (h *history) speed() float64 {
	sum, n := 0.0, 0.0
	for _, p := range h.steps.points {
		sum += p.sums[ofSpeed]
		n += float64(p.counts[ofSpeed])
	}
	if !(sum > 0) || sum/n > math.MaxInt64/2 {
		return 0
	}
	return sum / n
}

func smoothedLoss(steps *course) []float64 { return withoutNoise(steps.means(ofLoss)) }

// withoutNoise smooths as much as suits a plot.
func withoutNoise(numbers []float64) []float64 {
	return smooth(numbers, max(5, float64(len(numbers))/50))
}

// maxDots is how many evaluations are dots and not a line.
const maxDots = 60

// training writes the plots of the whole model.
func (h *history) training(w *htmlWriter) {
	x := h.steps.steps()
	each := "each step"
	if h.steps.each > 1 {
		each = "mean of " + cli.Count(int64(h.steps.each)) + " records"
	}
	w.raw("<h2>Training</h2>\n<div class=\"plots\">\n")
	loss := plot.Lines{Title: "Loss", X: "step", Wide: true}
	if h.steps.each > 1 {
		low, high := h.steps.extremes(ofLoss)
		loss.Lines = append(loss.Lines, plot.Line{Name: "training, least to largest", X: x, Low: low, High: high, Kind: plot.Band, Colour: plot.Series(0)})
	}
	loss.Lines = append(loss.Lines,
		plot.Line{Name: "training, " + each, X: x, Y: h.steps.means(ofLoss), Kind: plot.Thin, Colour: plot.Series(0)},
		plot.Line{Name: "training, smoothed", X: x, Y: smoothedLoss(h.steps), Kind: plot.Bold, Colour: plot.Series(0)})
	if len(h.evaluations.points) > 0 {
		kind := plot.Dots
		if len(h.evaluations.points) > maxDots {
			kind = plot.Plain
		}
		loss.Lines = append(loss.Lines, plot.Line{Name: "held-out", X: h.evaluations.steps(), Y: h.evaluations.means(0), Kind: kind, Colour: plot.Series(1)})
	}
	w.lines(loss)
	if h.rates != nil {
		rates := plot.Lines{Title: "Learning rate", X: "step", Zero: true}
		for i, g := range h.groups {
			rates.Lines = append(rates.Lines, plot.Line{Name: g, X: h.rates.steps(), Y: h.rates.means(i), Kind: plot.Plain, Colour: plot.Series(i), Dash: i})
		}
		w.lines(rates)
	}
	w.lines(noisy(plot.Lines{Title: "Gradient norm", Subtitle: "before clipping", X: "step"}, x, h.steps.means(ofGradient), each))
	w.lines(noisy(plot.Lines{Title: "Tokens/s", X: "step", Zero: true}, x, h.steps.means(ofSpeed), each))
	if h.layers != nil {
		losses := plot.Lines{Title: "Losses of the gates", Subtitle: "sums over the layers, not weighted", X: "step"}
		for i, of := range []int{ofBalance, ofZ} {
			losses.Lines = append(losses.Lines, plot.Line{Name: []string{"balance loss", "z-loss"}[i], X: x, Y: h.steps.means(of), Kind: plot.Plain, Colour: plot.Series(i), Dash: i})
		}
		w.lines(losses)
	}
	w.raw("</div>\n")
}

// noisy adds numbers and what is left of them when they are smoothed. The axis
// is logarithmic where they are far apart.
func noisy(l plot.Lines, x, y []float64, each string) plot.Lines {
	least, largest := math.Inf(1), 0.0
	for _, v := range y {
		if v > 0 {
			least, largest = min(least, v), max(largest, v)
		}
	}
	l.Log = !l.Zero && largest > 20*least
	l.Lines = []plot.Line{
		{Name: each, X: x, Y: y, Kind: plot.Thin, Colour: plot.Series(0)},
		{Name: "smoothed", X: x, Y: withoutNoise(y), Kind: plot.Bold, Colour: plot.Series(0)},
	}
	return l
}

// balance writes the plots of the layers.
func (h *history) balance(w *htmlWriter) {
	labels, pattern := routing.ShortNames(h.names)
	for i, s := range labels {
		labels[i] = shorten(s)
	}
	w.printf("<h2>Experts</h2>\n<p class=\"about\">FMoE layers %s</p>\n<div class=\"plots\">\n", pattern)
	h.finalLoad(w, labels)
	x := h.layers.steps()
	for _, of := range []struct {
		title, subtitle string
		number          int
		zero            bool
	}{
		{"Coefficient of variation", "of the load of a layer's experts; 0 is an even load", layerVariation, true},
		{"Balance loss", "by layer, not weighted", layerBalance, false},
		{"Entropy of the load", "1 is an even load, 0 all on one expert", layerEvenness, false},
		{"Dropped", "share of slots that no expert computed", layerDropped, true},
	} {
		l := plot.Lines{Title: of.title, Subtitle: of.subtitle, X: "step", Zero: of.zero}
		for i, label := range labels {
			l.Lines = append(l.Lines, plot.Line{Name: "layer " + label, X: x, Y: h.layers.means(numbersOfLayer*i + of.number), Kind: plot.Plain, Colour: plot.Order(i, len(labels))})
		}
		w.lines(l)
	}
	w.raw("</div>\n")
	h.table(w, labels)
	h.loadOverTime(w, labels)
}

const loadSubtitle = "1 is an even share"

// relative returns the loads of a layer in a point, as multiples of an even
// share.
func (h *history) relative(p *point, layer int) []float64 {
	first := 0
	for _, n := range h.experts[:layer] {
		first += n
	}
	loads := make([]float64, h.experts[layer])
	for e := range loads {
		loads[e] = p.mean(first+e) * float64(len(loads))
	}
	return loads
}

// lastLoads returns the mean of the last points, so that it is not that of
// one batch.
func (h *history) lastLoads() point {
	n := len(h.loads.points)
	p := h.loads.points[n-1]
	if n > 1 {
		q := h.loads.newPoint(h.loads.points[n-2].first, len(p.sums))
		q.join(h.loads.points[n-2])
		q.join(p)
		p = q
	}
	return p
}

func multiple(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) }

// finalLoad draws the load of all layers in the last steps.
func (h *history) finalLoad(w *htmlWriter, labels []string) {
	if len(h.experts) == 0 {
		return
	}
	p := h.lastLoads()
	m := plot.Heatmap{Title: "Load of each expert", Subtitle: loadSubtitle + "; " + stepsOf(&p), RowTitle: "layer", ColumnTitle: "expert",
		Rows: labels[:len(h.experts)], Columns: numbered(slices.Max(h.experts)), Most: 2, Format: multiple}
	for i := range h.experts {
		m.Values = append(m.Values, h.relative(&p, i))
	}
	w.cells(m, true)
}

// loadOverTime draws the load of each layer's experts over the steps, of as
// many layers as a page has room for, those that are least even.
func (h *history) loadOverTime(w *htmlWriter, labels []string) {
	shown := h.leastEven()
	if len(shown) == 0 {
		return
	}
	w.raw("<h2>Load of each expert over time</h2>\n")
	if len(shown) < len(h.names) {
		w.printf("<p class=\"about\">The %s layers whose load is least even, of %s.</p>\n", cli.Count(int64(len(shown))), cli.Count(int64(len(h.names))))
	}
	w.raw("<div class=\"plots\">\n")
	var columns []string
	for i := range h.loads.points {
		columns = append(columns, span(&h.loads.points[i]))
	}
	for _, i := range shown {
		m := plot.Heatmap{Title: "Layer " + labels[i], Subtitle: loadSubtitle, RowTitle: "expert", ColumnTitle: "step",
			Rows: numbered(h.experts[i]), Columns: columns, Most: 2, Format: multiple, Values: make([][]float64, h.experts[i])}
		for j := range h.loads.points {
			for e, x := range h.relative(&h.loads.points[j], i) {
				m.Values[e] = append(m.Values[e], x)
			}
		}
		w.cells(m, false)
	}
	w.raw("</div>\n")
}

// leastEven returns the layers whose maps a page has room for, in the order of
// the model.
func (h *history) leastEven() []int {
	variations, _ := h.variation()
	layers := make([]int, len(h.experts))
	for i := range layers {
		layers[i] = i
	}
	slices.SortStableFunc(layers, func(a, b int) int {
		switch x, y := variations[a], variations[b]; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	cells := 0
	for n, i := range layers {
		if cells += h.experts[i] * len(h.loads.points); cells > maxCells || n == maxMaps {
			layers = layers[:n]
			break
		}
	}
	slices.Sort(layers)
	return layers
}

// variation returns the coefficient of variation of each layer in the last
// point, and the largest of them.
func (h *history) variation() (each []Number, worst Number) {
	p := &h.layers.points[len(h.layers.points)-1]
	worst = Number(math.NaN())
	for i := range h.names {
		x := Number(p.mean(numbersOfLayer*i + layerVariation))
		each = append(each, x)
		if !(x <= worst) && !math.IsNaN(float64(x)) {
			worst = x
		}
	}
	return each, worst
}

// table writes the numbers of the layers in the last point.
func (h *history) table(w *htmlWriter, labels []string) {
	p := &h.layers.points[len(h.layers.points)-1]
	w.printf("<table>\n<caption>Balance of the layers, %s</caption>\n", stepsOf(p))
	w.raw("<thead><tr><th>layer</th><th>experts</th><th>dropped</th><th>entropy</th><th>CV</th><th>balance loss</th></tr></thead>\n<tbody>\n")
	for i, label := range labels {
		number := func(of int) Number { return Number(p.mean(numbersOfLayer*i + of)) }
		experts := "–"
		if i < len(h.experts) {
			experts = strconv.Itoa(h.experts[i])
		}
		w.printf("<tr><th scope=\"row\" title=\"%s\">%s</th><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>\n", h.names[i], label, experts,
			number(layerDropped).Percent(), number(layerEvenness).Text(3), number(layerVariation).Text(3), number(layerBalance).Text(3))
	}
	w.raw("</tbody>\n</table>\n")
}

// stepsOf says which steps a point is of.
func stepsOf(p *point) string {
	if p.first == p.last {
		return "step " + span(p)
	}
	return "steps " + span(p)
}

func span(p *point) string {
	if p.first == p.last {
		return cli.Count(p.first)
	}
	return cli.Count(p.first) + "–" + cli.Count(p.last)
}

// shorten cuts a name that leaves no room for a plot.
func shorten(name string) string {
	const most = 24
	if letters := []rune(name); len(letters) > most {
		return string(letters[:most-1]) + "…"
	}
	return name
}

func numbered(n int) []string {
	labels := make([]string, n)
	for i := range labels {
		labels[i] = strconv.Itoa(i)
	}
	return labels
}

func duration(seconds Number) string {
	const most = 1e9 // that a duration has room for
	if !(seconds >= 0 && seconds < most) {
		return "–"
	}
	return time.Duration(float64(seconds) * float64(time.Second)).Round(time.Second).String()
}

func bytesText(n int64) string {
	if n < 1<<30 {
		return strconv.FormatFloat(float64(n)/(1<<20), 'f', 0, 64) + " MiB"
	}
	return strconv.FormatFloat(float64(n)/(1<<30), 'f', 2, 64) + " GiB"
}
