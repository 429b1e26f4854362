//go:build !mpi

package mpi

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// World fails: the program was built without MPI.
func World(comm.Options) (comm.Communicator, error) {
	return nil, errors.New("this program was built without MPI; build it with CGO_ENABLED=1 CC=mpicc and -tags mpi")
}
