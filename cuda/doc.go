// Package cuda is the device for NVIDIA's GPUs, behind the build tag fmoecuda;
// make cuda builds with it. Without the tag there is a stand-in
// with the same functions, which say so.
package cuda

// Name is the name under which the device registers.
const Name = "cuda"
