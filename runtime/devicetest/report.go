package devicetest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// Report counts how cases ended.
type Report struct {
	operators map[string]*Counts // by operator, of cases with a single node
	composed  Counts             // cases with more nodes
	findings  []finding
}

// Counts is a number of cases by outcome. Excepted cases count in no other.
type Counts struct{ Passed, Failed, Unsupported, Excepted int }

type finding struct {
	name, operator string
	outcome        Outcome
	reason         string
}

// RunAll runs cases and counts.
func RunAll(cases []Case, o runtime.Options) *Report {
	r := &Report{operators: map[string]*Counts{}}
	for _, c := range cases {
		outcome, err := Run(c, o)
		operator := singleOperator(c)
		counts := &r.composed
		if operator != "" {
			if r.operators[operator] == nil {
				r.operators[operator] = &Counts{}
			}
			counts = r.operators[operator]
		}
		reason := Exception(c)
		switch {
		case reason != "":
			counts.Excepted++
			outcome = Passed
		case outcome == Passed:
			counts.Passed++
			continue
		case outcome == Failed:
			counts.Failed++
			reason = err.Error()
		default:
			counts.Unsupported++
			reason = firstReason(err)
		}
		r.findings = append(r.findings, finding{c.Name, operator, outcome, reason})
	}
	return r
}

// singleOperator names the operator of a case whose graph is one node.
func singleOperator(c Case) string {
	m, err := onnx.Decode(c.Model)
	if err != nil || m.Graph == nil || len(m.Graph.Nodes) != 1 {
		return ""
	}
	n := m.Graph.Nodes[0]
	if d := onnx.CanonicalDomain(n.Domain); d != "" {
		return d + "::" + n.OpType
	}
	return n.OpType
}

// firstReason shortens a refusal to one line.
func firstReason(err error) string {
	if u, ok := err.(*runtime.UnsupportedError); ok && len(u.Nodes) > 0 {
		return u.Nodes[0].OpType + ": " + u.Nodes[0].Reason
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// Total adds up all cases.
func (r *Report) Total() Counts {
	sum := r.composed
	for _, c := range r.operators {
		sum.add(*c)
	}
	return sum
}

// Tiers adds up the single-node cases of the operators that have a tier.
func (r *Report) Tiers() Counts {
	var sum Counts
	for name, c := range r.operators {
		if Tier(name) != "" {
			sum.add(*c)
		}
	}
	return sum
}

func (c *Counts) add(d Counts) {
	c.Passed += d.Passed
	c.Failed += d.Failed
	c.Unsupported += d.Unsupported
	c.Excepted += d.Excepted
}

// String writes counts on one line.
func (c Counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d unsupported, %d excepted", c.Passed, c.Failed, c.Unsupported, c.Excepted)
}

// Failures lists the cases that gave a wrong answer.
func (r *Report) Failures() []string {
	var list []string
	for _, f := range r.findings {
		if f.outcome == Failed {
			list = append(list, f.name+": "+f.reason)
		}
	}
	return list
}

// WriteMarkdown writes the table of operators, their versions and cases. more
// has further cases, whose reference is ONNX Runtime.
func (r *Report) WriteMarkdown(w io.Writer, more *Report) error {
	var b strings.Builder
	b.WriteString("# Operators\n\nWritten by `make conformance`: ONNX's own operator cases, run on the CPU with ONNX's tolerances\n" +
		"(relative 1e-3, absolute 1e-7; type and shape exact). A case is *unsupported* when the runtime\nrefuses the model and says why; a wrong answer is a failure.\n\n")
	fmt.Fprintf(&b, "- all cases: %s\n- single-node cases of the operators with a tier below: %s\n- cases of several nodes: %s\n"+
		"- further cases, of com.microsoft's operators above all, whose outputs ONNX Runtime computed: %s\n",
		r.Total(), r.Tiers(), r.composed, more.Total())
	versions := map[string]string{}
	for _, o := range op.Operators() {
		name := o.Name
		if o.Domain != "" {
			name = o.Domain + "::" + o.Name
		}
		versions[name] = strings.Trim(strings.ReplaceAll(fmt.Sprint(o.Since), " ", ", "), "[]")
	}
	names := slices.Collect(maps.Keys(versions))
	counts := maps.Clone(r.operators)
	for name, c := range more.operators {
		if counts[name] == nil { // the rest are ONNX's operators in forms that ONNX's cases lack
			counts[name] = c
		}
	}
	for name := range counts {
		if _, known := versions[name]; !known {
			names = append(names, name)
		}
	}
	groups := map[string][]string{}
	for _, name := range names {
		group := Tier(name)
		switch {
		case group != "":
			group = "Tier " + group
		case strings.Contains(name, "::"):
			group = "Other domains"
		case versions[name] == "":
			group = "Not supported"
		default:
			group = "More operators of ONNX"
		}
		groups[group] = append(groups[group], name)
	}
	order := slices.Sorted(maps.Keys(groups))
	slices.SortStableFunc(order, func(x, y string) int { return rank(x) - rank(y) })
	for _, group := range order {
		fmt.Fprintf(&b, "\n## %s\n\n| operator | versions | passed | failed | unsupported | excepted |\n| --- | --- | --- | --- | --- | --- |\n", group)
		slices.Sort(groups[group])
		for _, name := range groups[group] {
			c := counts[name]
			if c == nil {
				c = &Counts{}
			}
			fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d |\n", name, versions[name], c.Passed, c.Failed, c.Unsupported, c.Excepted)
		}
	}
	b.WriteString("\n## Every case that did not pass\n\n| case | outcome | reason |\n| --- | --- | --- |\n")
	for _, f := range slices.Concat(r.findings, more.findings) {
		outcome := map[Outcome]string{Passed: "excepted", Failed: "**failed**", Unsupported: "unsupported"}[f.outcome]
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f.name, outcome, strings.ReplaceAll(f.reason, "|", "\\|"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func rank(group string) int {
	for i, prefix := range []string{"Tier", "More", "Other", "Not"} {
		if strings.HasPrefix(group, prefix) {
			return i
		}
	}
	return -1
}
