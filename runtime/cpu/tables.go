package cpu

import (
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// outside is the entry of a table for a position that no source element has.
const outside = -1 << 62

// tableCopy copies to each position of the target the element whose place in
// the source is the sum of one entry of each axis's table. Where an entry is
// outside, the target keeps what it has.
type tableCopy struct {
	tables [][]int // for each axis of the target but those copied in runs
	length int     // of the runs
	rows   int     // runs to copy, taken by the last table's length
}

// newTableCopy prepares a copy from a source of the given shape. positions has
// for each axis the position in the source for every position in the target,
// or outside.
func newTableCopy(positions [][]int, source []int) *tableCopy {
	t := &tableCopy{length: 1, rows: 1}
	last := len(positions) - 1
	for last >= 0 && isWhole(positions[last], source[last]) {
		t.length *= source[last]
		last--
	}
	strides := stridesOf(source)
	for i, list := range positions[:last+1] {
		table := make([]int, len(list))
		for j, p := range list {
			if table[j] = outside; p != outside {
				table[j] = p * strides[i]
			}
		}
		t.tables = append(t.tables, table)
	}
	if len(t.tables) == 0 {
		t.tables = [][]int{{0}}
	}
	for _, table := range t.tables[:len(t.tables)-1] {
		t.rows *= len(table)
	}
	return t
}

// isWhole reports whether positions are 0 … length−1.
func isWhole(positions []int, length int) bool {
	for i, p := range positions {
		if p != i {
			return false
		}
	}
	return len(positions) == length
}

func (m moverOf[T]) looked(to, from *tensor.Tensor, t *tableCopy, lo, hi int) {
	y, x := m.view(to), m.view(from)
	columns := t.tables[len(t.tables)-1]
	for row := lo; row < hi; row++ {
		start, i := 0, row
		for j := len(t.tables) - 2; j >= 0; j-- {
			table := t.tables[j]
			start = max(start+table[i%len(table)], outside)
			i /= len(table)
		}
		if start < 0 {
			continue
		}
		line := y[row*len(columns)*t.length:][:len(columns)*t.length]
		for c, place := range columns {
			switch {
			case place == outside:
			case t.length == 1:
				line[c] = x[start+place]
			default:
				copy(line[c*t.length:(c+1)*t.length], x[start+place:])
			}
		}
	}
}

// bindLookup returns a function that does a copy by tables from input 0 to
// output 0.
func (d *Device) bindLookup(c *device.Call, t *tableCopy) (func() error, error) {
	m, err := moverFor(c.Out[0].Type)
	if err != nil {
		return nil, err
	}
	rows := t.rows
	if c.Out[0].Len() == 0 {
		rows = 0
	}
	worth := grain(len(t.tables[len(t.tables)-1]) * t.length)
	body := func(lo, hi int) { m.looked(c.Out[0], c.In[0], t, lo, hi) }
	return func() error {
		d.pool.run(rows, worth, body)
		return nil
	}, nil
}
