// Package mpi has workers that mpirun or srun started: the ranks of
// MPI_COMM_WORLD, over an installed MPI 3 or later such as Open MPI or MPICH.
//
// It needs the build tag mpi and the compiler wrapper of that MPI, because Open
// MPI and MPICH have different types and constants, so that no binary serves
// both:
//
//	CGO_ENABLED=1 CC=mpicc go build -tags mpi ./cmd/moerun
//
// Without the tag, [Built] is false, and [World] returns an error that says so.
package mpi
