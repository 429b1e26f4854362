package main

import (
	"cmp"
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/comm/mpi"
	"github.com/fmoe-go/fmoe/runtime/comm/nccl"
)

// workersFlags say which workers train together.
type workersFlags struct {
	workers  string
	parallel string
	schedule comm.Schedule
	nodes    bool
	timeout  time.Duration
}

func (f *workersFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.workers, "workers", "", "`number` of workers in this process, which divide batches and threads, or mpi or nccl (default: the processes that mpirun, srun or torchrun started, else 1)")
	flags.StringVar(&f.parallel, "parallel", "", "how workers share the work, as `data=2,expert=4,slice=1,tensor=1,pipeline=1` (default: data=WORKERS)")
	flags.BoolVar(&f.schedule.NoOverlap, "no-overlap", false, "let experts wait for all their tokens instead of computing some while others are under way")
	flags.BoolVar(&f.schedule.NoShadowing, "no-shadowing", false, "never send an expert's weights where that is sooner done than sending its tokens")
	flags.BoolVar(&f.nodes, "two-level", false, "send tokens through the workers of each machine, which exchange fewer, larger messages")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "`time` after which workers give up one that they wait for, such as 90s")
}

// launcher is a program that starts others as many processes.
type launcher struct {
	name string
	// Variables of the environment: the number of a process and how many there
	// are, and the same among those on one machine.
	rank, size, localRank, localSize string
}

// launchers are in the order in which they count: those of one start those of
// the next on each machine.
var launchers = []launcher{
	{"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"}, // of Open MPI
	{"mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},                                               // of MPICH and its kin
	{"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"},
	{torchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
}

// torchrun starts processes that know nothing of MPI.
const torchrun = "torchrun"

// process is this one among those that a launcher started.
type process struct {
	launcher             string // "" where there is none
	rank, size           int
	localRank, localSize int
}

// launched reads the environment.
func launched(variable func(string) string) process {
	number := func(name string) int {
		n, _ := strconv.Atoi(variable(name)) // not a number: not started by this launcher
		return n
	}
	for _, l := range launchers {
		if size := number(l.size); size > 0 && variable(l.rank) != "" {
			return process{l.name, number(l.rank), size, number(l.localRank), max(number(l.localSize), 1)}
		}
	}
	return process{size: 1, localSize: 1}
}

// openMPI starts MPI. Tests replace it.
var openMPI = mpi.World

// plan is what workersFlags come to: a number of workers in this process, or
// that it is one of many.
type plan struct {
	process process
	workers int  // 0 where they are processes
	nccl    bool // these exchange by NCCL, not MPI
	layout  comm.Layout
	// schedule is how they exchange tokens.
	schedule comm.Schedule
}

// plan decides, before anything is opened.
func (f *workersFlags) plan() (plan, error) {
	p := plan{process: launched(os.Getenv), schedule: f.schedule}
	if f.nodes {
		p.schedule.Node = p.process.localSize
	}
	many := p.process.size > 1
	if f.parallel != "" {
		l, err := comm.ParseLayout(f.parallel)
		if err != nil {
			return p, cli.Misusef("--parallel: %v", err)
		}
		p.layout = l
	}
	switch n, err := strconv.Atoi(f.workers); {
	case f.timeout <= 0:
		return p, cli.Misusef("--timeout %v must be more than 0", f.timeout)
	case f.workers == "" && !many:
		p.workers = 1
	case f.workers == "nccl" || f.workers == "" && p.process.launcher == torchrun:
		p.nccl = true
	case f.workers == "" && !mpi.Built:
		return p, fmt.Errorf("%s started %d processes, but this program was built without MPI; make mpi builds bin/moerun-mpi with it", p.process.launcher, p.process.size)
	case f.workers == "" || f.workers == "mpi":
	case err != nil || n < 1:
		return p, cli.Misusef("--workers %s must be 1 or more, mpi or nccl", f.workers)
	case many:
		return p, cli.Misusef("%s started %d processes, which are the workers: leave out --workers %d", p.process.launcher, p.process.size, n)
	default:
		p.workers = n
	}
	if l := p.layout; f.parallel != "" {
		if f.workers == "" && !many {
			p.workers = l.Size()
		}
		if n := max(p.workers, p.process.size); l.Size() != n {
			return p, cli.Misusef("--parallel %s is for %d workers, there are %d", f.parallel, l.Size(), n)
		}
	}
	return p, nil
}

// world returns the communicator of all processes, nil where the workers are in
// this one.
func (f *workersFlags) world(p plan) (comm.Communicator, error) {
	if p.workers > 0 {
		return nil, nil
	}
	if p.nccl {
		return nccl.World(comm.Options{Timeout: f.timeout})
	}
	c, err := openMPI(comm.Options{Timeout: f.timeout})
	if err != nil {
		return nil, err
	}
	if n := c.Size(); n < p.process.size {
		c.Abort(comm.ErrClosed)
		return nil, fmt.Errorf("rank %d: %s started %d processes, of which MPI knows %d; use the mpirun of the same MPI, or srun with --mpi=pmix or --mpi=pmi2", p.process.rank, p.process.launcher, p.process.size, n)
	}
	return c, nil
}

// threads returns how many threads a process is to have: its share of the
// machine, and no more than the processors that it was bound to.
func (p process) threads() int {
	bound := goruntime.GOMAXPROCS(0)
	return min(bound, max(cmp.Or(processors(), bound)/p.localSize, 1))
}

// processors returns how many the machine has, 0 where that is not known.
func processors() int {
	text, err := os.ReadFile("/sys/devices/system/cpu/online") // such as 0-3,8
	if err != nil {
		return 0
	}
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, second := strconv.Atoi(last)
		if err != nil || second != nil || to < from {
			return 0
		}
		n += to - from + 1
	}
	return n
}
