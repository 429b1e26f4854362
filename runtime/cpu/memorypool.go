package cpu

import (
	"sync"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// memoryPool lends memory whose size is known only while a kernel runs, which
// is that of rows that other workers send. It keeps what it gets back.
type memoryPool struct {
	mu   sync.Mutex
	free [][]byte
}

// lay lends memory for what a function places in it.
func (p *memoryPool) lay(place func(*scratchParts)) []byte {
	var parts scratchParts
	place(&parts)
	b := p.take(parts.used)
	place(&scratchParts{memory: b})
	return b
}

// take lends at least n bytes, with any content.
func (p *memoryPool) take(n int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	best, largest := -1, -1
	for i, b := range p.free {
		if len(b) >= n && (best < 0 || len(b) < len(p.free[best])) {
			best = i
		}
		if largest < 0 || len(b) > len(p.free[largest]) {
			largest = i
		}
	}
	remove := func(i int) []byte {
		b := p.free[i]
		last := len(p.free) - 1
		p.free[i], p.free[last] = p.free[last], nil
		p.free = p.free[:last]
		return b
	}
	if best >= 0 {
		return remove(best)
	}
	if largest >= 0 {
		remove(largest) // the new one takes its place
	}
	return tensor.AlignedBytes(roundUp(n+n/8+1, 64))
}

// give returns what take lent; nil is allowed.
func (p *memoryPool) give(b []byte) {
	if b == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, b)
}

// keptRows is what nodes keep for their gradients, by the name of a value that
// joins the two.
type keptRows struct {
	mu   sync.Mutex
	rows map[string]keptEntry
}

type keptEntry struct {
	memory []byte
	rows   any
}

// put keeps rows in memory of the pool. Earlier ones that nobody took go back
// to it.
func (k *keptRows) put(pool *memoryPool, name string, memory []byte, rows any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rows == nil {
		k.rows = map[string]keptEntry{}
	}
	pool.give(k.rows[name].memory)
	k.rows[name] = keptEntry{memory, rows}
}

// take returns the rows that were put last, nil if there are none.
func (k *keptRows) take(name string) any {
	k.mu.Lock()
	defer k.mu.Unlock()
	rows := k.rows[name].rows
	delete(k.rows, name)
	return rows
}
