package data

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Pairs are arrays of features and labels, an example in each row.
type Pairs struct {
	features, labels *tensor.Tensor
	close            [2]func() error
}

// OpenPairs maps two .npy files: features [examples, …] of any element type,
// and labels [examples, …], integers, which become int64, or floats. In
// batches both have their own shape but for the number of rows.
func OpenPairs(features, labels string) (p *Pairs, err error) {
	p = &Pairs{}
	if p.features, p.close[0], err = mapNPY(features); err != nil {
		return nil, err
	}
	if p.labels, p.close[1], err = mapNPY(labels); err != nil {
		return nil, errors.Join(err, p.close[0]())
	}
	x, y := p.features, p.labels
	switch {
	case len(x.Shape) == 0 || len(y.Shape) == 0 || x.Shape[0] != y.Shape[0] || x.Shape[0] == 0:
		err = fmt.Errorf("%s is %s and %s is %s; needs one row for each example in both", features, x, labels, y)
	case !isInteger(y.Type) && !y.Type.IsFloat():
		err = fmt.Errorf("%s: labels are %s; needs integers or floats", labels, y)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close releases the files.
func (p *Pairs) Close() error { return errors.Join(p.close[0](), p.close[1]()) }

// Len implements [Examples].
func (p *Pairs) Len() int { return p.features.Shape[0] }

// NewBatch implements [Examples]. The features of padding are zeros.
func (p *Pairs) NewBatch(rows int) *Batch {
	shape := func(t *tensor.Tensor) []int { return append([]int{rows}, t.Shape[1:]...) }
	b := &Batch{Arrays: map[string]*tensor.Tensor{Features: tensor.New(p.features.Type, shape(p.features)...)}}
	if p.labels.Type.IsFloat() {
		b.Arrays[Labels] = tensor.New(p.labels.Type, shape(p.labels)...)
	} else {
		b.Arrays[Labels] = newLabels(shape(p.labels)...)
	}
	return b
}

// Fill implements [Examples].
func (p *Pairs) Fill(b *Batch, row, example int, _ Draw) error {
	copyRow(b.Arrays[Features], row, p.features, example)
	b.Tokens++
	n := tensor.Count(p.labels.Shape[1:])
	if p.labels.Type.IsFloat() {
		copyRow(b.Arrays[Labels], row, p.labels, example)
		b.Labels += n
		return nil
	}
	width := p.labels.Type.Bits() / 8
	labels := tensor.Of[int64](b.Arrays[Labels])[row*n:][:n]
	for i := range labels {
		labels[i] = int64(integer(p.labels.Data[(example*n+i)*width:], p.labels.Type))
		if labels[i] != Ignore {
			b.Labels++
		}
	}
	return nil
}

// copyRow copies row j of a tensor to row i of another.
func copyRow(to *tensor.Tensor, i int, from *tensor.Tensor, j int) {
	n := tensor.ByteSize(from.Type, tensor.Count(from.Shape[1:]))
	copy(to.Data[i*n:(i+1)*n], from.Data[j*n:])
}

// String implements [Examples].
func (p *Pairs) String() string {
	return fmt.Sprintf("pairs of %s and %s (checksums %08x, %08x)", p.features, p.labels, checksumBytes(p.features.Data), checksumBytes(p.labels.Data))
}
