//go:build !mpi

package mpi

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// Built says whether the program was built with MPI.
const Built = false

// World fails: the program was built without MPI.
func World(comm.Options) (comm.Communicator, error) {
	return nil, errors.New("this program was built without MPI; make mpi builds bin/moerun-mpi with it")
}
