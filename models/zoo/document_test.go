package zoo_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "measure the zoo and write its table into docs/zoo.md")

const (
	document = "../../docs/zoo.md"

	// The table stands between these lines of the document.
	tableBegin = "<!-- written by make zoo -->\n"
	tableEnd   = "<!-- end -->\n"
)

// docs/zoo.md has a row for each file, and says what zoo.json says of it. With
// -update the table is measured and written.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(data), tableBegin)
	written, after, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		t.Fatalf("%s lacks the lines %q and %q", document, tableBegin, tableEnd)
	}
	if *update {
		text := before + tableBegin + table(t) + tableEnd + after
		if err := os.WriteFile(document, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	rows := strings.Split(written, "\n")
	for _, f := range readListing(t) {
		found := false
		for _, row := range rows {
			found = found || strings.HasPrefix(row, f.columns())
		}
		if !found {
			t.Errorf("%s has no row %q; make zoo writes it", document, f.columns())
		}
	}
}

// columns are those that zoo.json gives.
func (f *file) columns() string {
	expected := 0
	for _, b := range f.Blocks {
		expected += b.Count
	}
	return fmt.Sprintf("| %s | %s | %s, opset %d | %s | %s | %d |",
		f.Name, f.Family, f.Exporter, f.Opset, f.Type, cmp.Or(f.Variant, "–"), expected)
}

// table measures every file and returns a table with a summary above it.
func table(t *testing.T) string {
	var rows bytes.Buffer
	families := map[string]bool{}
	files, blocks, found, missed, wrong := 0, 0, 0, 0, 0
	worst := map[string]*measurement{} // by type: the largest differences of it
	var types []string
	for _, f := range readListing(t) {
		m, err := measure(f, t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			fmt.Fprintf(&rows, "%s fails: %v |\n", f.columns(), err)
			continue
		}
		for _, problem := range m.problems() {
			t.Errorf("%s: %s", f.Name, problem)
		}
		rewritten := "–"
		if m.Found > 0 {
			rewritten = fmt.Sprintf("%.1e", m.FromOriginal)
		}
		fmt.Fprintf(&rows, "%s %d | %d | %d | %d | %.1e | %s |\n", f.columns(),
			m.Found, len(m.Missed), len(m.False), m.Left, m.FromReference, rewritten)
		families[f.Family] = true
		files, blocks, found = files+1, blocks+m.Expected, found+m.Found
		missed, wrong = missed+len(m.Missed), wrong+len(m.False)
		if worst[f.Type] == nil {
			worst[f.Type] = &measurement{}
			types = append(types, f.Type)
		}
		w := worst[f.Type]
		w.FromReference = max(w.FromReference, m.FromReference)
		w.FromOriginal = max(w.FromOriginal, m.FromOriginal)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "\n%d files of %d families with %d MLP blocks: %d found, %d missed, %d false.\n\n",
		files, len(families), blocks, found, missed, wrong)
	text.WriteString("| type | largest difference from ONNX Runtime | largest difference of the rewritten model | limits |\n| --- | --- | --- | --- |\n")
	for _, name := range types {
		fmt.Fprintf(&text, "| %s | %.1e | %.1e | %.0e, %.0e |\n", name,
			worst[name].FromReference, worst[name].FromOriginal, limitsOf[name].reference, limitsOf[name].rewritten)
	}
	text.WriteString("\n| file | family | exporter | type | variant | blocks | found | missed | false | left | from ONNX Runtime | rewritten |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	text.Write(rows.Bytes())
	text.WriteString("\n")
	return text.String()
}
