//go:build !fmoecuda

package nccl

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// Built says whether the program was built with CUDA.
const Built = false

// World fails: the program was built without CUDA.
func World(comm.Options) (comm.Communicator, error) {
	return nil, errors.New("this program was built without CUDA; make cuda builds bin/moerun with it")
}
