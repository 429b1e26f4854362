//go:build mpi

package mpi_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/comm/commtest"
	"github.com/fmoe-go/fmoe/runtime/comm/mpi"
)

// caseVariable makes this program a rank, which runs the named case or, when it
// is "all", those that are not final.
const caseVariable = "FMOE_MPI_CASE"

// killed is "all" with a rank whose process ends at once.
const killed = "killed"

func TestMain(m *testing.M) {
	name := os.Getenv(caseVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := rank(name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("passed")
}

func rank(name string) error {
	cases := slices.DeleteFunc(commtest.Cases(), func(c commtest.Case) bool {
		return c.Name != name && (name != "all" && name != killed || c.Final)
	})
	limit := cases[0].Timeout
	if limit == 0 {
		limit = time.Minute
	}
	c, err := mpi.World(comm.Options{Timeout: limit})
	if err != nil {
		return err
	}
	if name == killed && c.Rank() == c.Size()-1 {
		os.Exit(3)
	}
	for _, test := range cases {
		if err := test.Run(context.Background(), c); err != nil {
			return fmt.Errorf("%s: %w", test.Name, err)
		}
	}
	return c.Close()
}

// launch runs this program as n ranks, and returns what they print.
func launch(t *testing.T, n int, name string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "mpirun", "-n", fmt.Sprint(n), os.Args[0])
	// Open MPI's words for: more ranks than cores, and as root.
	c.Env = append(os.Environ(), caseVariable+"="+name, "OMPI_MCA_rmaps_base_oversubscribe=1", "OMPI_ALLOW_RUN_AS_ROOT=1",
		"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
	out, err := c.CombinedOutput()
	return string(out), err
}

func TestConformance(t *testing.T) {
	if _, err := exec.LookPath("mpirun"); err != nil {
		t.Skip("no mpirun: install Open MPI or MPICH")
	}
	names := []string{"all"}
	for _, c := range commtest.Cases() {
		if c.Final {
			names = append(names, c.Name)
		}
	}
	for _, n := range []int{1, 2, 3} {
		for _, name := range names {
			t.Run(fmt.Sprintf("%d/%s", n, name), func(t *testing.T) {
				out, err := launch(t, n, name)
				if err != nil || strings.Count(out, "passed") != n {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// The launcher ends the others.
func TestKilledRank(t *testing.T) {
	if _, err := exec.LookPath("mpirun"); err != nil {
		t.Skip("no mpirun: install Open MPI or MPICH")
	}
	if out, err := launch(t, 3, killed); err == nil || strings.Contains(out, "passed") {
		t.Errorf("%v\n%s", err, out)
	}
}
