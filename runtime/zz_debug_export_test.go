package runtime

import (
	"fmt"
	"strings"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func (s *Session) Listing() string { return s.main.listing("") }

func (p *program) listing(indent string) string {
	var b strings.Builder
	val := func(v int) string {
		if v == absent {
			return "-"
		}
		f := p.values[v].fact
		x := fmt.Sprintf("%s%v", p.values[v].name, f.Shape)
		if f.Value != nil {
			x = fmt.Sprintf("const%v", f.Shape)
			if f.Value.Len() <= 4 {
				y, _ := tensor.Float64s(f.Value)
				x += fmt.Sprint(y)
			}
		}
		return x
	}
	for _, n := range p.nodes {
		var in, out []string
		for _, v := range n.in {
			in = append(in, val(v))
		}
		for _, v := range n.out {
			out = append(out, val(v))
		}
		fmt.Fprintf(&b, "%s%s = %s(%s)\n", indent, strings.Join(out, ", "), n.op.OpType, strings.Join(in, ", "))
		for _, body := range n.bodies {
			b.WriteString(body.listing(indent + "    "))
		}
	}
	return b.String()
}
