package comm

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Layout is how the workers of a training run share the work: the number of
// workers along each dimension, whose product is the number of all. The rank of
// a worker counts through them, Tensor fastest and Pipeline slowest.
//
// Workers that differ along Data or Expert have different tokens. Those that
// differ along Slice or Tensor have the same ones.
type Layout struct {
	Data     int `yaml:"data" json:"data"`         // that have all experts between them
	Expert   int `yaml:"expert" json:"expert"`     // that share the experts of each layer
	Slice    int `yaml:"slice" json:"slice"`       // that share the tokens within mixtures of experts
	Tensor   int `yaml:"tensor" json:"tensor"`     // that share the hidden width of each expert
	Pipeline int `yaml:"pipeline" json:"pipeline"` // that share the layers
}

// dimensions are those of a layout from the slowest to the fastest.
var dimensions = []string{"pipeline", "data", "expert", "slice", "tensor"}

// sizes returns where the sizes of the dimensions are.
func (l *Layout) sizes() []*int { return []*int{&l.Pipeline, &l.Data, &l.Expert, &l.Slice, &l.Tensor} }

// ParseLayout reads a layout such as "data=2,expert=4". Dimensions that it
// does not name have one worker. It fails where a name is not known or is there
// twice, and where a number is not positive.
func ParseLayout(s string) (Layout, error) {
	var l Layout
	if s == "" {
		return l.whole(), nil
	}
	for _, setting := range strings.Split(s, ",") {
		name, value, _ := strings.Cut(setting, "=")
		i := slices.Index(dimensions, strings.TrimSpace(name))
		if i < 0 {
			return l, fmt.Errorf("layout %q: %q is not known; there are data, expert, slice, tensor and pipeline", s, name)
		}
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil || n < 1 || n > 1<<20 {
			return l, fmt.Errorf("layout %q: %s=%s must be a number from 1 to %d", s, name, value, 1<<20)
		}
		if *l.sizes()[i] != 0 {
			return l, fmt.Errorf("layout %q: %s is there twice", s, name)
		}
		*l.sizes()[i] = n
	}
	return l.whole(), nil
}

// whole returns the layout with 1 in place of 0.
func (l Layout) whole() Layout {
	for _, n := range l.sizes() {
		*n = max(*n, 1)
	}
	return l
}

// Size returns the number of all workers.
func (l Layout) Size() int {
	size := 1
	for _, n := range l.sizes() {
		size *= max(*n, 1)
	}
	return size
}

// String returns the layout as [ParseLayout] reads it, without dimensions of
// one worker.
func (l Layout) String() string {
	var list []string
	for _, name := range []string{"data", "expert", "slice", "tensor", "pipeline"} {
		if n := *l.sizes()[slices.Index(dimensions, name)]; n > 1 {
			list = append(list, fmt.Sprintf("%s=%d", name, n))
		}
	}
	return strings.Join(list, ",")
}

// Limit returns the layout for layers of that many experts: where more workers
// would share them, groups of workers have copies instead. It fails where the
// number of experts does not divide that of workers.
func (l Layout) Limit(experts int) (Layout, error) {
	l = l.whole()
	if l.Expert <= experts || experts < 1 {
		return l, nil
	}
	if l.Expert%experts != 0 {
		return l, fmt.Errorf("expert=%d workers cannot share %d experts; use at most %d, or a multiple of it", l.Expert, experts, experts)
	}
	l.Data *= l.Expert / experts
	l.Expert = experts
	return l, nil
}

// at returns the place of a rank along each of the dimensions.
func (l Layout) at(rank int) []int {
	sizes := l.sizes()
	place := make([]int, len(sizes))
	for i := len(sizes) - 1; i >= 0; i-- {
		place[i] = rank % *sizes[i]
		rank /= *sizes[i]
	}
	return place
}

// Groups are the groups that a worker is in under a layout. Each has at least
// the worker itself.
type Groups struct {
	Layout
	Schedule
	World    Communicator // all workers
	Stage    Communicator // all of a pipeline's stage
	Tokens   Communicator // along Data and Expert: they have different tokens, in the order of a batch
	Replicas Communicator // along Data and Slice: they have the same experts
	Owners   Communicator // along Expert and Tensor: they have all experts of a stage once

	Data, Expert, Slice, Tensor, Pipeline Communicator // along one dimension
}

// Schedule is how workers that share experts exchange rows. Results are the
// same.
type Schedule struct {
	// NoOverlap lets experts wait until all their rows have come.
	NoOverlap bool
	// NoShadowing lets rows travel to their experts however many they are, where
	// otherwise an expert's weights may travel.
	NoShadowing bool
	// Node is the number of consecutive workers that are a node. Where there are
	// more than one of both, rows go through nodes; see [TwoLevel].
	Node int
}

// Use lets the groups have a schedule. It is a collective call.
func (g *Groups) Use(ctx context.Context, s Schedule) (err error) {
	g.Schedule = s
	if s.Node > 1 {
		g.Expert, err = TwoLevel(ctx, g.Expert, g.World.Rank()/s.Node)
	}
	return err
}

// NewGroups divides the world, which must be as large as the layout. It is a
// collective call.
func NewGroups(ctx context.Context, world Communicator, l Layout) (*Groups, error) {
	l = l.whole()
	if l.Size() != world.Size() {
		return nil, fmt.Errorf("the layout %s is for %d workers, there are %d", l, l.Size(), world.Size())
	}
	g := &Groups{Layout: l, World: world}
	place := l.at(world.Rank())
	sizes := l.sizes()
	for _, s := range []struct {
		group *Communicator
		along []string
	}{
		{&g.Stage, []string{"data", "expert", "slice", "tensor"}},
		{&g.Tokens, []string{"data", "expert"}},
		{&g.Replicas, []string{"data", "slice"}},
		{&g.Owners, []string{"expert", "tensor"}},
		{&g.Data, []string{"data"}},
		{&g.Expert, []string{"expert"}},
		{&g.Slice, []string{"slice"}},
		{&g.Tensor, []string{"tensor"}},
		{&g.Pipeline, []string{"pipeline"}},
	} {
		color := 0 // that of the workers at the same place along all other dimensions
		for i, name := range dimensions {
			if !slices.Contains(s.along, name) {
				color = color**sizes[i] + place[i]
			}
		}
		var err error
		if *s.group, err = world.Split(ctx, color, world.Rank()); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Alone reports whether there is one worker.
func (g *Groups) Alone() bool { return g == nil || g.World.Size() == 1 }

// Share returns the part lo … hi−1 of n things that is one worker's of size.
// The first n % size workers have one more than the others.
func Share(n, size, rank int) (lo, hi int) {
	each, more := n/size, n%size
	lo = rank*each + min(rank, more)
	hi = lo + each
	if rank < more {
		hi++
	}
	return lo, hi
}
