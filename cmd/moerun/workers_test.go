package main

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/comm/mpi"
)

func TestLaunched(t *testing.T) {
	none := process{size: 1, localSize: 1}
	for _, c := range []struct {
		environment string
		want        process
	}{
		{"", none},
		{"OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=4", process{"mpirun", 3, 8, 1, 4}},
		{"PMI_RANK=1 PMI_SIZE=2 MPI_LOCALNRANKS=2", process{"mpirun", 1, 2, 0, 2}},
		{"PMI_RANK=1 PMI_SIZE=2", process{"mpirun", 1, 2, 0, 1}},
		{"SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=16 SLURM_NTASKS_PER_NODE=8", process{"srun", 5, 16, 0, 8}},
		{"SLURM_PROCID=0 SLURM_NTASKS=16", none}, // a batch script
		{"SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 OMPI_COMM_WORLD_RANK=6 OMPI_COMM_WORLD_SIZE=8", process{"mpirun", 6, 8, 0, 1}},
		{"OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=many", none},
		{"RANK=2 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2", process{"torchrun", 2, 4, 0, 2}},
	} {
		got := launched(func(name string) string {
			for _, v := range strings.Fields(c.environment) {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		})
		if got != c.want {
			t.Errorf("%q: got %+v, want %+v", c.environment, got, c.want)
		}
	}
}

func TestWorkersFlags(t *testing.T) {
	for _, c := range []struct {
		flags []string
		size  string
		want  string
		code  int
	}{
		{flags: []string{"--workers", "0"}, want: "must be 1 or more, mpi or nccl", code: cli.Misuse},
		{flags: []string{"--workers", "many"}, want: "must be 1 or more, mpi or nccl", code: cli.Misuse},
		{flags: []string{"--timeout", "0s"}, want: "--timeout 0s must be more than 0", code: cli.Misuse},
		{flags: []string{"--workers", "2"}, size: "4", want: "mpirun started 4 processes, which are the workers: leave out --workers 2", code: cli.Misuse},
		{flags: []string{"--parameters"}, size: "1", code: cli.Success},
		{size: "4", want: "mpirun started 4 processes, but this program was built without MPI; make mpi builds", code: cli.Failure},
	} {
		if c.code == cli.Failure && mpi.Built {
			continue
		}
		t.Setenv("OMPI_COMM_WORLD_RANK", "0")
		t.Setenv("OMPI_COMM_WORLD_SIZE", c.size)
		code, _, stderr := execute(t, append([]string{"train", gpt}, c.flags...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%q of %q processes: exit code %d, stderr %q, want %d and %q", c.flags, c.size, code, stderr, c.code, c.want)
		}
	}
}
