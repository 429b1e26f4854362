package fmoefy

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// eachOf calls do for 0 … n−1, as many at a time as there are processors.
func eachOf(n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	all.Wait()
}

// eachShare calls do for parts of 0 … n−1, on all processors.
func eachShare(n, share int, do func(lo, hi int)) {
	eachOf((n+share-1)/share, func(i int) { do(i*share, min((i+1)*share, n)) })
}
