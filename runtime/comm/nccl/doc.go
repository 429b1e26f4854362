// Package nccl has workers that are processes with a GPU each, over NVIDIA's
// NCCL. It is behind the build tag fmoecuda; without it, [Built] is false and
// [World] returns an error that says so.
//
// Libnccl.so.2 is opened when the first communicator is. The processes find
// each other by the environment that torchrun sets, or Slurm and the user:
// package rendezvous tells which variables. LOCAL_RANK is the GPU.
//
// Buffers may be memory of the GPU, which NCCL reads and writes in place, or of
// the host, which is copied to the GPU and back. Sums are NCCL's own: those of
// two ranks have the same bits as those of other communicators; those of more
// are added in an order that NCCL chooses, the same in every run on the same
// machines with the same version and settings of NCCL. They have the same bits
// on all ranks.
package nccl
